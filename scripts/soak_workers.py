"""`make soak`, its second part: a run's workers are killed at random moments, as the kernel does for want of memory.

A round is `cxrbatch run` over phantom studies into an empty OUT. Again and again one of its worker processes, drawn at
random, gets SIGKILL: a random time after the first sign that the run went on after the kill before. Every run has to
end by itself with exit code 0 and the tables of a run that nobody disturbed. What is timed is the standstill: from a
kill to the next study that is done, or, before the first one, to the next line in the log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripts.soak import write_studies
from scripts.soak_round import PATIENCE_S
from tests.factories.engine import write_tiny_bundle
from tests.factories.outputs import leftovers, snapshot
from tests.factories.studies import read_rows

ROOT = Path(__file__).parents[1]
RETRIED = "a worker was killed; its task goes to another one"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a soak goes; see the options."""

    kills: int = 200
    studies: int = 40
    seed: int = 0
    pdf: bool = True
    pause_s: float = 1.0


@dataclass(slots=True)
class Record:
    """What the kills of one number of workers came to."""

    workers: int
    kills: int = 0
    runs: int = 0
    retried: int = 0
    standstills_s: list[float] = field(default_factory=list)
    images_failed: int = 0
    images_lost: int = 0
    load: float = 0.0
    other: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing went wrong."""
        return not (self.images_failed or self.images_lost or self.other)


def soak(work: Path, workers: int, plan: Plan, report: Callable[[str], None] = lambda _: None) -> Record:
    """Kill workers of runs in `work`, which is empty, as planned."""
    images, out = work / "images", work / "out"
    write_studies(images, plan.studies)
    command = [
        *(sys.executable, "-m", "cxrbatch", "run", str(images), "-o", str(out)),
        *("-e", str(write_tiny_bundle(work / "engines")), "--workers", str(workers), "--threads", "1"),
        "--pdf" if plan.pdf else "--no-pdf",
    ]
    child = _start(command)
    child.communicate(timeout=PATIENCE_S)
    expected = snapshot(out)
    record, dice = Record(workers), random.Random(plan.seed)  # noqa: S311  # no secret
    while record.kills < plan.kills and record.is_clean:
        shutil.rmtree(out)
        _disturb(command, out, plan, record, dice)
        _judge(out, images, expected, record)
        record.load = os.getloadavg()[0]
        report(f"{workers} workers: {record.kills} of {plan.kills} kills")
    return record


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {"PYTHONPATH": str(ROOT), "CXRBATCH_PIXEL_CHECK": "false", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def _disturb(command: list[str], out: Path, plan: Plan, record: Record, dice: random.Random) -> None:
    """Run once, killing workers until it ends or enough were killed."""
    child = _start(command)
    main, killed_at, deadline = psutil.Process(child.pid), 0.0, time.time() + PATIENCE_S
    kills_at: list[float] = []
    while child.poll() is None and time.time() < deadline:
        if record.kills + len(kills_at) >= plan.kills or _progress_at(out) <= killed_at:
            time.sleep(0.005)
            continue
        time.sleep(dice.uniform(0, plan.pause_s))
        if _kill_one(main, dice):
            killed_at = time.time()
            kills_at.append(killed_at)
            deadline = killed_at + PATIENCE_S
    if child.poll() is None:
        record.other.append(f"the run stood still for {PATIENCE_S:g} s")
        child.kill()
    _, said = child.communicate(timeout=PATIENCE_S)
    if child.returncode:
        record.other.append(f"exit code {child.returncode}: {said.decode()[-500:]}")
    record.runs += 1
    record.kills += len(kills_at)
    _measure(out, kills_at, record)


def _kill_one(main: psutil.Process, dice: random.Random) -> bool:
    """Kill a worker of a run; return whether one was there: the run, or a worker's turn, may just have ended."""
    try:
        children = main.children()
        if children:
            dice.choice(children).kill()
    except psutil.NoSuchProcess:
        return False
    return bool(children)


def _measure(out: Path, kills_at: list[float], record: Record) -> None:
    events = _events(out)
    record.retried += (out / "cxrbatch.log").read_text().count(RETRIED)
    for killed_at in kills_at:
        later = [at for at in events if at > killed_at]
        record.standstills_s += [later[0] - killed_at] if later else []


def _progress_at(out: Path) -> float:
    return max(_events(out), default=0.0)


def _events(out: Path) -> list[float]:
    """Return when a run's log told that it goes on, in unix time; what it tells of the kills does not count."""
    path = out / "cxrbatch.log"
    lines = path.read_text().splitlines() if path.exists() else []
    facts = [json.loads(line) for line in lines if line.endswith("}")]
    return [datetime.fromisoformat(line["time"]).timestamp() for line in facts if line["level"] == "info"]


def _judge(out: Path, images: Path, expected: dict[str, tuple[int, object]], record: Record) -> None:
    rows = {row["path"]: row["status"] for row in read_rows(out / "images.csv")}
    record.images_lost += len({path.name for path in images.iterdir()} - rows.keys())
    record.images_failed += sum(status in {"failed", "pending"} for status in rows.values())
    found = snapshot(out)
    changed = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    record.other += [f"{name} differs from an undisturbed run's" for name in changed]
    record.other += [f"left behind: {path}" for path in leftovers(out)]


def table(plan: Plan, records: list[Record]) -> str:
    """Return the records as Markdown."""
    rows: dict[str, list[str]] = {
        "SIGKILLs of a worker": [str(record.kills) for record in records],
        "runs, each from an empty OUT to its own end": [str(record.runs) for record in records],
        "tasks in hand, tried again at once": [str(record.retried) for record in records],
        "standstill after a kill, median, s": [f"{statistics.median(r.standstills_s):.2f}" for r in records],
        "standstill after a kill, 95 of 100, s": [f"{_percentile(r.standstills_s, 0.95):.2f}" for r in records],
        "standstill after a kill, longest, s": [f"{max(r.standstills_s):.2f}" for r in records],
        "images failed": [str(record.images_failed) for record in records],
        "images lost": [str(record.images_lost) for record in records],
        "load of the machine, as it ended": [f"{record.load:.1f}" for record in records],
        "other differences": [str(len(record.other)) for record in records],
    }
    heads = " | ".join(f"{record.workers} worker{'s' * (record.workers > 1)}" for record in records)
    lines = [f"| {plan.studies} studies, seed {plan.seed} | {heads} |", "| --- |" + " --- |" * len(records)]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def main() -> None:
    """Soak, print the records; leave with 1 where anything went wrong."""
    usual = Plan()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=int(os.environ.get("CXRBATCH_SOAK_KILLS", usual.kills)))
    parser.add_argument("--studies", type=int, default=usual.studies)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--no-pdf", dest="pdf", action="store_false")
    plan = Plan(**vars(parser.parse_args()))
    records = []
    for workers in (1, 2):
        work = Path(tempfile.mkdtemp(prefix="cxrbatch-soak-workers-"))
        records.append(soak(work, workers, plan, report=lambda text: print(text, file=sys.stderr)))
        if not records[-1].is_clean:
            sys.exit(f"failed; see {work}: {records[-1]}")
        shutil.rmtree(work)
    print(table(plan, records))


if __name__ == "__main__":
    main()
