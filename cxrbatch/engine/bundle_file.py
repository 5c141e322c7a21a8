"""Reading the files of a bundle, which anybody may have put there: bytes or an error, never a hang."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from cxrbatch.errors import EngineError

LARGEST_MANIFEST = 16 * 2**20
LARGEST_FILE = 8 * 2**30
_BLOCK = 2**20


def read_file(path: Path, *, largest: int = LARGEST_FILE) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: not there, not readable, no regular file (a pipe would be waited for), or larger than `largest`.
    """
    with _opened(path, largest) as stream:
        content = stream.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, _too_large(largest), str(path))
    return content


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits.

    Raises:
        OSError: as `read_file`.
    """
    # hashlib.file_digest needs Python 3.11; 1 MiB blocks keep the interpreter out of the way.
    digest = hashlib.sha256()
    with _opened(path, LARGEST_FILE) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path, largest: int) -> Iterator[BinaryIO]:
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > largest:
            raise OSError(errno.EFBIG, _too_large(largest), str(path))
        yield stream


def _too_large(largest: int) -> str:
    return f"larger than {largest // 2**20} MiB"


def require_schema(path: Path, schema: int, known: int) -> None:
    """Make sure that this version of cxrbatch can read what the file says.

    Raises:
        EngineError: a newer one wrote it.
    """
    if schema > known:
        raise EngineError(f"{path}: written by a newer cxrbatch (schema {schema}, this one reads {known}). Upgrade.")
