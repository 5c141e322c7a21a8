"""Ctrl-C and SIGTERM: a stop that comes at once, or at the next safe point while worker processes are at work.

An exception that a signal raises can come between any two instructions. Inside the pool's queues it leaves a
lock or a waiter behind, and the pool never ends (seen once in 120 stops). So while a pool is open, a signal is
only noted, and raised where the work says that it is safe.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stopped(BaseException):
    """Ctrl-C or SIGTERM: finish cleanly; the same signal again ends the process at once.

    `advice` says how to go on. No KeyboardInterrupt, which click would turn into an exit code of its own.
    """

    def __init__(self, signal_number: int, advice: str = "run the same command again to go on") -> None:
        super().__init__(signal_number, advice)
        self.signal_number, self.advice = signal_number, advice
        self.exit_code = 128 + signal_number

    def advising(self, advice: str) -> Stopped:
        """Return the same stop with other advice."""
        return Stopped(self.signal_number, advice)


@dataclass(slots=True)
class _Stop:
    """What this process was asked, and how many blocks want to be asked at safe points only."""

    signal_number: int = 0
    deferring: int = 0


_stop = _Stop()


def stop_cleanly_on(*signals: signal.Signals) -> None:
    """Let these signals raise `Stopped` in the main thread; the next one ends the process the hard way."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        _stop.signal_number = number
        if not _stop.deferring:
            stop_if_asked()

    for each in signals:
        signal.signal(each, stop)


@contextmanager
def stop_at_safe_points() -> Iterator[None]:
    """Within this block a signal is noted, and raised by `stop_if_asked`, or as the block ends.

    Raises:
        Stopped: a stop was asked for and the block ended without coming to a safe point.
    """
    _stop.deferring += 1
    try:
        yield
    finally:
        _stop.deferring -= 1
    stop_if_asked()


def stop_if_asked() -> None:
    """Mark a safe point: nothing here is half done.

    Raises:
        Stopped: a signal asked for it. It is raised once, so that what cleans up afterwards is not stopped too.
    """
    number, _stop.signal_number = _stop.signal_number, 0
    if number:
        raise Stopped(number)


def stop_was_asked() -> bool:
    """Tell whether a signal asked for a stop that is not raised yet: foreign code is not to be left by raising."""
    return bool(_stop.signal_number)
