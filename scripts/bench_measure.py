"""Running a command for `make bench`: its wall time, CPU time and memory of its process tree, and what others took."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
# Listing processes costs milliseconds, reading the memory of those that are known next to nothing.
_LIST_EVERY = 10
_SAMPLE_S = 0.05
_PAGE_MB = resource.getpagesize() / 2**20


@dataclass(frozen=True, slots=True)
class Measured:
    """One command, run to its end. `rss_mb` is the resident memory of its tree, every 50 ms.

    The sum counts pages that processes share once for each of them, so it is an upper bound.
    """

    wall_s: float
    cpu_s: float
    foreign_s: float
    rss_mb: tuple[float, ...]
    stdout: str

    @property
    def peak_rss_mb(self) -> float:
        """The most memory that its processes took together."""
        return max(self.rss_mb, default=0.0)


def run_measured(command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Measured:
    """Run a command; end this process with what went wrong where it fails."""
    _adopt_orphans(True)
    before, started = _Clocks.now(), time.perf_counter()
    child = subprocess.Popen(
        command, cwd=cwd, env=None if env is None else os.environ | dict(env), stdout=subprocess.PIPE, text=True
    )
    memory: list[float] = []
    done = threading.Event()
    sampler = threading.Thread(target=_sample_memory, args=(child.pid, memory, done))
    sampler.start()
    stdout, _ = child.communicate()
    wall_s = time.perf_counter() - started
    done.set()
    sampler.join()
    _reap_orphans()
    _adopt_orphans(False)
    if child.returncode != 0:
        sys.exit(f"failed with exit code {child.returncode}: {' '.join(command)}\n{stdout[-2000:]}")
    spent = _Clocks.now().since(before)
    foreign_s = max(0.0, spent.machine_s - spent.children_s - spent.own_s)
    return Measured(wall_s, spent.children_s, foreign_s, tuple(memory), stdout)


@dataclass(frozen=True, slots=True)
class _Clocks:
    """CPU seconds of this process, of the children it has waited for with all of theirs, and of the machine."""

    own_s: float
    children_s: float
    machine_s: float

    @classmethod
    def now(cls) -> _Clocks:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = psutil.cpu_times()
        # Steal is what other machines took of the same processor; time of guests is part of user.
        names = ("user", "nice", "system", "irq", "softirq", "steal")
        busy = sum(getattr(times, name, 0.0) for name in names)
        return cls(time.process_time(), used.ru_utime + used.ru_stime, busy)

    def since(self, before: _Clocks) -> _Clocks:
        return _Clocks(
            self.own_s - before.own_s, self.children_s - before.children_s, self.machine_s - before.machine_s
        )


def _adopt_orphans(adopts: bool) -> None:
    """Become the parent of what a child leaves behind, or no longer: only what is waited for is counted."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopts))


def _reap_orphans() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _sample_memory(pid: int, memory: list[float], done: threading.Event) -> None:
    members: list[int] = []
    looks = 0
    while not done.wait(_SAMPLE_S):
        if looks % _LIST_EVERY == 0:
            members = _tree(pid)
        looks += 1
        memory.append(sum(map(_rss_mb, members)))


def _tree(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _rss_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    except OSError:  # it ended between listing and asking
        return 0.0
