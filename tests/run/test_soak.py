"""What `make soak` does at length, a few times: runs that are killed or stopped at random moments lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cxrbatch.errors import ExitCode
from scripts.soak import soak
from scripts.soak_round import Plan
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

KILLS = int(os.environ.get("CXRBATCH_SOAK_KILLS", "3"))
# Runs that are killed while nothing else changes are part of those below; `make soak` has them at length.
WAYS = [True] if "CXRBATCH_SOAK_KILLS" not in os.environ else [False, True]
PATIENCE_S = 60.0


@pytest.mark.slow
@pytest.mark.parametrize("stops", WAYS, ids=lambda stops: "stopped" if stops else "killed")
def test_runs_interrupted_at_random_moments_lose_nothing(tmp_path: Path, stops: bool) -> None:
    kills = max(2, KILLS // 2) if stops else KILLS
    record = soak(tmp_path, Plan(kills=kills, studies=4, seed=3, workers=1, pdf=False, stops=stops))
    assert record.kills.total() == kills
    assert record.is_clean, record


# Kills around the PDF are those of test_report_and_ledger.py, point by point.
@pytest.mark.slow
@pytest.mark.hostile("9.1 report and ledger")
def test_runs_killed_at_random_moments_lose_nothing_although_input_and_engine_change(tmp_path: Path) -> None:
    kills = max(3, KILLS // 2)
    record = soak(tmp_path, Plan(kills=kills, studies=4, seed=5, workers=1, pdf=False, changes=True))
    assert record.kills.total() == kills
    assert record.is_clean, record


def test_a_second_signal_ends_the_run_at_once_and_no_worker_outlives_it(tmp_path: Path) -> None:
    images, out, engine = tmp_path / "images", tmp_path / "out", str(write_tiny_bundle(tmp_path / "engines"))
    for number in range(40):
        write_image(images / f"{number:02}.png", number, 200 - number, 128, 60)
    command = [sys.executable, "-m", "cxrbatch", "run", str(images), "-o", str(out), "-e", engine, "--workers", "1"]
    # However late the second signal of this process comes, one comes before the run has written its tables.
    environment = os.environ | {"CXRBATCH_FAULT": "table-write=term", "CXRBATCH_PIXEL_CHECK": "false"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    child = subprocess.Popen([*command, "--no-pdf"], env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not ((out / "cxrbatch.log").exists() and is_scoring(out)):
        time.sleep(0.02)
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    assert len(family) > 1
    while child.poll() is None and time.monotonic() < deadline + PATIENCE_S:
        child.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert child.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    assert psutil.wait_procs(family, timeout=PATIENCE_S)[1] == []
    assert run_quietly(images, out, engine=engine).exit_code == ExitCode.DONE
    assert {row["status"] for row in read_rows(out / "images.csv")} == {"scored"}
    assert {row["revision"] for row in read_rows(out / "studies.csv")} == {"1"}


def is_scoring(out: Path) -> bool:
    return "study done" in (out / "cxrbatch.log").read_text()
