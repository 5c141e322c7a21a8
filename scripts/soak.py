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
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripts.soak_changes import change_input, lost_reports, write_image
from scripts.soak_round import Plan, Record, Round
from tests.factories.engine import write_tiny_bundle
from tests.factories.judged import disagreements, finished_reports
from tests.factories.outputs import leftovers, snapshot
from tests.factories.studies import read_rows


def soak(work: Path, plan: Plan, report: Callable[[str], None] = lambda _: None) -> Record:
    """Kill and resume in `work`, which is empty, as planned."""
    images, started = work / "images", time.monotonic()
    engine = write_tiny_bundle(work / "engines")
    engines = [engine, write_tiny_bundle(work / "engines", name="other", labels=("TopLeft", "Other"))]
    write_studies(images, plan.studies)
    calm = Round(images, work / "calm", engine, plan)
    duration_s, expected = time_in_peace(calm), snapshot(calm.out)
    report(f"a run without interruption takes {duration_s:.1f} s")
    record, dice = Record(), random.Random(plan.seed)  # noqa: S311 - no secret
    while not record.rounds or record.kills.total() < plan.kills:
        one = Round(images, work / "out", engine, plan)
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


def time_in_peace(calm: Round) -> float:
    """Finish a round that nobody interrupts, and return how many seconds that took."""
    if sys.dont_write_bytecode:
        calm.finish()  # and its modules lie compiled; see `Round._start`
        shutil.rmtree(calm.out)
    began = time.monotonic()
    calm.finish()
    return time.monotonic() - began


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
