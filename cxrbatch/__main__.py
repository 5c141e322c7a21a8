"""`python -m cxrbatch` is `cxrbatch`."""

from cxrbatch.cli import main

if __name__ == "__main__":
    main()
