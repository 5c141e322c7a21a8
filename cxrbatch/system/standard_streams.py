"""Standard output and error that outlast their reader: a full disk, a closed terminal, a pipe that nobody empties.

What a command prints is either its product, as with `status --json`: then it waits for its reader, and what could not
be printed makes the exit code say so. Or it only tells of work whose results lie in a folder, as with `run`: then
nothing that happens to a terminal or to a log collector may hold the work up, end it or change its exit code, and what
nobody takes is dropped. Start reading at `take_over`.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TextIO

from cxrbatch.errors import ExitCode

STDIN, STDOUT, STDERR = 0, 1, 2
# So much may wait for a reader: rich writes a table at once, so these are some hundred kilobytes.
_WAITING_CHUNKS = 1000
# At the end of the work, readers that are slow have so long to take what is left.
LAST_WORDS_S = 2.0
_LOOK_AGAIN_S = 1.0
_NOT_COMING_BACK = frozenset({errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET, errno.ESTALE})


class LastingStream(io.RawIOBase):
    """Writes to one descriptor and never raises an OSError: `failure` keeps the first one.

    It waits for its reader until `hurry` was called; from then on a thread of its own does.
    """

    def __init__(self, descriptor: int, failure: OSError | None = None) -> None:
        super().__init__()
        self.failure = failure
        self._descriptor, self._real = descriptor, os.dup(descriptor)
        self._is_gone = failure is not None
        self._waiting: SimpleQueue[bytes | threading.Event] | None = None
        self._nowhere, self._is_diverted = -1, False
        self._dropped = 0

    def writable(self) -> bool:
        """Tell that it can be written; only what comes of it is uncertain."""
        return True

    def isatty(self) -> bool:
        """Tell whether a person sits there."""
        return os.isatty(self._real)

    def fileno(self) -> int:
        """Return the descriptor by its usual number."""
        return self._descriptor

    def write(self, data: object) -> int:
        """Write all of `data`, or drop what cannot be written."""
        content = bytes(data)  # type: ignore[call-overload]  # whatever has the buffer interface
        if self._waiting is None:
            self._write_patiently(content)
        elif self._waiting.qsize() < _WAITING_CHUNKS:
            self._waiting.put(content)
        else:
            self._dropped += 1
        return len(content)

    def hurry(self) -> None:
        """From now on hold nobody up: what is written waits for its reader in a thread, and is dropped if too much."""
        if self._waiting is not None:
            return
        self._waiting, self._nowhere = SimpleQueue(), os.open(os.devnull, os.O_WRONLY)
        self._divert_if_full()
        threading.Thread(target=self._write_what_waits, args=(self._waiting,), name="output", daemon=True).start()

    def finish(self, seconds: float) -> None:
        """Wait until everything is written, at most so long where nobody may be held up."""
        if self._waiting is not None:
            written = threading.Event()
            self._waiting.put(written)
            written.wait(max(0.0, seconds))

    def _write_patiently(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest and not self._is_gone:
            try:
                rest = rest[os.write(self._real, rest) :]
            except BlockingIOError:  # somebody else made it non-blocking
                self._is_ready(None)
            except OSError as error:
                self._note(error)
                return

    def _write_what_waits(self, waiting: SimpleQueue[bytes | threading.Event]) -> None:
        while True:
            try:
                item = waiting.get(timeout=_LOOK_AGAIN_S if self._is_diverted else None)
            except Empty:
                self._divert_if_full()
                continue
            if isinstance(item, bytes):
                self._write_when_ready(item)
            if self._dropped and waiting.empty():
                dropped, self._dropped = self._dropped, 0
                self._write_when_ready(f"cxrbatch: {dropped} messages are missing here: nobody read them\n".encode())
            if isinstance(item, threading.Event):
                item.set()

    def _write_when_ready(self, content: bytes) -> None:
        # A pipe that is ready takes so much without waiting.
        for start in range(0, len(content), select.PIPE_BUF):
            if self._divert_if_full():
                self._is_ready(None)
            self._write_patiently(content[start : start + select.PIPE_BUF])
            self._divert_if_full()

    def _divert_if_full(self) -> bool:
        """While nobody reads, let what libraries print themselves go nowhere, for they would wait; tell whether."""
        is_full = not self._is_gone and not self._is_ready(0)
        if is_full != self._is_diverted:
            os.dup2(self._nowhere if is_full else self._real, self._descriptor)
            self._is_diverted = is_full
        return is_full

    def _is_ready(self, timeout_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._real, select.POLLOUT)
        return bool(poll.poll(timeout_ms))

    def _note(self, error: OSError) -> None:
        self.failure = self.failure or error
        self._is_gone = error.errno in _NOT_COMING_BACK


@dataclass(slots=True)
class _Taken:
    """The streams of this process, once they are taken over."""

    stdout: LastingStream
    stderr: LastingStream
    is_in_hurry: bool = False


_taken: list[_Taken] = []


def take_over() -> None:
    """Put streams that outlast their readers in the place of standard output and error, for the whole process."""
    were_closed = [descriptor for descriptor in (STDIN, STDOUT, STDERR) if _is_closed(descriptor)]
    for _descriptor in were_closed:
        # Or the ledger would be opened as standard error, and every library's warning written into it.
        # It gets that very number, being the lowest that is free; processes started from here inherit it.
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    closed = OSError(errno.EBADF, os.strerror(errno.EBADF))
    out, err = (LastingStream(each, closed if each in were_closed else None) for each in (STDOUT, STDERR))
    _taken[:] = [_Taken(out, err)]
    sys.stdout, sys.stderr = _as_text(out, sys.stdout), _as_text(err, sys.stderr)


def put_work_first() -> None:
    """From here on the work matters, and what is printed only tells of it; a terminal that is closed ends nothing."""
    for taken in _taken:
        taken.is_in_hurry = True
        taken.stdout.hurry()
        taken.stderr.hurry()
        # Sent to whoever was started from a terminal that is gone now.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def last_words(code: int) -> int:
    """Write what is left to be written, and return the exit code: where printing was all there was to do, it counts."""
    for taken in _taken:
        end = time.monotonic() + LAST_WORDS_S
        for stream in (taken.stdout, taken.stderr):
            stream.finish(end - time.monotonic())
        if taken.stdout.failure is not None and not taken.is_in_hurry and code == ExitCode.DONE:
            if taken.stdout.failure.errno != errno.EPIPE:  # a reader that has seen enough needs no explanation
                sys.stderr.write(f"cxrbatch: standard output cannot be written ({taken.stdout.failure.strerror})\n")
            return ExitCode.OUTPUT_NOT_WRITABLE
    return code


def print_nothing() -> None:
    """Let a worker process print nothing: it would wait for a reader, too, and libraries quote what they read."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (STDOUT, STDERR):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def _as_text(stream: LastingStream, former: TextIO | None) -> TextIO:
    encoding = former.encoding if former is not None else "utf-8"
    # A file's name may hold what the terminal's encoding lacks: that is no reason to fail, either.
    return io.TextIOWrapper(
        stream,  # type: ignore[type-var]  # raw, as with python -u: each write goes out at once
        encoding=encoding,
        errors="backslashreplace",
        write_through=True,
    )
