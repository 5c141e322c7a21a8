"""What an output folder inside INPUT hides, what only pretends to be one, and who is told."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.intake.discover import walk
from cxrbatch.run.source import check_folders
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

pytestmark = pytest.mark.hostile("9.9 folders that pretend to be ours")

MARKER, LOG = ".cxrbatch.json", "cxrbatch.log"
GENUINE = json.dumps({"state": "", "output_id": "0123456789abcdef", "input_sha256": "", "index_rules": ""})


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image(tmp_path / "images" / "study" / "deep" / "a.png", 20, 60, 120, 240)
    return tmp_path / "images"


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def reserve(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(100 * 2**30)


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


FORGED: dict[str, Callable[[Path], object]] = {
    "empty": Path.touch,
    "no JSON": text("cxrbatch"),
    "a list": text('["output_id"]'),
    "nothing in it": text("{}"),
    "of another program": text('{"version": 1}'),
    "id that is none": text('{"output_id": ""}'),
    "id that is too long": text(json.dumps({"output_id": "0" * 17})),
    "id that is a number": text('{"output_id": 1234567890123456}'),
    "nested 100000 deep": text("[" * 100_000),
    "no text": lambda path: path.write_bytes(bytes(range(256))),
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": listen,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link that leads nowhere": lambda path: path.symlink_to(path.parent / "gone"),
    "100 GB of zeros": reserve,
}


@pytest.mark.parametrize("write", FORGED.values(), ids=FORGED)
def test_a_folder_with_names_like_ours_hides_nothing(images: Path, write: Callable[[Path], object]) -> None:
    for name in (LOG, "ledger.sqlite", "run.json"):
        (images / "study" / name).touch()
    (images / "study" / "ledger.sqlite").write_bytes(b"SQLite format 3\0")
    write(images / "study" / MARKER)
    hidden: list[Path] = []
    assert "study/deep/a.png" in {file.path for file in walk(images, on_hidden=hidden.append)}
    assert not hidden
    check_folders(images / "study", images.parent / "out")


def test_a_marker_alone_that_a_backup_left_hides_nothing(images: Path) -> None:
    (images / "study" / MARKER).write_text(GENUINE)
    assert [file.path for file in walk(images)] == ["study/deep/a.png"]


def test_a_whole_output_folder_is_left_out_and_said(
    images: Path,
    tmp_path: Path,
    engine: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    run_quietly(images, tmp_path / "out", engine=engine)
    shutil.copytree(tmp_path / "out", images / "earlier" / "results")
    arguments = ["run", str(images), "-o", str(tmp_path / "next"), "--engine", engine, "--no-pdf", "--workers", "1"]
    assert run_command_line(arguments) == ExitCode.DONE
    assert "1 folders of the input were left out" in " ".join(capsys.readouterr().out.split())
    assert [row["path"] for row in read_rows(tmp_path / "next" / "images.csv")] == ["study/deep/a.png"]
    assert json.loads((tmp_path / "next" / "run.json").read_text())["folders_hidden"] == 1
    events = [json.loads(line) for line in (tmp_path / "next" / LOG).read_text().splitlines()]
    assert [event["hidden"] for event in events if event["event"] == "indexed"] == [1]
    assert run_command_line(["status", str(tmp_path / "next")]) == ExitCode.DONE
    assert "left out" in capsys.readouterr().out


def test_an_output_folder_as_input_is_refused(images: Path, tmp_path: Path, engine: str) -> None:
    run_quietly(images, tmp_path / "out", engine=engine)
    with pytest.raises(UsageError, match="an output folder of cxrbatch"):
        check_folders(tmp_path / "out", tmp_path / "next")


def test_images_that_a_forged_marker_hides_keep_their_results_and_are_not_gone(
    images: Path, tmp_path: Path, engine: str
) -> None:
    write_image(images / "other" / "b.png", 20, 60, 120, 240)
    run_quietly(images, tmp_path / "out", engine=engine)
    (images / "study" / LOG).touch()
    (images / "study" / MARKER).write_text(GENUINE)
    report = run_quietly(images, tmp_path / "out", engine=engine)
    assert (report.files, report.folders_hidden) == ({"scored": 2}, 1)
    (images / "study" / MARKER).unlink()
    after = run_quietly(images, tmp_path / "out", engine=engine)
    # The empty log that was left there is met as what it is.
    assert (after.files, after.folders_hidden) == ({"scored": 2, "rejected": 1}, 0)
    assert after.studies_this_run == 0


def test_a_marker_that_cannot_be_read_leaves_its_folder_for_later(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "study" / LOG).touch()
    (images / "study" / MARKER).write_text(GENUINE)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    errors: list[OSError] = []
    assert list(walk(images, on_error=errors.append)) == []
    assert len(errors) == 1
    with pytest.raises(UsageError, match="Check that it is readable"):
        check_folders(images / "study", tmp_path / "out")
