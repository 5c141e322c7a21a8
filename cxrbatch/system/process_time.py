"""How long a process has worked and waited, seen from outside: a pause of either side is no time at all.

A limit on the wall clock alone calls a healthy task late when the machine is busy, when somebody stops the process
(SIGSTOP, a debugger), when a virtual machine is frozen, or when a file server does not answer. So what a task computes
is counted apart from what it waits, and neither counts while nothing could run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Whoever counts looks about ten times a second. One who comes later did not run meanwhile: that counts no more.
TICK_S = 0.1
_LONGEST_TICK_S = 2 * TICK_S
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STOPPED = frozenset({"T", "t"})


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
