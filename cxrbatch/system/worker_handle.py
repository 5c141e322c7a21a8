"""One worker process as the main process sees it: started, given tasks, watched, and ended.

All waiting is done here, in the thread that supervises the worker: for a pipe with room, an answer, a death. None of it
can hang on the worker, whatever that does: die at any moment, write half an answer or nonsense, close its pipe, stop.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cxrbatch.errors import CxrBatchError, WorkerCrashed, WorkerTimedOut
from cxrbatch.system.times import TICK_S, TaskTime
from cxrbatch.system.worker_process import BrokenFrame, Frame, FrameKind, FrameReader, Setup

_READ_BYTES = 2**20
# A process that closed its pipe is given so long to die of itself; one that is killed may be held up by a disk.
_DYING_S = 2.0
# As many processes as cores, each with as many threads, only get in their own way.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# sys is in the interpreter; everything else is to come from where the main process has it, not from the working folder.
# Loading makes objects that stay: to look through them for garbage meanwhile was a sixth of what a start computes.
_START = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv[1:]; "
    "from cxrbatch.system.worker_process import serve; serve()"
)


class WorkerLost(Exception):
    """The process is gone, or no use any more, before it began with the task: the task has no part in it."""


class PoolEnded(Exception):
    """Whoever waits is to stop waiting."""


class WorkerHandle:
    """One process with a pipe that nobody else has. To be used by one thread at a time."""

    def __init__(self, setup: Setup, is_over: Callable[[], bool]) -> None:
        """Start the process; it becomes ready later.

        Args:
            setup: what it is told.
            is_over: asked while waiting; True ends that.

        Raises:
            OSError: the machine has no process, no memory or no file descriptor left.
        """
        self._is_over = is_over
        self._reader = FrameReader()
        self.tasks_done = 0
        self.is_ready = False
        self._is_condemned = False
        self._pipe, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _start_process(theirs)
        except BaseException:
            self._pipe.close()
            raise
        self._pipe.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        # Small, so there is room for it before anybody reads.
        with suppress(OSError):
            self._pipe.send(Frame(FrameKind.SETUP, payload=pickle.dumps(setup)).to_bytes())

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for the process to have loaded what it needs.

        Raises:
            WorkerCrashed: it died.
            WorkerTimedOut: it takes too long.
            PoolEnded: there is nothing to wait for any more.
        """
        watch = TaskTime(self.pid)
        while not self.is_ready:
            frame = self._next_frame(watch, timeout_s)
            if frame.kind is not FrameKind.READY:
                raise self._broken()
            self.is_ready = True

    def check(self) -> bool:
        """Look, without waiting, whether the process is there and has nothing to say; note that it became ready."""
        try:
            while self._has_news(0):
                self._receive()
            frame = None if self.is_ready else self._reader.next_frame()
        except (EOFError, OSError, BrokenFrame):
            return False
        self.is_ready = self.is_ready or (frame is not None and frame.kind is FrameKind.READY)
        is_quiet = not self.is_ready or self._reader.is_between_frames
        return is_quiet and not self._is_condemned and self._process.poll() is None

    def run(self, number: int, function: Callable[[Any], Any], argument: Any, timeout_s: float) -> Any:
        """Let the process run a task; return its value.

        Raises:
            WorkerLost: the task did not begin.
            WorkerCrashed: the process died of it, or while it was at it.
            WorkerTimedOut: it computed, or waited, for too long; the process is to be ended.
            PoolEnded: there is nothing to wait for any more.
            Exception: what the task raised.
        """
        if not self.check():
            raise WorkerLost
        content = Frame(FrameKind.TASK, number, pickle.dumps((function, argument), pickle.HIGHEST_PROTOCOL)).to_bytes()
        watch = TaskTime(self.pid)
        try:
            self._send(content, watch, timeout_s)
            self._expect(FrameKind.BEGUN, number, watch, timeout_s)
        except (WorkerCrashed, WorkerTimedOut, OSError):
            raise WorkerLost from None
        answer = self._expect(None, number, watch, timeout_s)
        self.tasks_done += 1
        try:
            value = pickle.loads(answer.payload)  # noqa: S301  # our own process wrote it
        except Exception:  # noqa: BLE001  # anything may come of what is no pickle
            raise self._broken() from None
        if answer.kind is FrameKind.ERROR:
            raise value
        return value

    def kill(self) -> None:
        """Let the process die, from any thread; `end` waits for it."""
        self._is_condemned = True
        with suppress(OSError):
            self._process.kill()

    def end(self) -> bool:
        """End the process, whatever it is at; return whether it is gone. One that a disk holds up dies later."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DYING_S)
        self._pipe.close()
        return self._process.returncode is not None

    # ----------------------------------------------------------------- the pipe

    def _send(self, content: bytes, watch: TaskTime, timeout_s: float) -> None:
        room, left = select.poll(), memoryview(content)
        room.register(self._pipe, select.POLLOUT)
        while left:
            if room.poll(1000 * TICK_S):
                left = left[self._pipe.send(left) :]
            else:
                self._look(watch, timeout_s)

    def _expect(self, kind: FrameKind | None, number: int, watch: TaskTime, timeout_s: float) -> Frame:
        """Wait for this frame about task `number`; None for a value or an error."""
        frame = self._next_frame(watch, timeout_s)
        if frame.number != number or frame.kind not in ({kind} if kind else {FrameKind.VALUE, FrameKind.ERROR}):
            raise self._broken()
        return frame

    def _next_frame(self, watch: TaskTime, timeout_s: float) -> Frame:
        try:
            while (frame := self._reader.next_frame()) is None:
                if self._has_news(TICK_S):
                    self._receive()
                else:
                    self._look(watch, timeout_s)
        except (EOFError, OSError):
            raise self._death() from None
        except BrokenFrame:
            raise self._broken() from None
        return frame

    def _has_news(self, timeout_s: float) -> bool:
        return bool(self._poll.poll(1000 * timeout_s))

    def _receive(self) -> None:
        content = self._pipe.recv(_READ_BYTES)
        if not content:
            raise EOFError
        self._reader.feed(content)

    def _look(self, watch: TaskTime, timeout_s: float) -> None:
        """Look at the process while nothing comes from it."""
        if self._is_over():
            raise PoolEnded
        # A copy that a task made of the process may hold the pipe open after its death.
        if self._process.poll() is not None and not self._has_news(0):
            raise EOFError
        watch.look()
        if watch.computed_s >= timeout_s:
            raise WorkerTimedOut(timeout_s)
        if watch.waited_s >= timeout_s:
            raise WorkerTimedOut(timeout_s, waiting=True)

    def _death(self) -> CxrBatchError:
        """Return what the process died of; one that closed its pipe and lives on is of no use."""
        try:
            return WorkerCrashed(self._process.wait(_DYING_S))
        except subprocess.TimeoutExpired:
            self.kill()
            return WorkerCrashed(0, "it closed its pipe")

    def _broken(self) -> CxrBatchError:
        self.kill()
        return WorkerCrashed(0, "it wrote into its pipe what is no answer")


def _start_process(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a worker whose standard input is its end of the pipe; no other descriptor is handed down."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # -X, -W, -I, -E
    command = [sys.executable, *flags, "-c", _START, *sys.path]
    return subprocess.Popen(command, stdin=theirs.fileno(), env=os.environ | _ONE_THREAD)  # noqa: S603


def leave_signals_to_the_main_thread() -> None:
    """Block, in this thread and the processes that it starts, what the main process answers for.

    A process inherits that as it is started, and unblocks what it then handles: Ctrl-C cannot hit it before.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
