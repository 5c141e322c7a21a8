"""`make soak`: a run over phantom studies is killed at random moments, again and again, and has to lose nothing.

A round begins with an empty OUT: `cxrbatch run` is started, killed after a random time, and started again, until it
ends by itself. The time begins, as drawn, with the process, with its first look at the folder, or with its first
study. Then the round is judged: every file and study is in the tables once, under its first revision; tables,
worklist and report folders are those of a run that nobody interrupted, times apart; no temporary file is left, and no
worker outlived a kill. Rounds follow each other until --kills is reached; the last one is finished in peace.

A kill is SIGKILL to the whole process group, or to the main process alone. With --stops it is SIGTERM or SIGINT, to
either; then the run has to end with 128 + signal and no temporary file each time. With --watch the daemon is killed
instead, and a round is over when it has nothing left to do. The same --seed draws the same moments.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripts.soak_changes import change_input, lost_reports, write_image
from tests.factories.engine import write_tiny_bundle
from tests.factories.judged import disagreements, finished_reports
from tests.factories.outputs import leftovers, snapshot
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


def soak(work: Path, plan: Plan, report: Callable[[str], None] = lambda _: None) -> Record:
    """Kill and resume in `work`, which is empty, as planned."""
    images, started = work / "images", time.monotonic()
    engine = write_tiny_bundle(work / "engines")
    engines = [engine, write_tiny_bundle(work / "engines", name="other", labels=("TopLeft", "Other"))]
    write_studies(images, plan.studies)
    calm = _Round(images, work / "calm", engine, plan)
    if sys.dont_write_bytecode:
        calm.finish()  # and its modules lie compiled; see `_start`
        shutil.rmtree(calm.out)
    began = time.monotonic()
    calm.finish()
    duration_s, expected = time.monotonic() - began, snapshot(calm.out)
    report(f"a run without interruption takes {duration_s:.1f} s")
    record, dice = Record(), random.Random(plan.seed)  # noqa: S311 - no secret
    while not record.rounds or record.kills.total() < plan.kills:
        one = _Round(images, work / "out", engine, plan)
        before: dict[str, tuple[int, str]] = {}
        while record.kills.total() < plan.kills and one.is_killed_within(duration_s / 2, dice, record):
            report(f"{record.kills.total()} of {plan.kills}")
            if plan.changes:
                record.lost += len(lost_reports(before, one.out))
                before = finished_reports(one.out)
                change_input(images, dice)
                one.use_engine(dice.choice(engines))
        one.finish()
        record.rounds += 1
        if plan.changes:
            record.lost += len(lost_reports(before, one.out))
            shutil.rmtree(images)
            write_studies(images, plan.studies)
        else:
            judge(one.out, images, expected, record)
        record.other += disagreements(one.out)
        if record.is_clean:
            shutil.rmtree(one.out)
        else:
            report(f"failed; see {one.out}: {record}")
            break
    record.wall_s = time.monotonic() - started
    return record


def write_studies(folder: Path, count: int) -> None:
    """Write phantoms as DICOM studies; every fifth has a second image, and one file is none."""
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    for number in range(count):
        for image in range(2 if number % 5 == 0 else 1):
            write_image(folder, number, image, seed=number)


def judge(out: Path, images: Path, expected: dict[str, tuple[int, object]], record: Record) -> None:
    """Compare what a round left with what there is to be."""
    files = Counter(row["path"] for row in read_rows(out / "images.csv"))
    studies = read_rows(out / "studies.csv")
    keys = Counter(row["study_key"] for row in studies)
    folders = {path.name for path in (out / "reports").iterdir()}
    record.lost += len({path.name for path in images.iterdir()} - files.keys()) + len(keys.keys() - folders)
    record.doubled += files.total() - len(files) + keys.total() - len(keys) + len(folders - keys.keys())
    record.doubled += sum(row["revision"] != "1" for row in studies)
    record.temporary_files += len(leftovers(out))
    found = snapshot(out)
    changed = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    record.other += [f"{name} differs from an uninterrupted run's" for name in changed]
    with closing(sqlite3.connect(out / "ledger.sqlite")) as ledger:
        verdict = ledger.execute("PRAGMA integrity_check").fetchone()[0]
    record.other += [] if verdict == "ok" else [f"ledger: {verdict}"]


class _Round:
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


def table(plan: Plan, record: Record) -> str:
    """Return the record as Markdown."""
    what = ("SIGTERM or SIGINT" if plan.stops else "SIGKILL") + (" of the daemon" if plan.watch else "")
    what += ", INPUT and engine changed after each" if plan.changes else ""
    rows = {
        f"{what}: of which while": record.kills.total(),
        **dict(sorted(record.kills.items())),
        "rounds, each from an empty OUT to finished tables": record.rounds,
        "files or studies lost": record.lost,
        "files or studies doubled, or scored twice": record.doubled,
        "temporary files left": record.temporary_files,
        "processes that outlived it": record.orphans,
        "other differences": len(record.other),
        "wall clock, s": round(record.wall_s),
    }
    lines = [f"| {plan.studies} studies, {plan.workers} workers, seed {plan.seed} | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows.items()])


def main() -> None:
    """Soak, print the record; leave with 1 where anything went wrong."""
    usual = Plan()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=int(os.environ.get("CXRBATCH_SOAK_KILLS", usual.kills)))
    parser.add_argument("--studies", type=int, default=usual.studies)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--workers", type=int, default=usual.workers)
    parser.add_argument("--no-pdf", dest="pdf", action="store_false")
    parser.add_argument("--stops", action="store_true", help="SIGTERM and SIGINT instead of SIGKILL")
    parser.add_argument("--changes", action="store_true", help="change INPUT and engine between kill and resume")
    parser.add_argument("--watch", action="store_true", help="the daemon instead of the run")
    plan = Plan(**vars(parser.parse_args()))
    work = Path(tempfile.mkdtemp(prefix="cxrbatch-soak-"))
    record = soak(work, plan, report=lambda text: print(text, file=sys.stderr))
    print(table(plan, record))
    if not record.is_clean:
        sys.exit(f"failed; see {work}: {record.other}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
