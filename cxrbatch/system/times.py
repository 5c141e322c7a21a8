"""Time that no clock change and no pause falsifies: moments across processes, and how long a task took.

A clock on the wall jumps; the monotonic one does not, but means nothing after the machine was started again. So a
`Moment` is both, with the name that the kernel gave to this start of the machine.

A limit on the wall clock alone calls a healthy task late when the machine is busy, when somebody stops the process
(SIGSTOP, a debugger), when a virtual machine is frozen, or when a file server does not answer. So `TaskTime` counts
what a task computes apart from what it waits, and neither while nothing could run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Whoever counts looks about ten times a second. One who comes later did not run meanwhile: that counts no more.
TICK_S = 0.1
_LONGEST_TICK_S = 2 * TICK_S
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOPPED = frozenset({"T", "t"})


# --------------------------------------------------------------------------- moments


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


# --------------------------------------------------------------------------- how long a task took


class AwakeTime:
    """Seconds during which somebody looked regularly: the time of a pause is left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._looked_at = clock, clock()
        self.seconds = 0.0

    def look(self) -> float:
        """Count the time since the last look, and return how much it was."""
        now = self._clock()
        passed = min(max(0.0, now - self._looked_at), _LONGEST_TICK_S)
        self._looked_at = now
        self.seconds += passed
        return passed


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process at one moment: what it has computed, all its threads together, and what it is doing.

    `is_runnable`: a thread of it computes, or would if the machine had a core free.
    """

    cpu_s: float
    is_stopped: bool = False
    is_runnable: bool = False


def look_at_process(pid: int) -> ProcessState | None:
    """Return the state of a process as Linux tells it (proc(5)); None where nobody tells."""
    folder = Path("/proc", str(pid))
    try:
        whole = _fields(folder / "stat")
        states = {_fields(thread / "stat")[0] for thread in (folder / "task").iterdir()}
    except (OSError, IndexError):
        return None
    return ProcessState((int(whole[11]) + int(whole[12])) / _TICKS_PER_S, whole[0] in _STOPPED, "R" in states)


def _fields(stat: Path) -> list[str]:
    """Return what follows the process's name, which may hold any character."""
    return stat.read_text(errors="replace").rpartition(")")[2].split()


class TaskTime:
    """What one task of a process takes, from now on: `computed_s` and `waited_s`."""

    def __init__(
        self,
        pid: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[int], ProcessState | None] = look_at_process,
    ) -> None:
        self._pid, self._look, self._awake = pid, look, AwakeTime(clock)
        state = look(pid)
        self._computed_before_s = state.cpu_s if state else 0.0
        self.computed_s = self.waited_s = 0.0

    def look(self) -> None:
        """Count the time since the last look. Ready to compute and not let is neither computing nor waiting."""
        passed, state = self._awake.look(), self._look(self._pid)
        if state is not None:
            self.computed_s = state.cpu_s - self._computed_before_s
        if state is None or not (state.is_stopped or state.is_runnable):
            self.waited_s += passed
