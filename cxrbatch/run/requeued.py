"""Telling how many studies are queued again, which after a change of engine are all there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cxrbatch.system.logbook import log_event
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.stopping import stop_if_asked

REQUEUED = "studies queued again"


@contextmanager
def telling_of_requeued(progress: RunProgress) -> Iterator[Callable[[int], None]]:
    """Yield what is told, slice by slice, of how many more studies wait; of none, nothing is said.

    Between two slices a run can be stopped: what is queued is queued, and the rest is found by the next run.
    """
    count = 0

    def told(more: int) -> None:
        nonlocal count
        if not count:
            progress.begin(REQUEUED)
        count += more
        progress.advance(REQUEUED, more)
        stop_if_asked()

    try:
        yield told
    finally:
        if count:
            progress.finish(REQUEUED)
            log_event("studies queued again", studies=count)
