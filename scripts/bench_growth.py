"""`make bench-scale`: what an archive of 10^3 to 10^6 studies costs a run that finds little that is new.

Archives are made up (`scale_studies`): of two images a study, all scored, with tables. Measured are CPU seconds and the
highest resident memory of a process of its own for each step, so that others on the machine count little:

- walk: the walk over INPUT alone, on one thread, from the page cache;
- nothing new: `cxrbatch run`, whole, and what of it is not the walk;
- 1,000 new: their tables, once they are indexed and scored (a stub scores them);
- ten new: `cxrbatch run`, whole, which scores them; without reports, so what it costs beyond the walk is the archive's;
- all tables: written anew, as after a change of engine or version;
- requeue: all studies queued again for another engine, and the largest journal beside the ledger meanwhile.

A slope is that of log(seconds) over log(studies) between two sizes: 1 is proportional, 0 does not grow. Then a share is
imitated: a shim makes each open, listing, look and first read of a file take 5 ms, for a walk and for a first index on
two workers; what waits at once is `walk_threads`, in the walk and in each worker. Prints tables and writes them to
bench/growth/result.md. 10^6 studies need 25 GB and an hour or two, with --keep a few minutes from the second time on;
--sizes 1000 10000 100000 takes five minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.engine.bundle import load_bundle
from cxrbatch.engine.open import plan_engine
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.output.ledger.view import view_ledger
from cxrbatch.records import EngineDescription
from scripts import bench_inputs
from scripts.bench_scale import NEVER, record_as_scored
from scripts.growth_step import resident_mb
from scripts.scale_studies import make_links, make_output, make_studies, make_templates

ROOT = Path(__file__).parents[1]
WORK = ROOT / "bench" / "growth"
STEP, SHIM = (Path(__file__).with_name(name) for name in ("growth_step.py", "slow_share.c"))
NEW_STUDIES, FEW_STUDIES = 1000, 10
SHARE_STUDIES, SHARE_MS, THREADS = 5000, 5, (1, 16)


@dataclass(frozen=True)
class Spent:
    """What one step took: CPU seconds, and MB of resident memory at the highest; `wall_s` where that is what counts."""

    cpu_s: float
    rss_mb: float
    wall_s: float = 0.0


def spend(step: str, tree: Path, out: Path, **environment: str) -> Spent:
    """Take a step in a process of its own."""
    command = [sys.executable, str(STEP), step, str(tree), str(out)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment).stdout
    return Spent(**json.loads(text.splitlines()[-1]))


def spend_run(tree: Path, out: Path, engine: Path, *, scores: bool = False) -> Spent:
    """Run `cxrbatch run`, scoring nothing by default; CPU is that of its workers, too, and memory its own."""
    command = [sys.executable, "-m", "cxrbatch", "run", str(tree), "-o", str(out), "-e", str(engine), "--no-pdf"]
    command += ["--no-html", "--no-pictures"] if scores else ["--since", NEVER]
    child, peak = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL), [0.0]
    # Not what wait4 says of memory, in which a child begins with what its parent has.
    sampler = threading.Thread(target=_sample, args=(child.pid, peak))
    sampler.start()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    sampler.join()
    if child.returncode:
        sys.exit(f"failed with exit code {child.returncode}: {' '.join(command)}")
    return Spent(used.ru_utime + used.ru_stime, peak[0])


def _sample(process: int, peak: list[float]) -> None:
    with suppress(OSError):
        while (found := resident_mb(process)) is not None:
            peak[0] = max(peak[0], found)
            time.sleep(0.05)


# --------------------------------------------------------------------------- one size


def measure(size: int, engine: Path, description: EngineDescription, *, keeps: bool) -> dict[str, Spent]:
    """Make an archive of this size, unless it was kept, and measure it; it stays."""
    folder = folder_of(size)
    tree, out = folder / "tree", folder / "out"
    if not (keeps and out.exists()):
        bench_inputs.fresh(folder)
        make_links(tree, make_templates(folder / "templates"), range(size))
        make_output(out, tree, description, size)
    spend_run(tree, out, engine)  # writes all tables where that is due
    found = {"walk": spend("walk", tree, out), "nothing new": spend_run(tree, out, engine)}
    first = sum(view_ledger(out / LEDGER_FILE).studies.values())
    make_studies(tree, range(first, first + NEW_STUDIES))
    spend_run(tree, out, engine)
    record_as_scored(out, description)
    found["1,000 new: tables"] = spend("new", tree, out)
    make_studies(tree, range(first + NEW_STUDIES, first + NEW_STUDIES + FEW_STUDIES))
    found["ten new: run"] = spend_run(tree, out, engine, scores=True)
    if not keeps:
        found["all tables"] = spend("all", tree, out)
        found["requeue"] = spend("requeue", tree, out)
    kilobytes = (out / LEDGER_FILE).stat().st_size / 1000 / (first + NEW_STUDIES + FEW_STUDIES)
    found["kB of the ledger per study"] = Spent(kilobytes, 0.0)
    return found


def folder_of(size: int) -> Path:
    """Return where an archive of this size is made."""
    return WORK / f"studies-{size}"


def slope(small: float, large: float, sizes: tuple[int, int]) -> str:
    """Return the slope between two sizes in the logarithms of both."""
    if min(small, large) <= 0:
        return ""
    return f"{math.log(large / small) / math.log(sizes[1] / sizes[0]):.2f}"


def table_of(found: dict[int, dict[str, Spent]]) -> str:
    """Return the figures of all sizes in Markdown, with the slope between the last two."""
    sizes = sorted(found)
    found = {size: _beyond_the_walk(spent) for size, spent in found.items()}
    rows = []
    for what in found[sizes[0]]:
        cpu = [found[size][what].cpu_s for size in sizes]
        last = slope(cpu[-2], cpu[-1], (sizes[-2], sizes[-1])) if len(sizes) > 1 else ""
        rows.append(f"| {what}{'' if what.startswith('kB') else ', CPU-s'} | {_row(cpu)} | {last} |")
        if found[sizes[0]][what].rss_mb:
            rows.append(f"|   MB | {' | '.join(f'{found[size][what].rss_mb:.0f}' for size in sizes)} | |")
    head = f"| studies | {' | '.join(f'{size:,}' for size in sizes)} | slope |"
    return "\n".join([head, f"| --- |{' ---: |' * (len(sizes) + 1)}", *rows])


def _beyond_the_walk(spent: dict[str, Spent]) -> dict[str, Spent]:
    """Return the same, and what the two runs took that the walk alone does not."""
    runs = ("nothing new", "ten new: run")
    return spent | {f"{run}, beyond the walk": Spent(spent[run].cpu_s - spent["walk"].cpu_s, 0.0) for run in runs}


def _row(values: list[float]) -> str:
    return " | ".join(f"{value:.2f}" for value in values)


# --------------------------------------------------------------------------- a slow share


def measure_share() -> str:
    """Walk over files of which each look takes 5 ms, and index them, on one thread and on many; work out 10^6."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return "No C compiler: the walk over a slow share was not measured."
    folder = bench_inputs.fresh(WORK / "share")
    folder.mkdir(parents=True)
    shim = folder / "slow_share.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, SHIM, "-ldl"], check=True)
    make_studies(folder / "tree", range(SHARE_STUDIES))
    n_files, lines = 2 * SHARE_STUDIES, []
    for step, what in (("share", "walk"), ("index", "first index")):
        for threads in THREADS:
            slow = {"LD_PRELOAD": str(shim), "SLOW_SHARE": str(folder / "tree"), "SLOW_SHARE_MS": str(SHARE_MS)}
            spent = spend(step, folder / "tree", folder / str(threads), **slow)
            minutes = spent.wall_s * 1_000_000 / n_files / 60
            lines.append(f"| {what} | {threads} | {spent.wall_s:.1f} | {spent.cpu_s:.1f} | {minutes:.1f} |")
    shutil.rmtree(folder)
    head = (
        f"| what | threads | s for {n_files:,} files, {SHARE_MS} ms a look | CPU-s | minutes for 10^6, in proportion |"
    )
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: |", *lines])


def measure_sizes(sizes: list[int], engine: Path, *, keeps: bool) -> str:
    """Measure archives of these sizes, and print what there is after each; return their table."""
    description = plan_engine(load_bundle(engine), backend="auto", precision="auto")
    found: dict[int, dict[str, Spent]] = {}
    for size in sizes:
        found[size] = measure(size, engine, description, keeps=keeps)
        # Now, for the next size may take an hour, and three million files are not deleted in a minute.
        print(table_of(found), end="\n\n", flush=True)
        if not keeps:
            shutil.rmtree(folder_of(size))
    return table_of(found)


def main() -> None:
    """Measure all sizes, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--engine", type=Path, help="engine bundle whose record results hold; by default a small one")
    parser.add_argument("--share", action="store_true", help="measure the slow share alone")
    parser.add_argument(
        "--keep", action="store_true", help="leave the archives there, or measure those that were left; no requeue"
    )
    options = parser.parse_args()
    tables = []
    if not options.share:
        engine = options.engine or bench_inputs.make_small_engine(WORK / "engines")
        tables.append(measure_sizes(options.sizes, engine, keeps=options.keep))
    if not options.keep:
        tables.append(measure_share())
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    heading = f"`make bench-scale`, {datetime.now().astimezone():%Y-%m-%d %H:%M}, {psutil.cpu_count()} cores ({cpu}), "
    heading += f"load average {os.getloadavg()[0]:.1f}"
    text = "\n\n".join([heading, *tables]) + "\n"
    (WORK / "result.md").write_text(text)
    print(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
