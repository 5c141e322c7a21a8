"""Templates as they were compiled, kept where Python keeps what it compiles: in a `__pycache__` beside the sources.

Compiling the worklist's takes longer than most of what a run with nothing to do computes. Whoever may write there may
change the sources as well; where nobody may, as in an installation of root's, each process compiles anew.
"""

from __future__ import annotations

import marshal
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import CodeType

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

from cxrbatch import __version__

FOLDER = Path(__file__).parent / "__pycache__"


class CompiledTemplates(BytecodeCache):
    """Reads and keeps compiled templates; what cannot be read or kept is compiled again."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def load_bytecode(self, bucket: Bucket) -> None:
        """Read a template that was compiled of this very source, by these versions."""
        with suppress(OSError, ValueError, EOFError, TypeError):
            head, _, code = self._path(bucket).read_bytes().partition(b"\n")
            if head == _head(bucket):
                compiled = marshal.loads(code)  # noqa: S302  # as trustworthy as the source that lies beside it
                bucket.code = compiled if isinstance(compiled, CodeType) else None

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep a template for the next process, unless Python is to keep nothing either."""
        if os.environ.get("PYTHONDONTWRITEBYTECODE") or bucket.code is None:
            return
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            half = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_head(bucket) + b"\n" + marshal.dumps(bucket.code))
                # Readable for whoever may read the sources: the next process may be somebody else's.
                half.chmod(0o644)
                half.replace(self._path(bucket))  # whole or not at all: other processes read and write it, too
            except BaseException:
                half.unlink()
                raise

    def _path(self, bucket: Bucket) -> Path:
        return self._folder / f"template-{bucket.key}.{sys.implementation.cache_tag}.bin"


def _head(bucket: Bucket) -> bytes:
    """Return what the file begins with: a hash of the source, and the versions that decide what is made of it."""
    return f"{bucket.checksum} {sys.hexversion} {jinja2.__version__} {__version__}".encode()
