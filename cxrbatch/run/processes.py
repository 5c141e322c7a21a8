"""The processes of a run that read and print, which may get ready before anything else of it is loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cxrbatch.config import MARKER_FILE, Settings
from cxrbatch.run.warm_up import warm_up
from cxrbatch.system.workers import WorkerPool


def open_workers(settings: Settings, *, ahead_of: Path | None = None, prints: bool = True) -> WorkerPool:
    """Make the pool of processes that read and print.

    Args:
        settings: how many, how large, and what they have to load.
        ahead_of: the output folder of a run that is still to be loaded. Where it is new there will be something to
            read, and a process takes longest to get ready: one begins at once.
        prints: whether reports are printed by them, and not mostly elsewhere, so that what that needs, half of what a
            process takes to get ready, is loaded at once.
    """
    draws = settings.pictures or settings.html or settings.pdf
    workers = WorkerPool(
        settings.worker_count,
        memory_mb=settings.decode_memory_mb,
        warm_up=partial(warm_up, pdf=prints and settings.pdf, pictures=prints and draws),
    )
    if ahead_of is not None and is_new(ahead_of):
        workers.begin(1)
    return workers


def is_new(out: Path) -> bool:
    """Tell whether no run has worked on an output folder yet."""
    return not (out / MARKER_FILE).exists()
