"""What runs inside a worker process: one task after another from its pipe, each answered, until the pipe ends.

Started by `worker_handle`, which speaks the same frames: what is half written, or no frame at all, is told from an
answer. Nothing is shared with other workers. Start at `serve`.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cxrbatch.errors import TaskFailed
from cxrbatch.system.memory import keep_freed_memory
from cxrbatch.system.standard_streams import print_nothing

_HEADER = struct.Struct("!4scQQ")
_MAGIC = b"cxrw"
# Nothing that is sent comes near it; a length beyond it was never written by a worker.
_LARGEST_BYTES = 2**31
_READ_BYTES = 2**20
_PR_SET_PDEATHSIG = 1
_HANDLED_BY_THE_MAIN_PROCESS = (signal.SIGINT, signal.SIGHUP)
_LONGEST_MESSAGE = 1000


# --------------------------------------------------------------------------- the pipe


class FrameKind(bytes, Enum):
    """What a frame holds: to the worker its setup and tasks, from it all the others."""

    SETUP = b"s"
    TASK = b"t"
    READY = b"r"
    BEGUN = b"b"
    VALUE = b"v"
    ERROR = b"e"


class BrokenFrame(Exception):
    """What came through the pipe is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; `number` is that of the task it is about, so that no answer is taken for another one's."""

    kind: FrameKind
    number: int = 0
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the frame as it goes through the pipe."""
        return _HEADER.pack(_MAGIC, self.kind, self.number, len(self.payload)) + self.payload


class FrameReader:
    """Makes frames of bytes as they come."""

    def __init__(self) -> None:
        self._received = bytearray()

    @property
    def is_between_frames(self) -> bool:
        """Tell whether nothing has come since the last whole frame."""
        return not self._received

    def feed(self, content: bytes) -> None:
        """Take what came through the pipe."""
        self._received += content

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None while there is none.

        Raises:
            BrokenFrame: what came is none.
        """
        if len(self._received) < _HEADER.size:
            return None
        magic, kind, number, length = _HEADER.unpack_from(self._received)
        if magic != _MAGIC or kind not in set(FrameKind) or length > _LARGEST_BYTES:
            raise BrokenFrame
        end = _HEADER.size + length
        if len(self._received) < end:
            return None
        payload = bytes(memoryview(self._received)[_HEADER.size : end])
        del self._received[:end]
        return Frame(FrameKind(kind), number, payload)


class WorkerEnd:
    """The worker's end of its pipe: waits for what comes, and for room to write."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe, self._reader = pipe, FrameReader()
        self._identity = os.fstat(pipe.fileno())

    def receive(self) -> Frame | None:
        """Return the next frame; None once the main process is gone."""
        while (frame := self._reader.next_frame()) is None:
            content = self._pipe.recv(_READ_BYTES)
            if not content:
                return None
            self._reader.feed(content)
        return frame

    def send(self, frame: Frame) -> None:
        """Send a frame.

        Raises:
            OSError: the pipe is gone; a decoder may have closed it, and its number may be another file's by now.
        """
        if not os.path.samestat(os.fstat(self._pipe.fileno()), self._identity):
            raise BrokenPipeError
        self._pipe.sendall(frame.to_bytes())


# --------------------------------------------------------------------------- the process


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is told first. `warm_up` is a pickled function: what cannot be loaded is to fail in a task."""

    parent: int
    memory_mb: int
    warm_up: bytes


def serve() -> None:
    """Work until the main process closes the pipe."""
    pipe = _take_pipe()
    setup = pipe.receive()
    if setup is not None:
        _prepare(pickle.loads(setup.payload))  # noqa: S301  # the main process wrote it
        pipe.send(Frame(FrameKind.READY))
    own_pid = os.getpid()
    while (task := pipe.receive()) is not None:
        pipe.send(Frame(FrameKind.BEGUN, task.number))
        answer = _answer(task)
        if os.getpid() != own_pid:  # a copy that a task made of this process and left behind
            os._exit(1)
        pipe.send(answer)
    # What native libraries do as they are unloaded is of no use to anybody.
    os._exit(0)


def _take_pipe() -> WorkerEnd:
    """Take the pipe, which comes as standard input, away from where a library may read."""
    # Past the standard streams, also where those are closed: they are opened anew below and in `_prepare`.
    pipe = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return WorkerEnd(pipe)


def _answer(task: Frame) -> Frame:
    try:
        function, argument = pickle.loads(task.payload)  # noqa: S301  # the main process wrote it
        return Frame(FrameKind.VALUE, task.number, pickle.dumps(function(argument), protocol=pickle.HIGHEST_PROTOCOL))
    except BaseException as error:  # noqa: BLE001  # also sys.exit(): whatever a task does, its worker goes on
        return Frame(FrameKind.ERROR, task.number, _pickled(error))


def _pickled(error: BaseException) -> bytes:
    """Return an error as it can be raised in the main process: itself if it survives the way, else what it was."""
    if isinstance(error, Exception):
        with suppress(Exception):
            pickled = pickle.dumps(error, protocol=pickle.HIGHEST_PROTOCOL)
            if type(pickle.loads(pickled)) is type(error):  # noqa: S301  # written a line ago
                return pickled
    message = ""
    with suppress(Exception):
        message = str(error)[:_LONGEST_MESSAGE]
    return pickle.dumps(TaskFailed(type(error).__name__, message))


def _prepare(setup: Setup) -> None:
    # The main process answers for all; a terminal that is closed sends SIGHUP to each.
    for number in _HANDLED_BY_THE_MAIN_PROCESS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _die_with(setup.parent)
    keep_freed_memory()
    print_nothing()
    import cv2

    cv2.setNumThreads(1)
    # What cannot be loaded fails in the task that needs it, where the error has an owner.
    with suppress(ImportError, AttributeError, OSError):
        warm_up: Callable[[], None] | None = pickle.loads(setup.warm_up)  # noqa: S301
        if warm_up is not None:
            warm_up()
    # What is loaded by now lives as long as the process: never look through it again for garbage, and look less
    # often. A report makes 400,000 objects, nearly all of them gone with it: at 50,000 it costs 15 ms more, at 200,000
    # the process takes 22 MB more.
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)
    gc.enable()
    limit = _address_space_bytes() + setup.memory_mb * 2**20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with(parent: int) -> None:
    """Let the kernel end this process when its parent is killed, so that SIGKILL leaves no orphans."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _address_space_bytes() -> int:
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 2**30
