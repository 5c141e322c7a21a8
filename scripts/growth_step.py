"""One step that `bench_growth` measures, in a process of its own that loads what a run does and nothing else."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.config import Settings
from cxrbatch.intake.walking import WalkManner, walk
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger.ledger import ENGINE, Ledger
from cxrbatch.output.tables import derive_tables, refresh_tables
from cxrbatch.records import EngineDescription
from cxrbatch.run.index import Index, index_input
from cxrbatch.run.processes import open_workers
from cxrbatch.run.source import Order, Source
from cxrbatch.system.logbook import log_limits
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import from_json


def step_walk(tree: Path, _: Path) -> None:
    """Walk over the tree, keeping nothing."""
    for _file in walk(tree):
        pass


def step_share(tree: Path, out: Path) -> None:
    """Walk over a slow share on as many threads as OUT is named after."""
    for _file in walk(tree, manner=WalkManner(int(out.name))):
        pass


def step_index(tree: Path, out: Path) -> float:
    """Index a slow share for the first time, on two workers, each of as many threads as OUT is named after.

    Returns how long that took once the workers were ready: what they take to start says nothing of the share.
    """
    settings = Settings(workers=2, walk_threads=int(out.name))
    with (
        open_workers(settings, prints=False) as workers,
        open_output(out, log_limits(settings)) as ledger,
        RunProgress(Console(quiet=True)) as progress,
    ):
        workers.start()
        started = time.monotonic()
        count = index_input(Index(Order(Source(tree), out, settings)), ledger, workers, progress)
        took_s = time.monotonic() - started
    if count.read != count.met:
        raise SystemExit(f"{count}: not all were read")
    return took_s


def step_new(_: Path, out: Path) -> None:
    """Bring the tables up to date."""
    with Ledger(out) as ledger:
        refresh_tables(out, ledger, from_json(ledger.fact(ENGINE), EngineDescription))


def step_all(_: Path, out: Path) -> None:
    """Write all tables anew."""
    with Ledger(out) as ledger:
        derive_tables(out, ledger, from_json(ledger.fact(ENGINE), EngineDescription))


def step_requeue(_: Path, out: Path) -> None:
    """Queue all studies again for another engine."""
    with Ledger(out) as ledger:
        ledger.queue.requeue(engine_sha256="f" * 64)


STEPS: dict[str, Callable[[Path, Path], float | None]] = {
    "walk": step_walk,
    "share": step_share,
    "index": step_index,
    "new": step_new,
    "all": step_all,
    "requeue": step_requeue,
}


def resident_mb(process: int | str = "self") -> float | None:
    """Return the resident memory of a process at its highest, in MB; None once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    """Take a step, and print what it took beyond starting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("tree", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    cpu, wall = time.process_time(), time.monotonic()
    took_s = STEPS[asked.step](asked.tree, asked.out)
    wall_s = time.monotonic() - wall if took_s is None else took_s
    children = os.times()
    cpu_s = time.process_time() - cpu + children.children_user + children.children_system
    spent = {"cpu_s": cpu_s, "rss_mb": resident_mb(), "wall_s": wall_s}
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
