"""How a run on a cluster grows with its nodes: all of them processes of this machine (`local:N`).

Four parts. In the first an engine of a few operations scores small images without pictures, and every study takes a
node a quarter of a second more, asleep: what is left is what the driver, the ledger and dask cost, as if each node were
a machine of its own. In the second a real engine scores radiographs and draws reports on one node and on two, each with
one worker and one thread, which share the cores that there are. A rate counts from when the last node joined to when
the last study was recorded, its end with idle nodes included. The third is what a study costs the driver, its start
left out: what 1,500 studies cost it beyond what 300 do, on two nodes. The fourth is what shards add to the work itself:
dealing out, and the merge.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import psutil
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.cluster.connect import Cluster
from cxrbatch.cluster.members import Work
from cxrbatch.cluster.node import process_chunk
from cxrbatch.config import Settings
from cxrbatch.run.batch import run_batch
from cxrbatch.run.processor import StudyProcessor, Workplace
from cxrbatch.run.shards.divide import shard_input
from cxrbatch.run.shards.merge import merge_shards
from cxrbatch.run.shards.work import work_on_shard
from cxrbatch.system.progress import RunProgress
from scripts.growth_step import resident_mb
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs
from tests.factories.nodes import sleep_first
from tests.factories.studies import write_image

ROOT = Path(__file__).parents[1]
WORK = ROOT / "bench" / "cluster"
DRIVER_STUDIES = (300, 1500)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: studies per second once all nodes were there, and CPU of the driver alone, its start included."""

    nodes: int
    studies: int
    per_s: float
    driver_s: float


def measure(images: Path, nodes: int, settings: Settings, work: Work = process_chunk) -> Measured:
    """Run over the images on so many nodes."""
    out = WORK / "out"
    shutil.rmtree(out, ignore_errors=True)
    with Cluster(f"local:{nodes}") as cluster, RunProgress(Console(quiet=True)) as progress:
        cluster.client().wait_for_workers(nodes)

        def make(at: Workplace) -> StudyProcessor:
            return replace(cluster.processor(at), work=work)

        before = time.process_time()
        report = run_batch(images, out, settings, progress, means=replace(cluster.means(), make_processor=make))
        driver_s = time.process_time() - before
    reported = report.studies["reported"]
    measured = Measured(nodes, reported, _rate(out, nodes), driver_s)
    print(measured, file=sys.stderr, flush=True)
    return measured


def _rate(out: Path, nodes: int) -> float:
    events = [json.loads(line) for line in (out / "cxrbatch.log").read_text().splitlines()]
    joined = [_time(each) for each in events if each["event"] == "node joined"]
    done = [_time(each) for each in events if each["event"] == "study done"]
    if len(joined) != nodes:
        raise SystemExit(f"{len(joined)} of {nodes} nodes joined: the run was over too soon; take more --studies.")
    return sum(moment > joined[-1] for moment in done) / (done[-1] - joined[-1])


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def asleep(studies: int, each_s: float, nodes: list[int]) -> list[Measured]:
    """Measure with an engine that sleeps."""
    images, settings = _small(studies), _quick_settings()
    return [measure(images, count, settings, partial(sleep_first, each_s)) for count in nodes]


def driver_alone() -> float:
    """Return what a study costs the driver, CPU in milliseconds, its start left out."""
    spent_ms = {}
    for studies in DRIVER_STUDIES:
        measured = measure(_small(studies, f"small-{studies}"), 2, _quick_settings())
        spent_ms[measured.studies] = 1000 * measured.driver_s
    few, many = sorted(spent_ms)
    return (spent_ms[many] - spent_ms[few]) / (many - few)


def awake(studies: int, engine: str) -> list[Measured]:
    """Measure with a real engine, on one node and on two."""
    images = WORK / "large"
    images.mkdir(parents=True, exist_ok=True)
    for number in range(studies):
        cv2.imwrite(str(images / f"{number}.png"), blobs(1024, 1024, seed=number))
    settings = Settings(engine=engine, workers=1, threads=1, pdf=False, pixel_check=False)
    return [measure(images, count, settings) for count in (1, 2)]


@dataclass(frozen=True, slots=True)
class Shards:
    """What dealing out and merging cost this process, in CPU and in wall time, milliseconds a study."""

    studies: int
    shard_ms: tuple[float, float]
    merge_ms: tuple[float, float]


def shards(studies: int) -> Shards:
    """Measure dealing out, and merging, over small images without pictures; what is between them is the work itself."""
    images, settings, out = _small(studies), _quick_settings(), WORK / "sharded"
    with RunProgress(Console(quiet=True)) as progress:
        dealt = _timed(lambda: shard_input(images, out, settings, 4, progress), studies)
        for number in range(4):
            work_on_shard(out, number, settings, progress)
        merged = _timed(lambda: merge_shards(out, settings, progress), studies)
    return Shards(studies, dealt, merged)


def _timed(work: Callable[[], object], studies: int) -> tuple[float, float]:
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    work()
    return 1000 * (time.process_time() - cpu_s) / studies, 1000 * (time.perf_counter() - wall_s) / studies


def _quick_settings() -> Settings:
    """Return settings under which a study costs a node next to nothing."""
    engine = WORK / "engines" / "tiny"
    if not engine.exists():
        engine = write_tiny_bundle(engine.parent)
    return Settings(engine=str(engine), workers=1, threads=1, html=False, pdf=False, pictures=False, pixel_check=False)


def _small(studies: int, name: str = "small") -> Path:
    images = WORK / name
    for number in range(studies):
        write_image(images / f"{number}.png", 20 + number % 200, 60 + number // 200, 120, 240)
    return images


def table(title: str, measured: list[Measured]) -> list[str]:
    """Return a table in Markdown; efficiency is the rate beside so many times that of the first line."""
    first = measured[0].per_s / measured[0].nodes
    lines = [f"{title}", "", "| nodes | studies | studies/s | efficiency |"]
    lines.append("| ---: | ---: | ---: | ---: |")
    for each in measured:
        efficiency = each.per_s / (each.nodes * first)
        lines.append(f"| {each.nodes} | {each.studies} | {each.per_s:.2f} | {efficiency:.0%} |")
    return [*lines, ""]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write bench/cluster/result.md."""
    global WORK  # noqa: PLW0603  # one measurement, one folder
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--studies", type=int, default=400, help="studies of the part that sleeps")
    parser.add_argument("--each-s", type=float, default=0.25, help="how long a study takes a node there")
    parser.add_argument("--nodes", default="1,2,4,8", help="numbers of nodes there")
    parser.add_argument("--engine", default="", help="a real engine for the second part; without it there is none")
    parser.add_argument("--real-studies", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=WORK, help="where to work, such as in memory")
    wanted = parser.parse_args(arguments)
    WORK = wanted.folder
    shutil.rmtree(WORK, ignore_errors=True)
    head = (
        f"scripts/bench_cluster.py, {datetime.now().astimezone():%Y-%m-%d %H:%M}, {os.cpu_count()} cores ({_cpu()}), "
    )
    head += f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"
    lines = [head, ""]
    nodes = [int(each) for each in wanted.nodes.split(",")]
    title = f"Every study takes a node {wanted.each_s:g} s asleep:"
    lines += table(title, asleep(wanted.studies, wanted.each_s, nodes))
    if wanted.engine:
        lines += table(
            f"A real engine ({Path(wanted.engine).name}), with reports:", awake(wanted.real_studies, wanted.engine)
        )
    alone_ms = driver_alone()
    lines += [f"What a study costs the driver, its start left out: {alone_ms:.1f} ms of CPU.", ""]
    # Before the shards, which this process scores itself.
    memory = f"Highest resident memory of the driver, its scheduler with it: {resident_mb():.0f} MB."
    cost = shards(wanted.studies)
    lines += [f"Shards, {cost.studies} studies without pictures, ms a study, CPU (wall): index and deal out "]
    lines[-1] += (
        f"{cost.shard_ms[0]:.1f} ({cost.shard_ms[1]:.1f}), merge {cost.merge_ms[0]:.1f} ({cost.merge_ms[1]:.1f})."
    )
    lines += ["", memory]
    text = "\n".join(lines)
    print(text)
    (WORK / "result.md").write_text(text)


def _cpu() -> str:
    told = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    found = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("Model name")]
    return found[0] if found else f"{psutil.cpu_count()} CPUs"


if __name__ == "__main__":
    main()
