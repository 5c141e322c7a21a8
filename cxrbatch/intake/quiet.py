"""Keep pydicom's warnings and log lines out of ours: they quote values of the file, a patient's name among them."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_saved = warnings.catch_warnings()

# What intake has to say of a file it says with a reason code; nothing may reach the handlers of the run.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Ignore warnings inside the block, in any number of threads.

    `warnings.catch_warnings` alone is not thread-safe: two blocks that overlap restore each other's filters.
    So the first thread in saves the filters and the last one out restores them.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _saved  # noqa: PLW0603 - the warning filters it guards are global too
    with _lock:
        _inside += 1
        if _inside == 1:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.simplefilter("ignore")


def _leave() -> None:
    global _inside  # noqa: PLW0603
    with _lock:
        _inside -= 1
        if _inside == 0:
            _saved.__exit__(None, None, None)
