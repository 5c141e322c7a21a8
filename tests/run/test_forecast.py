"""`run --dry-run`: it says what the run then does, and changes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.output.folder.opening import open_output
from cxrbatch.run.forecast import Forecast, foresee_run
from cxrbatch.system.progress import RunProgress
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import fingerprint, run_quietly, write_image


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b", "c")):
        write_image(tmp_path / "images" / f"{name}.png", 20 + 20 * number, 60, 120, 240)
    (tmp_path / "images" / "notes.txt").write_text("x" * 300)
    return tmp_path / "images"


def foresee(root: Path, out: Path, since_ns: int = 0, **settings: Any) -> Forecast:
    defaults: dict[str, Any] = {"workers": 1, "pdf": False, "pixel_check": False}
    with RunProgress(Console(quiet=True)) as progress:
        return foresee_run(root, out, Settings(**(defaults | settings)), progress, since_ns=since_ns)


def everything(folder: Path) -> dict[str, tuple[str, int]]:
    """Return what lies below a folder, folders and empty ones among it."""
    folders = {str(path): ("", path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_dir()}
    return fingerprint(folder) | folders


def files_but_memory(out: Path) -> dict[str, tuple[str, int]]:
    """Return the files of OUT but the memory that SQLite's connections share, in which readers note what they read."""
    return {name: what for name, what in fingerprint(out).items() if not name.endswith("-shm")}


def test_a_first_run_is_foreseen_and_no_folder_is_made(images: Path, tmp_path: Path, engine: str) -> None:
    before = everything(tmp_path)
    forecast = foresee(images, tmp_path / "out", engine=engine)
    assert everything(tmp_path) == before
    assert forecast.files == {"new": 4, "changed": 0, "unchanged": 0, "gone": 0}
    assert (forecast.refused, forecast.studies, forecast.images) == ({"not_an_image": 1}, 3, 3)
    assert (forecast.engine.name, forecast.engine.backend) == ("tiny", "onnxruntime")
    done = run_quietly(images, tmp_path / "out", engine=engine)
    assert (done.reasons, done.studies_this_run) == (forecast.refused, forecast.studies)


def test_a_later_run_is_foreseen_and_nothing_is_changed(images: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine)
    assert foresee(images, out, engine=engine).studies == 0
    (images / "a.png").unlink()
    write_image(images / "b.png", 240, 60, 120, 20)
    os.utime(images / "b.png", ns=(0, 1_700_000_000_000_000_000))
    write_image(images / "new.png", 100, 60, 120, 20)
    before = everything(tmp_path)
    forecast = foresee(images, out, engine=engine)
    assert everything(tmp_path) == before
    assert forecast.files == {"new": 1, "changed": 1, "unchanged": 2, "gone": 1}
    assert (forecast.refused, forecast.studies, forecast.images) == ({}, 2, 2)
    assert run_quietly(images, out, engine=engine).studies_this_run == forecast.studies


def test_another_engine_scores_all_that_is_still_there(images: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine)
    other = str(write_tiny_bundle(tmp_path / "engines", name="other", labels=("One",)))
    (images / "a.png").unlink()
    forecast = foresee(images, out, engine=other)
    assert (forecast.engine.name, forecast.studies) == ("other", 2)
    assert run_quietly(images, out, engine=other).studies_this_run == 2


def test_limit_and_since_hold_here_too(images: Path, tmp_path: Path, engine: str) -> None:
    os.utime(images / "a.png", ns=(0, 1_700_000_000_000_000_000))
    assert foresee(images, tmp_path / "out", engine=engine, limit=1).studies == 1
    assert foresee(images, tmp_path / "out", since_ns=1_700_000_001_000_000_000, engine=engine).studies == 2


def test_a_folder_that_a_run_holds_can_be_foreseen(images: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine)
    write_image(images / "new.png", 100, 60, 120, 20)
    with open_output(out):
        before = everything(images) | files_but_memory(out)
        assert foresee(images, out, engine=engine).studies == 1
        assert everything(images) | files_but_memory(out) == before


def test_a_ledger_elsewhere_is_found_and_left_alone(images: Path, tmp_path: Path, engine: str) -> None:
    run_quietly(images, tmp_path / "out", engine=engine, state=str(tmp_path / "state"))
    before = everything(tmp_path)
    assert foresee(images, tmp_path / "out", engine=engine).files["unchanged"] == 4
    assert everything(tmp_path) == before


@pytest.mark.parametrize("existing", [False, True])
def test_what_is_deidentified_is_recognised(images: Path, tmp_path: Path, engine: str, *, existing: bool) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine, deidentify=not existing)
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="--deidentify"):
        foresee(images, out, engine=engine, deidentify=existing)
    forecast = foresee(images, out, engine=engine, deidentify=True, deidentify_existing=existing)
    assert (forecast.files["unchanged"], forecast.studies) == (4, 0)
    assert everything(tmp_path) == before


def test_what_a_run_refuses_is_refused(images: Path, tmp_path: Path, engine: str) -> None:
    run_quietly(images, tmp_path / "out", engine=engine)
    with pytest.raises(UsageError, match="holds the results of"):
        foresee(tmp_path / "engines", tmp_path / "out", engine=engine)
    for path in images.iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="Check that it is mounted"):
        foresee(images, tmp_path / "out", engine=engine)


def test_a_single_file_is_foreseen(images: Path, tmp_path: Path, engine: str) -> None:
    assert foresee(images / "a.png", tmp_path / "out", engine=engine).files["new"] == 1


def test_the_command_says_it_and_ends_with_0(
    images: Path, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(images), "-o", str(tmp_path / "out"), "-e", engine, "--workers", "1", "--dry-run"]
    assert run_command_line(command) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "would run tiny on onnxruntime, fp32" in printed
    assert "4 new, 0 changed, 0 unchanged, 0 gone" in printed
    assert "1 not_an_image" in printed
    assert "3 studies, 3 images" in printed
    assert "Nothing was changed" in printed
    assert not (tmp_path / "out").exists()
