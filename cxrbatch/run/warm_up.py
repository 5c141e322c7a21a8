"""What a worker process loads as it starts, so that no task waits for it, and the main process does not load at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# With these pydicom can fetch examples from the web, and loading them is 40 % of what loading pydicom costs.
_WEB_CLIENT = ("requests", "tqdm")


def warm_up(*, pdf: bool, pictures: bool = True) -> None:
    """Load what reading and printing need, down to fonts and style sheets; runs in a worker as it starts.

    The PDF comes last: where its libraries are missing, all the others are loaded by then.
    """
    with _without_web_client():
        import cxrbatch.intake.anatomy
        import cxrbatch.intake.discover
        import cxrbatch.intake.preprocess
        import cxrbatch.intake.read
        import cxrbatch.run.headers
        import cxrbatch.run.read  # noqa: F401

    if not pictures:
        return
    from cxrbatch.output.report.report import PRINT_STYLES

    if pdf:
        from cxrbatch.output.report.pdf import PictureFetcher, render_pdf

        render_pdf("<p>cxrbatch</p>", PictureFetcher({}), styles=PRINT_STYLES)


@contextmanager
def _without_web_client() -> Iterator[None]:
    """Let those modules count as not installed."""
    hidden = [name for name in _WEB_CLIENT if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: the import system's word for "refuse it"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
