"""The wall clock may jump: what is done, what waits and what takes too long never depends on it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.errors import ExitCode
from cxrbatch.system.workers import WorkerPool, WorkerTimedOut
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.studies import read_rows, write_image

DAY_NS = 86400 * 10**9


@pytest.fixture(scope="module")
def runs() -> Iterator[FaultedRuns]:
    with FaultedRuns() as runs:
        yield runs


def shift_mtime(path: Path, days: int) -> None:
    mtime_ns = path.stat().st_mtime_ns + days * DAY_NS
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_a_clock_that_jumps_between_runs_skips_nothing_and_doubles_nothing(tmp_path: Path, runs: FaultedRuns) -> None:
    images, out, engine = tmp_path / "images", tmp_path / "out", str(write_tiny_bundle(tmp_path / "engines"))
    for name in ("a", "b"):
        write_image(images / f"{name}.png", 20, 60, 120, 240)
    assert runs.run(images, out, engine).exit_code == ExitCode.DONE
    first = {row["path"]: row for row in read_rows(out / "images.csv")}

    shift_mtime(write_image(images / "a.png", 240, 120, 60, 20), -2)
    shift_mtime(write_image(images / "c.png", 20, 240, 120, 60), 3)
    assert runs.run(images, out, engine, clock_days=-1).reached["report-written"] == 2
    second = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert {row["status"] for row in second.values()} == {"scored"}
    assert second["b.png"] == first["b.png"]
    assert second["a.png"]["prob_TopLeft"] > first["a.png"]["prob_TopLeft"]
    assert second["a.png"]["scored_at"] < first["a.png"]["scored_at"]
    assert sorted(row["revision"] for row in read_rows(out / "studies.csv")) == ["1", "1", "2"]

    assert runs.run(images, out, engine, clock_days=400).reached["report-written"] == 0
    assert {row["path"]: row for row in read_rows(out / "images.csv")} == second


def test_a_run_killed_before_the_clock_was_set_back_resumes(tmp_path: Path, runs: FaultedRuns) -> None:
    images, out, engine = tmp_path / "images", tmp_path / "out", str(write_tiny_bundle(tmp_path / "engines"))
    for name in ("a", "b"):
        write_image(images / f"{name}.png", 20, 60, 120, 240)
    runs.run(images, out, engine, fault="report-write:2=kill")
    resumed = runs.run(images, out, engine, clock_days=-1)
    assert (resumed.exit_code, resumed.reached["report-written"]) == (ExitCode.DONE, 1)
    assert [row["revision"] for row in read_rows(out / "studies.csv")] == ["1", "1"]


def test_a_clock_that_leaps_forward_makes_no_task_late(monkeypatch: pytest.MonkeyPatch) -> None:
    leaps = itertools.count(time.time(), 86400)
    with WorkerPool(1, memory_mb=200) as pool:
        monkeypatch.setattr(time, "time", lambda: next(leaps))
        outcomes = list(pool.run_ahead(time.sleep, [0.5, 0.5], timeout_s=60))
    assert [outcome.value() for outcome in outcomes] == [None, None]


def test_a_clock_that_falls_back_makes_no_task_early(monkeypatch: pytest.MonkeyPatch) -> None:
    falls = itertools.count(time.time(), -86400)
    with WorkerPool(1, memory_mb=200) as pool:
        monkeypatch.setattr(time, "time", lambda: next(falls))
        (outcome,) = pool.run_ahead(time.sleep, [20], timeout_s=0.5)
    with pytest.raises(WorkerTimedOut):
        outcome.value()
