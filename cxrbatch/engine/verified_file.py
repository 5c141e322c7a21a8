"""A file of an engine that was verified, and that a library may open by a path without its being swapped in between.

Giving a library the bytes instead costs a copy of them for as long as it loads, and of its own working memory another:
for the weights of a ResNet50 150 MB and a tenth of a second, on a machine that is short of memory a whole one.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple, overload

from cxrbatch.engine.untrusted import opened, sha256_of_stream
from cxrbatch.errors import EngineError

_OPEN_FILES = Path("/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd")
# A file system notes changes by a clock that ticks every few milliseconds, a server's may be another one's clock.
_TELLING_S = 2.0


# What is read at once of what is only looked through.
_HELD_BYTES = 2**20


class FileBytes:
    """Some bytes of an open file, read where they are looked at: an int for a byte, a slice for a part.

    Not mapped into memory: where a file is cut short, looking at its mapping ends the process.
    """

    def __init__(self, number: int, start: int, end: int) -> None:
        self._number, self._start, self._end = number, start, end

    def __len__(self) -> int:
        return self._end - self._start

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice[int, int, None]) -> memoryview | FileBytes: ...
    def __getitem__(self, place: int | slice[int, int, None]) -> int | memoryview | FileBytes:
        if isinstance(place, int):
            return self._read(self._start + place, 1)[0]
        start, end, _ = place.indices(len(self))
        if end - start > _HELD_BYTES:
            return FileBytes(self._number, self._start + start, self._start + end)
        return memoryview(self._read(self._start + start, max(0, end - start)))

    def _read(self, start: int, length: int) -> bytes:
        content = os.pread(self._number, length, start)
        if len(content) < length:
            raise OSError(errno.EIO, "it was cut short meanwhile")
        return content


class _State(NamedTuple):
    """What tells that a file was written to: its size and when it was modified; and when anything of it changed."""

    written: tuple[int, int]
    changed_ns: int


class VerifiedFile:
    """An open file whose bytes were hashed: `check` tells whether they are still the same."""

    def __init__(self, path: Path) -> None:
        """Open and hash a file.

        Raises:
            OSError: it cannot be opened or read.
        """
        self._named = path
        with ExitStack() as stack:
            self._stream: BinaryIO = stack.enter_context(opened(path))
            self._as_hashed = self._state()
            self._was_changed_just_now = abs(time.time() - os.fstat(self.number).st_ctime) < _TELLING_S
            self.sha256 = sha256_of_stream(self._stream)
            self._held = stack.pop_all()

    def __enter__(self) -> VerifiedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def number(self) -> int:
        """Its file descriptor."""
        return self._stream.fileno()

    @property
    def path(self) -> Path:
        """A path to the very file that was opened, whatever lies in its place by now; until `close`."""
        return _OPEN_FILES / str(self.number)

    @property
    def content(self) -> FileBytes:
        """Its bytes, read where they are looked at."""
        return FileBytes(self.number, 0, self._as_hashed.written[0])

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            EngineError: they are no longer those that were hashed.
            OSError: it cannot be read.
        """
        self._stream.seek(0)
        content = self._stream.read()
        self.check()
        return content

    def check(self) -> None:
        """See that nobody wrote into it since it was hashed: only then is what was made of it to be trusted.

        Raises:
            EngineError: somebody did, or it cannot be read any more.
        """
        try:
            now = self._state()
            is_same = now.written == self._as_hashed.written
            # A link more or less, as where another file takes its place, changes the time of its state, too.
            if is_same and (now != self._as_hashed or self._was_changed_just_now):
                is_same = sha256_of_stream(self._stream) == self.sha256
        except OSError as error:
            raise EngineError(f"{self._named}: cannot be read: {error.strerror}") from error
        if not is_same:
            raise EngineError(f"{self._named}: changed while it was loaded. Start again when nobody writes to it.")

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self._held.close()

    def _state(self) -> _State:
        status = os.fstat(self.number)
        return _State((status.st_size, status.st_mtime_ns), status.st_ctime_ns)
