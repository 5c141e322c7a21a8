"""A moment that another process understands: how long ago it was, and whether anybody can know that.

A clock on the wall jumps; the monotonic one does not, but means nothing after the machine was started again. So a
moment is both, with the name that the kernel gave to this start of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment: by the monotonic clock of the machine that was started as `boot`, and by the clock on the wall."""

    boot: str
    monotonic_s: float
    unix_s: float

    def is_comparable(self, later: Moment) -> bool:
        """Tell whether the time between the two was measured by a clock that does not jump."""
        return bool(self.boot) and self.boot == later.boot and self.monotonic_s <= later.monotonic_s

    def seconds_until(self, later: Moment) -> float:
        """Return how much later the other one is; by the wall where there is no better clock, and never negative."""
        if self.is_comparable(later):
            return later.monotonic_s - self.monotonic_s
        return max(0.0, later.unix_s - self.unix_s)


def present_moment(clock: Callable[[], float] = time.monotonic) -> Moment:
    """Return this moment; `clock` is the monotonic one."""
    # time.time is looked up here, not bound above: a test may set the clock.
    return Moment(_boot(), clock(), time.time())


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""  # no Linux, or a sandbox that hides it
