"""Worker processes: pure functions and their arguments in, results in order out, a crash or a hang kept to one task."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, TimeoutError as FutureTimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Generic, TypeVar

import pebble.pool.process
from pebble import ProcessExpired, ProcessPool

from cxrbatch.errors import CxrBatchError, RunError
from cxrbatch.standard_streams import print_nothing
from cxrbatch.stopping import stop_at_safe_points, stop_if_asked

Task = TypeVar("Task")
Value = TypeVar("Value")

# WeasyPrint keeps a little memory of every document; a fresh process now and then gives it back.
TASKS_PER_WORKER = 400
STOP_POLL_S = 0.1
_START_TIMEOUT_S = 600.0
_PR_SET_PDEATHSIG = 1
_SENT_BY_SOMEBODY = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


# What Pebble takes for the module `time`. By the wall clock, a leap forward would time out every task at work.
vars(pebble.pool.process)["time"] = SimpleNamespace(time=time.monotonic, sleep=time.sleep)


class WorkerTimedOut(CxrBatchError):
    """The task took longer than its time limit; its process was ended."""


class WorkerCrashed(CxrBatchError):
    """The process that ran the task died, for example in a decoder's native code.

    `was_killed` tells that somebody else ended it, such as the kernel when memory is short: that says nothing
    about the task.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"its worker process died ({_cause_of_death(exit_code)})")
        self.was_killed = -exit_code in _SENT_BY_SOMEBODY


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Task, Value]):
    """What became of one task: its value, or the exception that it or its worker ended with."""

    task: Task
    future: Future[Value]
    timeout_s: float

    def value(self) -> Value:
        """Return the task's value, or raise what it raised.

        Raises:
            WorkerTimedOut: it ran past its time limit.
            WorkerCrashed: its process died.
        """
        try:
            return self.future.result()
        except FutureTimeoutError:
            raise WorkerTimedOut(f"took longer than {self.timeout_s:g} s") from None
        except ProcessExpired as error:
            raise WorkerCrashed(error.exitcode) from None
        except BrokenProcessPool as error:
            raise RunError(
                f"the worker processes cannot go on ({error}). Run `cxrbatch doctor`, then the same command again."
            ) from error


class WorkerPool:
    """Spawned processes that are started when first needed and replaced when one dies.

    Each is limited to `memory_mb` of address space beyond what it starts with, runs OpenCV on one
    thread, leaves signals to the main process and dies with it. `while_waiting`, where somebody sets it, is called
    between outcomes, and ten times a second while one is waited for. `warm_up` loads what the tasks need while
    the process starts, so that the first task does not wait for it.
    """

    def __init__(self, count: int, *, memory_mb: int, warm_up: Callable[[], None] | None = None) -> None:
        self.count = count
        self._pool = ProcessPool(
            max_workers=count,
            max_tasks=TASKS_PER_WORKER,
            initializer=_prepare_worker,
            initargs=(memory_mb, os.getpid(), warm_up),
            context=multiprocessing.get_context("spawn"),
        )
        self._safety = ExitStack()
        self.while_waiting: Callable[[], object] = lambda: None

    def __enter__(self) -> WorkerPool:
        self._safety.enter_context(stop_at_safe_points())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._safety.__exit__(kind, error, trace)

    def end(self) -> None:
        """End the processes, whatever they are at; a second call does nothing."""
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves this one untyped
        self._pool.join()

    def start(self) -> None:
        """Start the processes and wait until one is ready, so that the first task does not wait for that."""
        for outcome in self.run_ahead(_do_nothing, range(self.count), timeout_s=_START_TIMEOUT_S):
            outcome.value()

    def run_ahead(
        self, function: Callable[[Task], Value], tasks: Iterable[Task], *, timeout_s: float, window: int | None = None
    ) -> Iterator[Outcome[Task, Value]]:
        """Run `function` on each task with up to `window` of them in flight; yield outcomes in the tasks' order.

        Tasks are drawn from their iterable only as places become free, so an endless one is fine and
        memory stays bounded. `window` defaults to two tasks per worker: one that runs, one that waits.

        Raises:
            Stopped: a signal asked for it; the places between two outcomes, and the waiting for one, are safe.
        """
        in_flight: deque[Outcome[Task, Value]] = deque()
        for task in tasks:
            stop_if_asked()
            future: Future[Value] = self._pool.schedule(function, args=(task,), timeout=timeout_s)
            in_flight.append(Outcome(task, future, timeout_s))
            while in_flight and (len(in_flight) >= (window or 2 * self.count) or in_flight[0].future.done()):
                yield self._finished(in_flight.popleft())
        while in_flight:
            yield self._finished(in_flight.popleft())

    def _finished(self, outcome: Outcome[Task, Value]) -> Outcome[Task, Value]:
        while not wait([outcome.future], timeout=STOP_POLL_S).done:
            stop_if_asked()
            self.while_waiting()
        self.while_waiting()
        if isinstance(outcome.future.exception(), (ProcessExpired, BrokenProcessPool)):
            # A stop that was sent to the whole process group ended the workers, too: that says nothing about their
            # tasks.
            stop_if_asked()
        return outcome


def _do_nothing(_: int) -> None:
    pass


def _prepare_worker(memory_mb: int, parent: int, warm_up: Callable[[], None] | None) -> None:
    # The main process answers for both; a terminal that is closed sends the second one to all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(parent)
    print_nothing()
    # Before anything imports NumPy: as many processes as cores, each with as many threads, only get in their own way.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    import cv2

    cv2.setNumThreads(1)
    # What cannot be loaded fails in the task that needs it, where the error has an owner.
    with suppress(ImportError, OSError):
        if warm_up is not None:
            warm_up()
    # What is loaded by now lives as long as the process: never look through it again for garbage, and look less
    # often. A report makes 400,000 objects, nearly all of them gone with it.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    limit = _address_space_bytes() + memory_mb * 2**20
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


def _cause_of_death(exit_code: int) -> str:
    if exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"
