"""The processes of a pool: started, kept at work, replaced by a spare one, ended. Start at `Crew.manned`.

Each is used by the thread that supervises it; what all of them share is guarded by the pool's condition.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cxrbatch.errors import WorkerCrashed, WorkerTimedOut
from cxrbatch.system.worker_handle import PoolEnded, WorkerHandle
from cxrbatch.system.worker_process import Setup

# WeasyPrint keeps a little memory of every document; a fresh process now and then gives it back.
TASKS_PER_WORKER = 400
# One process is kept ready to take the place of another, but not for a run that is over in a few seconds: it would cost
# a small one a fourteenth of its computing.
_SPARE_AFTER_TASKS = 64
_START_TIMEOUT_S = 600.0
# Processes that die as they start: one that somebody kills says less than one that dies of itself.
_PATIENCE, _KILLED_COSTS, _DIED_COSTS = 50, 1, 10
_LONGEST_PAUSE_S = 2.0

_log = logging.getLogger(__name__)


class Crew:
    """The processes that work for a pool, and the one that is kept ready.

    `tasks_done` is counted by the pool; `at_work` are the processes that are ready for a task or at one.
    """

    def __init__(
        self, setup: Setup, change: threading.Condition, is_over: Callable[[], bool], fail: Callable[[str], None]
    ) -> None:
        """Start nothing yet.

        Args:
            setup: what each process is told.
            change: guards all that is in here; told when a process is ready.
            is_over: whether the pool has ended.
            fail: called, with the reason, where no process can be started any more.
        """
        self._setup, self._change, self._is_over, self._fail = setup, change, is_over, fail
        self.handles: set[WorkerHandle] = set()
        self.at_work = 0
        self.tasks_done = 0
        self._spare: WorkerHandle | None = None
        self._troubles = 0

    def manned(self, handle: WorkerHandle | None) -> WorkerHandle | None:
        """Return a process that is ready to work: this one, or its successor; None where the next try is due."""
        self._keep_a_spare()
        if handle is None:
            return self._next_worker(self.take_spare())
        successor = self.take_spare(ready=True) if handle.tasks_done >= TASKS_PER_WORKER else None
        if successor is None and handle.tasks_done < 2 * TASKS_PER_WORKER and handle.check():
            return handle
        with self._change:
            self.at_work -= 1
        self.dismiss(handle)
        return self._next_worker(successor or self.take_spare())

    def _next_worker(self, handle: WorkerHandle | None) -> WorkerHandle | None:
        """Wait for this process, or a new one, to be ready."""
        try:
            handle = handle or self._start_process()
            handle.wait_until_ready(_START_TIMEOUT_S)
        except (WorkerCrashed, WorkerTimedOut, OSError) as error:
            if handle is not None:
                self.dismiss(handle)
            if not self._is_over():
                self._note_trouble(error)
            return None
        except PoolEnded:
            if handle is not None:
                self.dismiss(handle)
            raise
        with self._change:
            self.at_work += 1
            self._troubles = 0
            self._change.notify_all()
        return handle

    def _start_process(self) -> WorkerHandle:
        handle = WorkerHandle(self._setup, self._is_over)
        with self._change:
            self.handles.add(handle)
            if self._is_over():
                handle.kill()
        return handle

    def dismiss(self, handle: WorkerHandle) -> None:
        """End a process, and count on it no more."""
        if not handle.end():
            _log.warning("a worker that was ended is still there: a disk or a file server holds it up")
        with self._change:
            self.handles.discard(handle)

    def _note_trouble(self, error: Exception) -> None:
        """Count that a process did not come to work, and wait a little; nothing works without any."""
        was_killed = isinstance(error, WorkerCrashed) and error.was_killed
        with self._change:
            self._troubles += _KILLED_COSTS if was_killed else _DIED_COSTS
            troubles, nobody_works = self._troubles, not self.at_work
        _log.warning("a worker did not start", extra={"facts": {"error": str(error)}})
        if troubles >= _PATIENCE and nobody_works:
            self._fail(str(error))
        pause_s = min(_LONGEST_PAUSE_S, 0.02 * troubles)
        end = time.monotonic() + pause_s
        with self._change:
            while not self._is_over() and (left := end - time.monotonic()) > 0:
                self._change.wait(left)

    def _keep_a_spare(self) -> None:
        """See that one more process is started, which takes the place of one that dies or has worked enough."""
        with self._change:
            if self.tasks_done < _SPARE_AFTER_TASKS or self._is_over() or self._troubles:
                return
            spare, self._spare = self._spare, None
            if spare is not None and spare.check():
                self._spare = spare
                return
        if spare is not None:
            self.dismiss(spare)
        try:
            started = self._start_process()
        except OSError as error:
            self._note_trouble(error)
            return
        if not self._put_spare(started):
            self.dismiss(started)

    def _put_spare(self, handle: WorkerHandle) -> bool:
        with self._change:
            if self._spare is not None:
                return False
            self._spare = handle
            return True

    def take_spare(self, *, ready: bool = False) -> WorkerHandle | None:
        """Take the spare process, if there is one; with `ready` only if it need not be waited for."""
        with self._change:
            if self._spare is None or (ready and not (self._spare.check() and self._spare.is_ready)):
                return None
            spare, self._spare = self._spare, None
            return spare
