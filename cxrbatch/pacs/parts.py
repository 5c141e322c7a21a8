"""The parts of a multipart answer (RFC 2046 5.1, PS3.18 8.6.1), each written to a file as it comes.

A part counts once the delimiter behind it has come, or where the answer is as long as it said it would be: if a line
breaks off, nothing else tells half an object from a whole one. No part is held in memory whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import requests

_BLOCK = 1 << 18
# Of the lines before a part, and of what may stand before the first one.
_MOST_LEAD_BYTES = 1 << 16
_DICOM, _MULTIPART = "application/dicom", "multipart/related"


class BrokenOff(Exception):
    """An answer ended before its last part did."""


class NoParts(Exception):
    """An answer is something else."""


def received_parts(answer: requests.Response, folder: Path) -> Iterator[Path]:
    """Yield each part as a file, which is whole; it is gone when the next one is asked for, unless it was moved.

    Args:
        answer: its body has not been read (`stream=True`).
        folder: where files are written.

    Raises:
        BrokenOff: it ended too early.
        NoParts: it is neither multipart/related nor a DICOM file.
        OSError: a part cannot be written; requests' own errors are of this kind, too.
    """
    said = Message()
    said["Content-Type"] = answer.headers.get("Content-Type", "")
    kind, boundary = said.get_content_type(), said.get_param("boundary")
    body = _Body(answer)
    if kind == _DICOM or (kind == _MULTIPART and boundary is None):  # some name no boundary, and send a file as it is
        yield from _written(folder, body.copy)
    elif kind == _MULTIPART and isinstance(boundary, str) and boundary and boundary.isascii():
        parts = _Parts(body, b"--" + boundary.encode())
        while parts.begin():
            yield from _written(folder, parts.copy)
    else:
        raise NoParts


def _written(folder: Path, copy: Callable[[BinaryIO], None]) -> Iterator[Path]:
    path = folder / f"web-{uuid4().hex[:16]}.dcm"
    try:
        with path.open("xb") as stream:
            copy(stream)
        yield path
    finally:
        path.unlink(missing_ok=True)


class _Body:
    """What has come of an answer and was not taken yet, in `come`."""

    def __init__(self, answer: requests.Response) -> None:
        self.come = bytearray()
        self._headers, self._blocks, self._number = answer.headers, answer.iter_content(_BLOCK), 0

    def more(self) -> bool:
        """Wait for more; return whether there was any."""
        block = next(self._blocks, b"")
        self._number += len(block)
        self.come += block
        return bool(block)

    @property
    def is_as_long_as_it_said(self) -> bool:
        """Tell whether what ended did so where it was to end (RFC 9112 6.3); where nothing says that, it did not."""
        if self._headers.get("Transfer-Encoding", "").lower().endswith("chunked"):
            return True  # or an error would have been raised
        is_plain = self._headers.get("Content-Encoding", "identity").lower() == "identity"
        return is_plain and self._headers.get("Content-Length", "") == str(self._number)

    def copy(self, stream: BinaryIO) -> None:
        """Write all there is."""
        while self.more():
            stream.write(self.come)
            self.come.clear()
        if not self.is_as_long_as_it_said:
            raise BrokenOff


class _Parts:
    """The parts of a body: `begin` goes to the next one, `copy` writes it."""

    def __init__(self, body: _Body, mark: bytes) -> None:
        self._body, self._mark = body, mark
        self._delimiter = b""
        self._is_over = False

    def begin(self) -> bool:
        """Go to where the next part's content begins; False where there is none."""
        if not self._delimiter:
            self._skip_preamble()
        if self._is_over or self._ends_here():
            return False
        # The standard says CR LF; not everybody does.
        self._delimiter = (b"\r\n" if self._line().endswith(b"\r\n") else b"\n") + self._mark
        while self._line().strip():
            pass
        return True

    def copy(self, stream: BinaryIO) -> None:
        """Write the part that was begun."""
        come, kept = self._body.come, len(self._delimiter) - 1
        while (at := come.find(self._delimiter)) < 0:
            _move(come, max(len(come) - kept, 0), stream)
            if not self._body.more():
                if not self._body.is_as_long_as_it_said:
                    raise BrokenOff
                _move(come, len(come), stream)
                self._is_over = True
                return
        _move(come, at, stream)
        del come[: len(self._delimiter)]

    def _skip_preamble(self) -> None:
        come = self._body.come
        come += b"\n"  # as if a line had ended before the first one
        while (at := come.find(b"\n" + self._mark)) < 0:
            if len(come) > _MOST_LEAD_BYTES:
                raise NoParts
            if not self._body.more():
                raise BrokenOff
        del come[: at + 1 + len(self._mark)]

    def _ends_here(self) -> bool:
        """Tell whether the delimiter was the last one."""
        while len(self._body.come) < len(b"--"):
            if not self._body.more():
                raise BrokenOff
        return self._body.come.startswith(b"--")

    def _line(self) -> bytes:
        come = self._body.come
        while (at := come.find(b"\n")) < 0:
            if len(come) > _MOST_LEAD_BYTES:
                raise NoParts
            if not self._body.more():
                raise BrokenOff
        line = bytes(come[: at + 1])
        del come[: at + 1]
        return line


def _move(come: bytearray, number: int, stream: BinaryIO) -> None:
    stream.write(come[:number])
    del come[:number]
