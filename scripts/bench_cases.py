"""What `make bench` runs and measures: cxrbatch, the plain way, the limits, and runs that find nothing to do."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cxrbatch.config import available_cores
from scripts import bench_inputs
from scripts.bench_figures import QUIET_SHARE, Cell, Limit, Sample, is_quiet
from scripts.bench_measure import Measured, run_measured

ROOT = Path(__file__).parents[1]
WORK = ROOT / "bench"
_FLAGS = {"csv": ["--no-html", "--no-pdf", "--no-pictures"], "html": ["--no-pdf"], "pdf": []}
_CPU_CLOCK = ROOT / "scripts/cpu_clock"
_PRINTS_NOISE = {"CXRBATCH_PIXEL_CHECK": "false"}  # what is drawn for reruns is noise, and no chest
# So many samples more are taken than were asked for, where others disturbed some.
_FURTHER = 2

TakeSample = Callable[[], Sample]


def sample_until_quiet(take: TakeSample, wanted: int) -> Iterator[Sample]:
    """Take samples until as many as wanted are quiet, but not for ever."""
    quiet = 0
    for _ in range(wanted + _FURTHER):
        sample = take()
        yield sample
        quiet += is_quiet(sample, QUIET_SHARE)
        if quiet >= wanted:
            return


# --------------------------------------------------------------------------- whole commands


def run_cxrbatch(cell: Cell, studies: Path, engine: Path, *, out: Path = WORK / "out") -> Measured:
    """Run cxrbatch on a folder, from nothing; what `out` holds goes."""
    bench_inputs.fresh(out)
    return _cxrbatch(studies, out, engine, ["--precision", cell.precision, *_FLAGS[cell.mode]])


def sample_cxrbatch(cell: Cell, studies: Path, engine: Path, *, out: Path = WORK / "out") -> Sample:
    """Return what a run cost, and see that it did all of its work."""
    measured = run_cxrbatch(cell, studies, engine, out=out)
    run = json.loads((out / "run.json").read_text())
    count = sum(path.is_file() for path in studies.iterdir())
    assert run["studies_this_run"] == run["images_scored_this_run"] == count, f"{studies}: not all was scored"
    times = event_times(out)
    processing_s = times["processed"] - times["processing"]
    return replace(_sample(measured, count), processing_s=processing_s, stage_s=run["stage_s"])


def _cxrbatch(inputs: Path, out: Path, engine: Path, flags: list[str], env: dict[str, str] | None = None) -> Measured:
    paths = [str(_CPU_CLOCK), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    # Whatever is set here, where it is installed Python keeps what it compiles.
    kept = {"PYTHONDONTWRITEBYTECODE": ""}
    environment = {"PYTHONPATH": os.pathsep.join(paths), "CXRBATCH_HEATMAPS": "all"} | kept | (env or {})
    command = [sys.executable, "-m", "cxrbatch", "run", str(inputs), "-o", str(out), "-e", str(engine)]
    return run_measured([*command, *flags], cwd=ROOT, env=environment)


def run_plain(mode: str, studies: Path, engine: Path, limit: int) -> Sample:
    """Let the plain way do the first `limit` studies of a folder."""
    out = bench_inputs.fresh(WORK / "plain")
    command = [sys.executable, str(ROOT / "scripts/bench_plain.py"), str(studies), str(engine), str(out)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    measured = run_measured([*command, "--mode", mode, "--limit", str(limit)], cwd=ROOT, env={"PYTHONPATH": paths})
    said = json.loads(measured.stdout.splitlines()[-1])
    return replace(
        _sample(measured, said["studies"]),
        processing_s=said["processing_s"],
        processing_cpu_s=said["processing_cpu_s"],
        stage_s=said["stage_s"],
    )


def _sample(measured: Measured, studies: int) -> Sample:
    return Sample(studies, measured.wall_s, measured.cpu_s, measured.foreign_s, available_cores(), measured.peak_rss_mb)


def event_times(out: Path) -> dict[str, float]:
    """Return when each kind of event was last written to a run's log, in seconds."""
    lines = (json.loads(line) for line in (out / "cxrbatch.log").read_text().splitlines())
    return {line["event"]: datetime.fromisoformat(line["time"]).timestamp() for line in lines}


# --------------------------------------------------------------------------- nothing to do


def rerun_of_studies(studies: Path, engine: Path) -> TakeSample:
    """Score studies once; return what measures a rerun that finds nothing to do."""
    cell, out = Cell("mixed", "pdf", "fp32"), WORK / "rerun-out"
    run_cxrbatch(cell, studies, engine, out=out)
    return lambda: _sample(_cxrbatch(studies, out, engine, ["--precision", "fp32"]), 0)


def rerun_of_files(n_files: int) -> TakeSample:
    """Score many small files once, with an engine that costs nothing; return what measures a rerun."""
    inputs = bench_inputs.make_many_files(WORK / f"many-{n_files}", n_files)
    engine = bench_inputs.make_small_engine(WORK / "engines")
    out = bench_inputs.fresh(WORK / "many-out")
    _cxrbatch(inputs, out, engine, ["--no-pdf"], _PRINTS_NOISE)
    with (out / "images.csv").open(newline="") as table:
        rows = sum(1 for _ in csv.DictReader(table))
    assert rows == n_files, f"{rows} rows for {n_files} files"
    return lambda: _sample(_cxrbatch(inputs, out, engine, ["--no-pdf"], _PRINTS_NOISE), 0)


# --------------------------------------------------------------------------- limits


def measure_limit(what: str, place: Path, *flags: str) -> Limit:
    """Measure the engine, the decoder or the PDF library alone, in a process of its own."""
    command = [sys.executable, str(ROOT / "scripts/bench_limits.py"), what, str(place), *flags]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return Limit(**json.loads(run_measured(command, cwd=ROOT, env={"PYTHONPATH": paths}).stdout.splitlines()[-1]))
