"""Worker processes that serve one test after another: to start one costs seconds, what most tests let it do costs none.

Whoever opens workers in the modules of `OPENERS` gets a pool that another test has given back, if it would be started
in just the same way and the run before left it idle. Tests of the pool itself take `WorkerPool` as it is.
"""

from __future__ import annotations

import atexit
import os
import pickle
import resource
import sys
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from cxrbatch.system.workers import WorkerPool

OPENERS = (
    "cxrbatch.demo.cases",
    "cxrbatch.run.print",
    "cxrbatch.model.data.pixels",
    "cxrbatch.model.evaluate.scoring",
)
_KEPT = 2
_HANDED_DOWN = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)

_shelf: OrderedDict[tuple[object, ...], StandingPool] = OrderedDict()


class StandingPool(WorkerPool):
    """A pool that outlives the run that opened it, unless that left it with something to do."""

    def __init__(self, key: tuple[object, ...], count: int, *, memory_mb: int, warm_up: Any) -> None:
        super().__init__(count, memory_mb=memory_mb, warm_up=warm_up)
        self._key, self._is_lent = key, False
        self._given: list[Future[Any]] = []

    def lend(self) -> StandingPool:
        """Make it as good as new."""
        self._is_lent, self.crew.tasks_done = True, 0
        self._given.clear()
        self.while_waiting = lambda: None
        return self

    def end(self) -> None:
        """Go back to the shelf, where nobody holds more than `_KEPT`; really end what is busy or broken."""
        if not self._is_lent:
            return
        self._is_lent = False
        if self._failure is not None or not all(future.done() for future in self._given):
            super().end()
            return
        _shelf[self._key] = self
        while len(_shelf) > _KEPT:
            WorkerPool.end(_shelf.popitem(last=False)[1])

    def _schedule(self, function: Callable[[Any], Any], task: Any, timeout_s: float) -> Future[Any]:
        future = super()._schedule(function, task, timeout_s)
        self._given.append(future)
        return future


def install() -> None:
    """Let the openers that are loaded by now open standing workers."""
    for name in OPENERS:
        if (module := sys.modules.get(name)) is not None:
            vars(module)["WorkerPool"] = _open


def _open(count: int, *, memory_mb: int, warm_up: Callable[[], None] | None = None) -> WorkerPool:
    key = (count, memory_mb, pickle.dumps(warm_up), *_what_children_inherit())
    pool = _shelf.pop(key, None) or StandingPool(key, count, memory_mb=memory_mb, warm_up=warm_up)
    return pool.lend()


def _what_children_inherit() -> tuple[object, ...]:
    """Return what a process gets from the one that starts it: a test may have changed any of it."""
    environment = tuple((name, value) for name, value in sorted(os.environ.items()) if name != "PYTEST_CURRENT_TEST")
    limits = tuple(resource.getrlimit(limit) for limit in _HANDED_DOWN)
    umask = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask"))
    return str(Path.cwd()), tuple(sys.path), environment, limits, umask


@atexit.register
def end_all() -> None:
    """End the workers that are on the shelf."""
    while _shelf:
        WorkerPool.end(_shelf.popitem()[1])
