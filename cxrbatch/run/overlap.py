"""One thing done with many files: one after the other where the disk is quick, on threads where a share answers late.

What waits for a server may wait beside others. Only who waits gains by it: threads of one process compute in turns.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cxrbatch.intake.walking import SLOW_S
from cxrbatch.system.memory import share_one_arena

Item = TypeVar("Item")
Value = TypeVar("Value")

# So many files tell. A file is opened and read, which on a share are two looks.
_FILES_THAT_TELL, _LOOKS = 8, 2

# What this process found: a share that answers late goes on to.
_waits = False


def each_overlapping(function: Callable[[Item], Value], items: Sequence[Item], threads: int) -> list[Value]:
    """Return what a function makes of each item, in their order; what it raises of one is raised.

    Args:
        function: what to do with an item, with nothing in it that threads must not do at once.
        items: a task of a worker.
        threads: how many of them may wait at once.
    """
    global _waits  # noqa: PLW0603  # known from one task of a worker to the next
    values: list[Value] = []
    if threads > 1 and not _waits and len(items) > _FILES_THAT_TELL:
        waited_s = [_timed(function, item, values) for item in items[:_FILES_THAT_TELL]]
        # The median, not the mean: what most files do is told by no single one.
        _waits = sorted(waited_s)[_FILES_THAT_TELL // 2] > _LOOKS * SLOW_S
    left = items[len(values) :]
    if threads == 1 or not _waits or len(left) == 1:
        return values + [function(item) for item in left]
    share_one_arena()
    with ThreadPoolExecutor(min(threads, len(left)), "overlapping") as pool:
        return values + list(pool.map(function, left))


def _timed(function: Callable[[Item], Value], item: Item, values: list[Value]) -> float:
    """Do it with one item; return how long it waited for an answer.

    Where it never gave its core away by itself, it waited for a core and nothing else, as on a machine with much to do.
    """
    gave_way, started, computed = _times_it_gave_way(), time.monotonic(), time.thread_time()
    values.append(function(item))
    waited_s = time.monotonic() - started - (time.thread_time() - computed)
    return waited_s if _times_it_gave_way() > gave_way else 0.0


def _times_it_gave_way() -> int:
    whose = resource.RUSAGE_THREAD if sys.platform == "linux" else resource.RUSAGE_SELF
    return resource.getrusage(whose).ru_nvcsw
