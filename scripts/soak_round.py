"""One round of a soak: a run or the daemon, from an empty OUT to finished tables, killed or stopped on its way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.factories.outputs import leftovers
from tests.factories.studies import read_rows

ROOT = Path(__file__).parents[1]
# Nothing here takes long; whoever waits so long waits for something that never comes.
PATIENCE_S = 180.0
# What the log of a run tells last, and where the run is then.
PHASES = {
    "": "starting",
    "run started": "indexing",
    "the last run was killed; resuming": "starting",
    "indexed": "opening the engine",
    "processing": "processing",
    "study done": "processing",
    "processed": "tables",
    "tables written": "ending",
}
# Most of a short run is getting ready; kills are to hit the work, too.
KILLED_AFTER = ("", "run started", "processing", "processing", "study done", "processed")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a soak goes; see the options."""

    kills: int = 200
    studies: int = 20
    seed: int = 0
    workers: int = 2
    pdf: bool = True
    stops: bool = False
    watch: bool = False
    changes: bool = False


@dataclass(slots=True)
class Record:
    """What a soak came to: kills by the phase that they hit, and what went wrong, over all rounds."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    temporary_files: int = 0
    orphans: int = 0
    other: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing went wrong."""
        return not (self.lost or self.doubled or self.temporary_files or self.orphans or self.other)


class Round:
    """One OUT, from empty to finished."""

    def __init__(self, images: Path, out: Path, engine: Path, plan: Plan) -> None:
        self.out, self._plan, self._logged = out, plan, 0
        command = "watch" if plan.watch else "run"
        more = ["--settle", "0.2", "--interval", "0.2"] if plan.watch else []
        self._command = [
            *(sys.executable, "-m", "cxrbatch", command, str(images), "-o", str(out), "-e", str(engine), *more),
            *("--workers", str(plan.workers), "--threads", "1", "--pdf" if plan.pdf else "--no-pdf"),
            *(["--input-emptied"] if plan.changes else []),
        ]
        self._studies = len({path.name[:2] for path in images.glob("*.dcm")})

    def use_engine(self, engine: Path) -> None:
        """Let this engine score from now on."""
        self._command[self._command.index("-e") + 1] = str(engine)

    def is_killed_within(self, seconds: float, dice: random.Random, record: Record) -> bool:
        """Start the command and kill it so many seconds after some event, at most; False where it was done before."""
        since, wait_s = dice.choice(KILLED_AFTER), dice.uniform(0, seconds)
        child = self._start()
        deadline = None if since else time.monotonic() + wait_s
        while child.poll() is None and not self._is_idle() and (deadline is None or time.monotonic() < deadline):
            if deadline is None and f'"{since}"' in self._new_log():
                deadline = time.monotonic() + wait_s
            time.sleep(0.01)
        if child.poll() is not None or self._is_idle():
            self._end(child)
            return False
        phase = self._phase()
        everyone, number = dice.random() < 0.5, dice.choice((signal.SIGTERM, signal.SIGINT))
        # What it has as children now may be orphans then.
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        (os.killpg if everyone else os.kill)(child.pid, number if self._plan.stops else signal.SIGKILL)
        _, printed = child.communicate(timeout=PATIENCE_S)
        record.kills[f"{phase}, {'all' if everyone else 'main'}"] += 1
        record.orphans += len(psutil.wait_procs(family, timeout=PATIENCE_S / 3)[1])
        if self._plan.stops and phase != "starting":
            record.temporary_files += len(leftovers(self.out))
            right = {0 if self._plan.watch else 128 + number}
            # With nothing left to stop it may already have been leaving.
            right |= {0, -number} if phase in {"tables", "ending"} else set()
            if child.returncode not in right:
                record.other.append(f"exit code {child.returncode} after {number.name}: {printed.decode()[-500:]}")
        return True

    def finish(self) -> None:
        """Run in peace until all is done."""
        child = self._start()
        deadline = time.monotonic() + PATIENCE_S
        while child.poll() is None and not self._is_idle():
            if time.monotonic() > deadline:
                os.killpg(child.pid, signal.SIGKILL)
                raise TimeoutError(f"the last run of this round never ended; see {self.out}")
            time.sleep(0.05)
        self._end(child)

    def _start(self) -> subprocess.Popen[bytes]:
        self._logged = 0
        self._logged = len(self._new_log())
        environment = {"PYTHONPATH": str(ROOT), "CXRBATCH_PIXEL_CHECK": "false", "OMP_NUM_THREADS": "1"}
        kept_compiled = {}
        if sys.dont_write_bytecode:  # where nothing is kept compiled, most of the time would go by in compiling
            kept_compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.out.parent / "bytecode")}
        return subprocess.Popen(
            self._command,
            env=os.environ | environment | kept_compiled,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        if self._plan.watch:
            child.terminate()
        _, printed = child.communicate(timeout=PATIENCE_S)
        if child.returncode:
            raise RuntimeError(f"exit code {child.returncode}: {printed.decode()}")

    def _is_idle(self) -> bool:
        """Tell whether a daemon has nothing left to do."""
        if not self._plan.watch or '"run started"' not in self._new_log():
            return False
        if not (self.out / "studies.csv").exists():
            return False
        statuses = [row["status"] for row in read_rows(self.out / "studies.csv")]
        return statuses == ["reported"] * self._studies

    def _new_log(self) -> str:
        """Return what was logged since the last start."""
        path = self.out / "cxrbatch.log"
        return path.read_text()[self._logged :] if path.exists() else ""

    def _phase(self) -> str:
        log = self._new_log()
        places = {event: log.rfind(f'"{event}"') for event in PHASES if event}
        last = max(places, key=places.__getitem__)
        return PHASES[last if places[last] >= 0 else ""]
