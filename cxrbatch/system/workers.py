"""Worker processes for pure functions: results come in order, and a crash or a hang is kept to one task.

Each process has a pipe of its own and a thread that supervises it. Workers share nothing: no lock, queue or pipe that
one of them could take along when it is killed. A task whose worker somebody killed goes to another one at once.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count as numbers
from types import TracebackType
from typing import Any, Generic, TypeVar

from cxrbatch.errors import RunError, WorkerCrashed, WorkerTimedOut
from cxrbatch.system.stopping import stop_at_safe_points, stop_if_asked
from cxrbatch.system.worker_crew import Crew
from cxrbatch.system.worker_handle import PoolEnded, WorkerHandle, WorkerLost, leave_signals_to_the_main_thread
from cxrbatch.system.worker_process import Setup

__all__ = ["Outcome", "WorkerCrashed", "WorkerPool", "WorkerTimedOut"]

Task = TypeVar("Task")
Value = TypeVar("Value")

STOP_POLL_S = 0.1
# A task that was in hand so many times when its worker was killed is left for the next run.
KILLED_LIMIT = 3
# Tasks that workers never came to begin, however often: something else is wrong.
_LOST_LIMIT = 20
_IDLE_CHECK_S = 0.25
_ENDING_S = 10.0

_log = logging.getLogger(__name__)


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
            RunError: no process can be started any more.
        """
        return self.future.result()


@dataclass(slots=True)
class _Job:
    """A task on its way: how often the process that had it was killed, or lost before it began."""

    number: int
    function: Callable[[Any], Any]
    task: Any
    timeout_s: float
    future: Future[Any] = field(default_factory=Future)
    killed: int = 0
    lost: int = 0


class WorkerPool:
    """Spawned processes that are started when first needed and replaced when one dies.

    Each is limited to `memory_mb` of address space beyond what it starts with, runs OpenCV on one
    thread, leaves signals to the main process and dies with it. `while_waiting`, where somebody sets it, is called
    between outcomes, and ten times a second while one is waited for. `warm_up` loads what the tasks need while
    the process starts, so that the first task does not wait for it.
    """

    def __init__(self, count: int, *, memory_mb: int, warm_up: Callable[[], None] | None = None) -> None:
        self.count = count
        self.while_waiting: Callable[[], object] = lambda: None
        self._safety = ExitStack()
        self._job_numbers = numbers(1)
        self._waiting: deque[_Job] = deque()
        # Guards all below; told of new jobs, and of the end.
        self._change = threading.Condition()
        self._supervisors: list[threading.Thread] = []
        self._is_over = False
        self._failure: RunError | None = None
        setup = Setup(os.getpid(), memory_mb, pickle.dumps(warm_up))
        self.crew = Crew(setup, self._change, lambda: self._is_over, self._fail)

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
        with self._change:
            self._is_over = True
            self._change.notify_all()
            for handle in self.crew.handles:
                handle.kill()
        for supervisor in self._supervisors:
            supervisor.join(_ENDING_S)
        self._supervisors.clear()
        while self._waiting:
            self._waiting.popleft().future.cancel()

    def start(self) -> None:
        """Start the processes and wait until all are ready, so that the first task does not wait for that."""
        self.begin(self.count)
        with self._change:
            while self.crew.at_work < self.count and self._failure is None:
                self._change.wait(STOP_POLL_S)
                stop_if_asked()
        self._refuse_failed()

    def begin(self, wanted: int) -> None:
        """Start processes, as many as are wanted and allowed, which get ready beside whatever else is done."""
        if self._is_over:
            raise RuntimeError("these workers were ended")
        if not self._supervisors:
            _let_children_be_waited_for()
        for number in range(len(self._supervisors), min(wanted, self.count)):
            # As daemons: a main thread that ends without `end` is not held up, and the kernel ends the processes.
            supervisor = threading.Thread(target=self._supervise, name=f"worker {number + 1}", daemon=True)
            self._supervisors.append(supervisor)
            supervisor.start()

    def run_ahead(
        self,
        function: Callable[[Task], Value],
        tasks: Iterable[Task],
        *,
        timeout_s: float,
        window: int | None = None,
        passes: Callable[[Task], bool] = lambda _: False,
        keeps_busy: Callable[[Task], int] = lambda _: 1,
    ) -> Iterator[Outcome[Task, Value]]:
        """Run `function` on each task with up to `window` of them in flight; yield outcomes in the tasks' order.

        Tasks are drawn from their iterable only as places become free, so an endless one is fine and
        memory stays bounded. `window` defaults to two tasks per worker: one that runs, one that waits. `timeout_s`
        is how long a task may compute, and how long it may wait: see `WorkerTimedOut`. A task that `passes` is true of
        needs no worker: its outcome comes at once, before those in flight, and has no value. `keeps_busy` says how many
        processes the task, and what follows from it, will have work for: no more are started than that, and there are
        tasks in flight beside it.

        Raises:
            Stopped: a signal asked for it; the places between two outcomes, and the waiting for one, are safe.
            RunError: no process can be started any more.
        """
        in_flight: deque[Outcome[Task, Value]] = deque()
        for task in tasks:
            stop_if_asked()
            self._refuse_failed()
            if passes(task):
                yield _passed(task)
                continue
            # Not before there is something to do, and no more than can do it: starting one costs a second of computing.
            self.begin(len(in_flight) + keeps_busy(task))
            in_flight.append(Outcome(task, self._schedule(function, task, timeout_s), timeout_s))
            while in_flight and (len(in_flight) >= (window or 2 * self.count) or in_flight[0].future.done()):
                yield self._finished(in_flight.popleft())
        while in_flight:
            yield self._finished(in_flight.popleft())

    def _schedule(self, function: Callable[[Task], Value], task: Task, timeout_s: float) -> Future[Value]:
        job = _Job(next(self._job_numbers), function, task, timeout_s)
        with self._change:
            self._waiting.append(job)
            self._change.notify_all()
        return job.future

    def _finished(self, outcome: Outcome[Task, Value]) -> Outcome[Task, Value]:
        while not wait([outcome.future], timeout=STOP_POLL_S).done:
            stop_if_asked()
            self.while_waiting()
        self.while_waiting()
        if isinstance(outcome.future.exception(), (WorkerCrashed, RunError)):
            # A stop that was sent to the whole process group ended the workers, too: that says nothing about their
            # tasks.
            stop_if_asked()
        return outcome

    def _refuse_failed(self) -> None:
        if self._failure is not None:
            raise self._failure

    # ----------------------------------------------------------------- supervisors

    def _supervise(self) -> None:
        """Keep one process at work until the end. It is started here: it dies with the thread that started it."""
        leave_signals_to_the_main_thread()
        handle: WorkerHandle | None = None
        try:
            while not self._is_over and self._failure is None:
                handle = self.crew.manned(handle)
                if handle is not None and (job := self._next_job()) is not None:
                    self._run(handle, job)
        except PoolEnded:
            pass
        except BaseException as error:  # noqa: BLE001  # a task that nobody answers for would be waited for for ever
            self._fail(f"{type(error).__name__} in a supervisor")
            _log.exception("a supervisor of workers failed")
        finally:
            self._wait_for_the_end()
            for left in (handle, self.crew.take_spare()):
                if left is not None:
                    self.crew.dismiss(left)

    def _wait_for_the_end(self) -> None:
        """Let this thread live as long as the pool: processes that it started die with it."""
        with self._change:
            while not self._is_over:
                self._change.wait(1.0)

    def _next_job(self) -> _Job | None:
        """Return the next job, or None after a while, so that somebody looks at the process meanwhile."""
        with self._change:
            if not self._waiting and not self._is_over:
                self._change.wait(_IDLE_CHECK_S)
            return self._waiting.popleft() if self._waiting and not self._is_over else None

    def _run(self, handle: WorkerHandle, job: _Job) -> None:
        """Let a process run a job, and say what became of it."""
        try:
            value = handle.run(job.number, job.function, job.task, job.timeout_s)
        except PoolEnded:
            raise
        except (WorkerLost, WorkerCrashed, WorkerTimedOut) as error:
            handle.kill()
            self._settle(job, error)
        except BaseException as error:  # noqa: BLE001  # raised again where the outcome is asked for
            job.future.set_exception(error)
        else:
            job.future.set_result(value)
        self.crew.tasks_done += 1

    def _settle(self, job: _Job, error: Exception) -> None:
        """Put a job that has no part in its worker's death back to the head of the queue; else that was its end."""
        if isinstance(error, WorkerLost):
            job.lost += 1
            error, goes_on = WorkerCrashed(-signal.SIGKILL), job.lost < _LOST_LIMIT
        elif isinstance(error, WorkerCrashed) and error.was_killed:
            job.killed += 1
            goes_on = job.killed < KILLED_LIMIT
        else:
            goes_on = False
        if not goes_on:
            job.future.set_exception(error)
            return
        if self._is_over:
            raise PoolEnded
        facts = {"task": job.function.__name__, "killed": job.killed, "lost": job.lost}
        _log.warning("a worker was killed; its task goes to another one", extra={"facts": facts})
        with self._change:
            self._waiting.appendleft(job)
            self._change.notify_all()

    def _fail(self, why: str) -> None:
        """Let every task that waits, and every later one, end the run."""
        failure = RunError(
            f"no worker process can be started ({why}). If memory or processes are short, allow more (MemoryMax=, "
            "TasksMax= or ulimit -u) or take fewer --workers; `cxrbatch doctor` says whether something is missing. "
            "Then run the same command again: nothing is lost."
        )
        with self._change:
            self._failure = self._failure or failure
            waiting = list(self._waiting)
            self._waiting.clear()
            self._change.notify_all()
        for job in waiting:
            job.future.set_exception(failure)


def _passed(task: Task) -> Outcome[Task, Any]:
    future: Future[Any] = Future()
    future.cancel()
    return Outcome(task, future, 0.0)


def _let_children_be_waited_for() -> None:
    """Undo what some starters hand down: with SIGCHLD ignored, nobody learns what a process died of."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
