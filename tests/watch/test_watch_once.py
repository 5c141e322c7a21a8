"""`watch --once`, as cron calls it again and again, and a daemon that is killed: each goes on where it left off."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.errors import EngineError, ExitCode
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.output.run_json import RunReport
from cxrbatch.system.progress import RunProgress
from cxrbatch.upkeep.status import Status, read_status
from cxrbatch.watch.daemon import watch_folder
from cxrbatch.watch.health import Canary
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

pytestmark = pytest.mark.hostile("9.11 watch --once has a memory")

LIMIT_S = 90.0
POISON = 77


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines", poison_value=POISON))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image(tmp_path / "images" / "study" / "whole.png", 0, 80, 160, 240)
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def once(images: Path, out: Path, engine: str) -> Callable[..., RunReport]:
    """One call of cron."""

    def call(**settings: Any) -> RunReport:
        given: dict[str, Any] = {
            "engine": engine, "workers": 1, "pdf": False, "pixel_check": False, "settle_s": 0.2, "interval_s": 0.2,
            "group_by": "folder",
        }  # fmt: skip
        with RunProgress(Console(quiet=True), counts=False) as progress:
            return watch_folder(images, out, lambda: Settings(**given | settings), progress, once=True)

    return call


def write_half(path: Path) -> Path:
    whole = write_image(path, 240, 80, 160, 0).read_bytes()
    path.write_bytes(whole[: len(whole) - 40])
    return path


def statuses(out: Path) -> dict[str, str]:
    return {row["path"]: row["reason"] or row["status"] for row in read_rows(out / "images.csv")}


def seconds_left(status: Status) -> float:
    (waiting,) = status.waiting
    left = subprocess.run(["date", "-d", waiting.until, "+%s"], capture_output=True, check=True, text=True)
    return float(left.stdout) - time.time()


def test_a_truncated_file_holds_its_study_for_max_wait_and_not_for_ever(
    images: Path, out: Path, once: Callable[..., RunReport]
) -> None:
    write_half(images / "study" / "half.png")
    first = time.monotonic()
    while once(max_wait_s=2).studies.get("reported", 0) == 0:
        assert statuses(out) == {"study/whole.png": "pending", "study/half.png": "pending"}
        assert time.monotonic() - first < LIMIT_S
    assert time.monotonic() - first >= 2
    assert statuses(out) == {"study/whole.png": "scored", "study/half.png": "truncated_pixels"}
    with closing(sqlite3.connect(out / LEDGER_FILE)) as database:
        assert database.execute("SELECT count(*) FROM arrivals").fetchone() == (0,)


def test_the_rest_that_comes_between_two_calls_is_waited_for(
    images: Path, out: Path, once: Callable[..., RunReport]
) -> None:
    half = write_half(images / "study" / "half.png")
    once(max_wait_s=600)
    write_image(half, 240, 80, 160, 0)
    once(max_wait_s=600)
    assert set(statuses(out).values()) == {"scored"}


def test_a_file_that_is_no_image_yet_is_refused_by_the_second_call_at_the_latest(
    images: Path, out: Path, once: Callable[..., RunReport]
) -> None:
    (images / "study" / "new.dcm").write_bytes(b"")
    once()
    assert statuses(out)["study/new.dcm"] == "not_an_image"


def test_run_and_watch_take_turns(images: Path, out: Path, engine: str, once: Callable[..., RunReport]) -> None:
    half = write_half(images / "study" / "half.png")
    once(max_wait_s=600)
    run_quietly(images, out, engine=engine, group_by="folder")
    assert statuses(out) == {"study/whole.png": "scored", "study/half.png": "truncated_pixels"}
    once(max_wait_s=600)
    assert statuses(out) == {"study/whole.png": "scored", "study/half.png": "truncated_pixels"}
    half.write_bytes(half.read_bytes()[:-5])
    once(max_wait_s=600)
    assert statuses(out)["study/half.png"] == "pending"


def test_what_failed_is_tried_again_after_retry_s_and_not_at_every_call(
    images: Path, out: Path, once: Callable[..., RunReport]
) -> None:
    write_image(images / "poison" / "a.png", POISON, 10, 10, 10)
    assert once(retry_s=3600).studies == {"reported": 1, "failed": 1}
    assert once(retry_s=3600).studies_this_run == 0
    assert once(retry_s=0.1).studies_this_run == 1


def test_another_engine_scores_at_once_whatever_failed_before(
    images: Path, out: Path, once: Callable[..., RunReport], tmp_path: Path
) -> None:
    once(retry_s=3600)
    other = write_tiny_bundle(tmp_path / "other")
    assert once(retry_s=3600, engine=str(other)).studies_this_run == 1


# --------------------------------------------------------------------------- status says why, and until when


def test_status_says_that_a_study_waits_for_the_rest_of_a_file(
    images: Path, out: Path, once: Callable[..., RunReport], capsys: pytest.CaptureFixture[str]
) -> None:
    write_half(images / "study" / "half.png")
    once(max_wait_s=600)
    (waiting,) = read_status(out).waiting
    assert waiting.why == "1 of 2 files cut short: waits for the rest, then is taken as it is"
    assert 500 < seconds_left(read_status(out)) <= 600
    assert run_command_line(["status", str(out)]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert f"  {waiting.study_key}: {waiting.why}, until " in shown
    assert "half" not in shown
    assert run_command_line(["status", str(out), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["waiting"] == [
        {"study_key": waiting.study_key, "why": waiting.why, "until": waiting.until}
    ]


def test_status_says_how_long_a_study_has_been_unchanged(
    images: Path, out: Path, once: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.watch.daemon._Daemon.pass_once", lambda daemon: daemon._pass(limit=0))
    once(settle_s=60)
    (waiting,) = read_status(out).waiting
    assert waiting.why.startswith("still arriving: unchanged for ")
    assert waiting.why.endswith(" of 60 s")
    assert 0 < seconds_left(read_status(out)) <= 61


def test_status_counts_files_that_belong_to_no_study_yet(
    images: Path, out: Path, once: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    once()
    (images / "study" / "new.dcm").write_bytes(b"")
    monkeypatch.setattr("cxrbatch.watch.daemon._Daemon.pass_once", lambda daemon: daemon._pass(limit=0))
    once(settle_s=60)
    (waiting,) = read_status(out).waiting
    assert waiting.study_key == ""
    assert waiting.why.startswith("1 files that do not look like images so far")


def test_status_says_what_is_queued_and_when_what_failed_is_tried_again(
    images: Path, out: Path, engine: str, once: Callable[..., RunReport], capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(images / "poison" / "a.png", POISON, 10, 10, 10)
    once(retry_s=3600)
    (failed,) = read_status(out).waiting
    assert failed.why.startswith("failed: tried again")
    assert 3000 < seconds_left(read_status(out)) <= 3600
    assert run_command_line(["status", str(out)]) == ExitCode.DONE
    assert "the next run tries them again, watch not before " in capsys.readouterr().out
    for number in range(30):
        write_image(images / f"{number}" / "a.png", 240, 80, number, 0)
    run_quietly(images, out, engine=engine, group_by="folder", limit=1)
    assert [each.why for each in read_status(out).waiting].count("queued") >= 29
    assert run_command_line(["status", str(out)]) == ExitCode.DONE
    assert "... and 1" in capsys.readouterr().out


def test_status_says_what_keeps_the_daemon_from_its_work_until_it_works_again(
    images: Path, out: Path, engine: str, once: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    once()

    def fails(*_: object) -> None:
        raise EngineError("engine x: it hangs.")

    with monkeypatch.context() as patched:
        patched.setattr(Canary, "sing", fails)
        patched.setattr("cxrbatch.watch.daemon._Daemon.pass_once", lambda daemon: daemon._prove())
        with pytest.raises(EngineError):
            once()
    assert read_status(out).trouble == "engine x: it hangs."
    run_quietly(images, out, engine=engine, group_by="folder")
    assert read_status(out).trouble == ""


def test_status_of_a_ledger_from_before_says_what_it_can(
    images: Path, out: Path, once: Callable[..., RunReport]
) -> None:
    once()
    with closing(sqlite3.connect(out / LEDGER_FILE, isolation_level=None)) as database:
        database.execute("DROP TABLE arrivals")
        database.execute("DELETE FROM meta WHERE key IN ('arrivals', 'retried')")
        database.execute("UPDATE studies SET status = 'pending'")
        database.execute("PRAGMA user_version = 2")
    (waiting,) = read_status(out).waiting
    assert waiting.why == "queued"


# --------------------------------------------------------------------------- a daemon that is killed


def test_a_daemon_that_is_killed_again_and_again_forgets_nothing(images: Path, out: Path, engine: str) -> None:
    write_half(images / "study" / "half.png")
    command = [
        sys.executable, "-m", "cxrbatch", "watch", str(images), "-o", str(out), "-e", engine, "--settle", "0.5",
        "--interval", "0.2", "--max-wait", "4", "--no-pdf", "--workers", "1", "--group-by", "folder",
    ]  # fmt: skip
    environment = os.environ | {"CXRBATCH_PIXEL_CHECK": "false"}
    for lives in range(1, 30):
        former = content(out / "run.json")
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            try:
                # It has looked at the folder, and written its tables: enough of a life.
                wait_until(partial(is_other, out / "run.json", former))
            finally:
                child.send_signal(signal.SIGKILL)
        if "truncated_pixels" in content(out / "images.csv"):
            assert lives > 1
            break
    assert statuses(out) == {"study/whole.png": "scored", "study/half.png": "truncated_pixels"}


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_other(path: Path, former: str) -> bool:
    return content(path) not in {"", former}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
