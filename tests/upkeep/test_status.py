"""What an administrator sees of an output folder."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, Reason
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.pages.wording import reason_sentence
from cxrbatch.upkeep import status
from cxrbatch.upkeep.status import read_status
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import fingerprint, run_quietly, write_image

POISON = 77


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run: two studies scored, one failed, two files refused."""
    folder = tmp_path_factory.mktemp("status")
    images = folder / "images of today"
    write_image(images / "a.png", 20, 60, 120, 240)
    write_image(images / "b.png", 200, 10, 10, 10)
    write_image(images / "poison.png", POISON, 10, 10, 10)
    (images / "notes.txt").write_text("no image")
    (images / "more.txt").write_text("no image")
    engine = write_tiny_bundle(folder / "engines", name="poisonous", poison_value=POISON)
    run_quietly(images, folder / "out", engine=str(engine))
    return folder / "out"


@pytest.fixture
def out(results: Path, tmp_path: Path) -> Path:
    """A copy of the results, to do with as one likes."""
    return Path(shutil.copytree(results, tmp_path / "out"))


def told(out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert run_command_line(["status", str(out), *options]) == ExitCode.DONE
    return capsys.readouterr().out


def told_as_json(out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(told(out, capsys, "--json")))


def test_status_tells_what_was_done_what_failed_and_why_files_were_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = told(out, capsys)
    assert "no run is working on it" in shown
    assert "nothing is waiting" in shown
    assert "2 reported, 1 failed" in shown
    assert "2 rejected, 2 scored, 1 failed" in shown
    assert "3 studies, 2 images in" in shown
    assert "poisonous on onnxruntime, fp32" in shown
    assert "failed studies: 1" in shown
    assert f"2 not_an_image: {reason_sentence('not_an_image')}" in shown


def test_status_says_how_to_try_again_in_words_that_a_shell_takes(
    results: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"cxrbatch run '{results.parent / 'images of today'}' -o {out} --retry"
    shown = told(out, capsys)
    assert f"{command} failed\n" in shown
    assert f"{command} rejected\n" in shown
    assert told_as_json(out, capsys)["retry"] == {"failed": f"{command} failed", "rejected": f"{command} rejected"}


def test_status_as_json_holds_every_failure_and_every_reason(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told_as_json(out, capsys)
    assert found["studies"] == {"reported": 2, "failed": 1}
    assert found["files"] == {"scored": 2, "rejected": 2, "failed": 1}
    assert found["refused"][Reason.NOT_AN_IMAGE.value] == 2
    ((key, message),) = found["failures"].items()
    assert len(key) == 16
    assert message
    run = json.loads((out / "run.json").read_text())
    assert found["last_run"]["finished"] is True
    assert found["last_run"]["engine"]["sha256"] == run["engine"]["sha256"]
    assert found["last_run"]["wall_s"] == run["wall_s"]


def test_ledger_and_lock_may_lie_elsewhere(out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "local disk"
    elsewhere.mkdir()
    with open_output(out):
        pass  # a copy of the folder that others use in this file: now it is one of its own
    (out / LEDGER_FILE).rename(elsewhere / LEDGER_FILE)
    with open_output(out, state=str(elsewhere)):
        found = read_status(out)
    assert found.files == {"scored": 2, "rejected": 2, "failed": 1}
    assert found.process == str(os.getpid())
    assert found.last_run is not None


def test_status_changes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprint(out)
    told(out, capsys)
    assert fingerprint(out) == before


def test_status_names_who_is_at_work(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_output(out):
        assert f"process {os.getpid()} is working on it" in told(out, capsys)
        assert told_as_json(out, capsys)["process"] == str(os.getpid())
    assert told_as_json(out, capsys)["process"] == ""


def test_status_tells_how_many_studies_wait_and_for_how_long(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    since = (datetime.now(timezone.utc) - timedelta(hours=3)).isoformat(timespec="seconds")
    with closing(sqlite3.connect(out / LEDGER_FILE, isolation_level=None)) as database:
        if "queued_at" not in {name for _, name, *_ in database.execute("PRAGMA table_info(studies)")}:
            database.execute("ALTER TABLE studies ADD COLUMN queued_at TEXT NOT NULL DEFAULT ''")
        database.execute("UPDATE studies SET status = 'pending', queued_at = ?", (since,))
    assert "studies waiting: 3, the oldest for 3 h 00 min" in told(out, capsys)
    found = told_as_json(out, capsys)
    assert found["studies_waiting"] == 3
    assert 3 * 3600 <= found["oldest_waiting_s"] < 4 * 3600


@pytest.mark.parametrize("content", [None, "{", '{"finished": "perhaps"}'])
def test_a_run_that_left_no_readable_record_is_no_obstacle(
    out: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    (out / "run.json").unlink()
    if content is not None:
        (out / "run.json").write_text(content)
    assert "none on record" in told(out, capsys)


def test_the_record_of_another_version_is_read_as_far_as_it_goes(out: Path) -> None:
    (out / "run.json").write_text('{"finished": true, "wall_s": 4.0, "studies_this_run": 8, "of_the_future": []}')
    last_run = read_status(out).last_run
    assert last_run is not None
    assert (last_run.finished, last_run.studies_per_s) == (True, 2.0)


def test_many_failures_are_counted_not_all_shown(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(out / LEDGER_FILE, isolation_level=None)) as database:
        database.executemany(
            "INSERT INTO studies (study_key, status, message) VALUES (?, 'failed', '[red]:bug: broken')",
            [(f"{number:016x}",) for number in range(100)],
        )
    shown = told(out, capsys)
    assert "failed studies: 101" in shown
    assert shown.count("[red]:bug: broken") <= status.FAILURES_SHOWN
    assert "... and 81 more" in shown
    assert len(told_as_json(out, capsys)["failures"]) == 101


def test_status_of_what_is_no_output_folder_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["status", str(tmp_path)]) == ExitCode.USAGE
    assert "Name the output folder of a run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_ledger_is_told_with_the_way_out(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / LEDGER_FILE).write_bytes(b"damaged, beyond doubt" * 100)
    assert run_command_line(["status", str(out)]) != ExitCode.DONE
    assert "the ledger is damaged" in capsys.readouterr().err
