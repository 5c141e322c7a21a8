"""`make bench`: the pipeline beside the plain sequential way, and a rerun over 10,000 indexed files.

Both ways read the same 24 synthetic studies (2022x2464, 16 bit, a quarter JPEG 2000), run the same FP32 ResNet50 at
224 px and print one HTML and PDF report with two heatmaps per study, in one run of this script, one after the other.
Prints a table, and writes it with the machine and the versions to bench/result.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import bench_inputs
import psutil

ROOT = Path(__file__).parents[1]
WORK = ROOT / "bench"
CXRBATCH = [sys.executable, "-m", "cxrbatch"]


@dataclass(frozen=True)
class Measured:
    """One child process, run to its end."""

    wall_s: float
    peak_rss_mb: float
    stdout: str


def measure(command: list[str]) -> Measured:
    """Run a command; sample the resident memory of its whole process tree twenty times a second.

    The sum counts pages that processes share once for each of them, so it is an upper bound.
    """
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        process = psutil.Process(child.pid)
        while not done.wait(0.05):
            peak = max(peak, _tree_rss_mb(process))

    sampler = threading.Thread(target=sample)
    sampler.start()
    stdout, _ = child.communicate()
    done.set()
    sampler.join()
    if child.returncode != 0:
        sys.exit(f"failed with exit code {child.returncode}: {' '.join(command)}")
    return Measured(time.perf_counter() - started, peak, stdout)


def _tree_rss_mb(process: psutil.Process) -> float:
    total = 0
    try:
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # it ended between listing and asking
    return total / 2**20


def event_times(out: Path) -> dict[str, float]:
    """Return when each kind of event was last written to a run's log, in seconds."""
    lines = (json.loads(line) for line in (out / "cxrbatch.log").read_text().splitlines())
    return {line["event"]: datetime.fromisoformat(line["time"]).timestamp() for line in lines}


def bench_pipeline(studies: Path, engine: Path, n_studies: int) -> list[tuple[str, str, str]]:
    """Run both ways on the same studies and return rows of the table: what, cxrbatch, plain."""
    out = bench_inputs.fresh(WORK / "out")
    ours = measure([*CXRBATCH, "run", str(studies), "-o", str(out), "-e", str(engine)])
    times = event_times(out)
    run = json.loads((out / "run.json").read_text())
    plain_out = bench_inputs.fresh(WORK / "plain")
    plain = measure([sys.executable, str(ROOT / "scripts/bench_plain.py"), str(studies), str(engine), str(plain_out)])
    theirs = json.loads(plain.stdout.splitlines()[-1])
    processing_s = times["processed"] - times["processing"]
    rows = [
        ("studies/s after start-up", f"{n_studies / processing_s:.2f}", f"{n_studies / theirs['processing_s']:.2f}"),
        ("whole command, s", f"{ours.wall_s:.1f}", f"{plain.wall_s:.1f}"),
        ("peak RSS of the process tree, MB", f"{ours.peak_rss_mb:.0f}", f"{plain.peak_rss_mb:.0f}"),
    ]
    stages = {stage: 1e3 * seconds / n_studies for stage, seconds in run["stage_s"].items()}
    plain_stages = {stage: 1e3 * seconds / n_studies for stage, seconds in theirs["stage_s"].items()}
    for stage in dict.fromkeys([*stages, *plain_stages]):
        row = (f"{stage}, ms per study", _cell(stages.get(stage)), _cell(plain_stages.get(stage)))
        rows.append(row)
    return rows


def bench_rerun(n_files: int) -> list[tuple[str, str, str]]:
    """Index `n_files`, then measure a run that finds nothing to do."""
    inputs = bench_inputs.make_many_files(WORK / f"many-{n_files}", n_files)
    engine = bench_inputs.make_small_engine(WORK / "engines")
    out = bench_inputs.fresh(WORK / "many-out")
    command = [*CXRBATCH, "run", str(inputs), "-o", str(out), "-e", str(engine), "--no-pdf"]
    os.environ["CXRBATCH_PIXEL_CHECK"] = "false"  # what is drawn here is noise, and no chest
    first = measure(command)
    again = measure(command)
    with (out / "images.csv").open(newline="") as table:
        statuses = [row["status"] for row in csv.DictReader(table)]
    assert len(statuses) == n_files, f"{len(statuses)} rows for {n_files} files"
    summary = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    return [
        (f"first run over {n_files} files ({summary}), s", f"{first.wall_s:.1f}", ""),
        (f"rerun over {n_files} files, nothing to do, s", f"{again.wall_s:.1f}", ""),
        ("rerun: peak RSS of the process tree, MB", f"{again.peak_rss_mb:.0f}", ""),
    ]


def report(rows: list[tuple[str, str, str]]) -> str:
    """Return the table in Markdown, with what it was measured on."""
    packages = ("numpy", "onnxruntime", "torch", "torchvision", "pydicom", "weasyprint", "imagecodecs")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    lines = ["| | cxrbatch | plain sequential |", "| --- | ---: | ---: |"]
    lines += [f"| {what} | {ours} | {plain} |" for what, ours, plain in rows]
    today = datetime.now().astimezone().date()
    heading = (
        f"`make bench`, {today}, {psutil.cpu_count()} cores ({cpu}), Python {platform.python_version()}, {versions}"
    )
    return "\n".join([heading, "", *lines, ""])


def _cell(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.1f}"


def main() -> None:
    """Run what the options ask for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=24)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--only", choices=["pipeline", "rerun"])
    options = parser.parse_args()
    parts: dict[str, Callable[[], list[tuple[str, str, str]]]] = {
        "pipeline": lambda: bench_pipeline(
            bench_inputs.make_studies(WORK / "studies", options.studies),
            bench_inputs.make_resnet50_engine(WORK / "engines"),
            options.studies,
        ),
        "rerun": lambda: bench_rerun(options.files),
    }
    rows = [row for name, part in parts.items() if options.only in (None, name) for row in part()]
    text = report(rows)
    (WORK / "result.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
