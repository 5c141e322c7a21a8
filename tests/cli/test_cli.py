"""The command line as a shell sees it: output, exit codes, and help that needs nothing heavy."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from cxrbatch.cli import commands, run_command_line
from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.manifest import PENDING
from cxrbatch.errors import ExitCode
from cxrbatch.output.folder.opening import open_output
from cxrbatch.records import Label
from tests.factories.engine import PASSED_INT8, add_tiny_int8, write_tiny_bundle
from tests.factories.gpu import add_plan
from tests.factories.studies import read_rows, write_image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image(tmp_path / "images" / "a.png", 20, 60, 120, 240)
    write_image(tmp_path / "images" / "b.png", 200, 10, 10, 10)
    return tmp_path / "images"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "engines")


@pytest.fixture(autouse=True)
def _grey_quadrants_pass_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")


def cxrbatch(*arguments: str | Path) -> int:
    return run_command_line([str(argument) for argument in arguments])


def run(images: Path, tmp_path: Path, engine: Path, *more: str) -> int:
    return cxrbatch("run", images, "-o", tmp_path / "out", "-e", engine, "--workers", "1", "--no-pdf", *more)


def test_run_scores_says_what_it_did_and_where_to_look(
    images: Path, tmp_path: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(images, tmp_path, engine) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "2 scored" in printed
    assert str(tmp_path / "out" / "index.html") in printed
    assert "A test engine: it measures brightness." in printed


def test_report_prints_again_without_any_engine(images: Path, tmp_path: Path, engine: Path) -> None:
    run(images, tmp_path, engine)
    (engine / "engine.json").unlink()
    study = read_rows(tmp_path / "out" / "studies.csv")[0]
    page = tmp_path / "out" / study["report_html"]
    before = page.read_text()
    page.unlink()
    assert cxrbatch("report", tmp_path / "out", "--study", study["study_key"], "--workers", "1") == ExitCode.DONE
    assert page.read_text() == before
    assert (page.parent / "report.pdf").read_bytes().startswith(b"%PDF-")


def test_heatmaps_of_labels_that_nobody_checked_are_shown_on_request_and_again_not(
    images: Path, tmp_path: Path
) -> None:
    labels = tuple(Label(name) for name in ("TopLeft", "TopRight"))
    engine = write_tiny_bundle(tmp_path / "unchecked", labels=labels)
    run(images, tmp_path, engine)
    pages = list((tmp_path / "out").glob("reports/*/report.html"))
    shown = []
    for choice in ("", "all", "validated"):
        if choice:
            arguments = ("--heatmaps", choice, "--no-pdf", "--workers", "1")
            assert cxrbatch("report", tmp_path / "out", *arguments) == ExitCode.DONE
        shown.append(["heatmap-1-" in page.read_text() for page in pages])
    assert shown == [[False, False], [True, True], [False, False]]


def test_a_run_may_show_all_heatmaps(images: Path, tmp_path: Path) -> None:
    engine = write_tiny_bundle(tmp_path / "unchecked", labels=(Label("TopLeft"),))
    run(images, tmp_path, engine, "--heatmaps", "all")
    for page in (tmp_path / "out").glob("reports/*/report.html"):
        assert "heatmap-1-" in page.read_text()
        assert "not validated" in page.read_text()


def test_report_says_which_study_it_cannot_print(
    images: Path, tmp_path: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(images, tmp_path, engine)
    study = read_rows(tmp_path / "out" / "studies.csv")[0]
    (picture,) = (tmp_path / "out" / "reports" / study["study_key"]).glob("image-1-*.jpg")
    picture.unlink()
    assert cxrbatch("report", tmp_path / "out", "--no-pdf", "--workers", "1") == ExitCode.SOME_STUDIES_FAILED
    assert study["study_key"] in capsys.readouterr().err


def test_inspect_tells_the_verdict_on_each_file(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "notes.txt").write_text("x" * 200)
    assert cxrbatch("inspect", "--json", images / "a.png", images / "notes.txt") == ExitCode.DONE
    accepted, refused = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (accepted["verdict"], accepted["display_rows"]) == ("scored", 128)
    assert (refused["verdict"], refused["reason"]) == ("rejected", "not_an_image")


def test_engines_lists_what_is_installed(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXRBATCH_ENGINES", str(engine.parent))
    assert cxrbatch("engines") == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "tiny" in printed
    assert "onnxruntime fp32" in printed
    assert "not compared with a checkpoint" in printed


def test_engines_says_what_runs_by_default_and_why_int8_does_not(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXRBATCH_ENGINES", str(engine.parent))
    monkeypatch.setenv("COLUMNS", "200")
    add_tiny_int8(engine)
    assert cxrbatch("engines") == ExitCode.DONE
    assert "onnxruntime int8, onnxruntime fp32" in capsys.readouterr().out
    add_tiny_int8(engine, replace(PASSED_INT8, decision_flips=30))
    assert cxrbatch("engines") == ExitCode.DONE
    told = capsys.readouterr().out
    assert "onnxruntime fp32, onnxruntime int8" in told
    assert "onnx_int8: not the default on a CPU: INT8 did not pass its gate" in told


def test_engines_says_of_a_plan_that_nobody_ran_that_it_is_pending(
    engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRBATCH_ENGINES", str(engine.parent))
    bundle = add_plan(engine)
    save_bundle(engine, replace(bundle.manifest, parity={"plan": PENDING}))
    assert cxrbatch("engines") == ExitCode.DONE
    assert "plan: pending" in capsys.readouterr().out


def test_run_takes_the_precision_asked_for_and_says_how_to_build_one_that_is_missing(
    images: Path, tmp_path: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(images, tmp_path, engine, "--precision", "int8") == ExitCode.ENGINE
    assert "has no onnx_int8 file" in (told := capsys.readouterr().err)
    assert "cxrbatch build CHECKPOINT -n tiny --precision int8" in told
    bundle = load_bundle(engine)
    int8 = replace(bundle.file("onnx"), precision="int8")
    save_bundle(engine, replace(bundle.manifest, files=bundle.manifest.files | {"onnx_int8": int8}))
    assert run(images, tmp_path, engine, "--precision", "int8") == ExitCode.DONE
    assert {row["precision"] for row in read_rows(tmp_path / "out" / "images.csv")} == {"int8"}


def test_doctor_finds_this_machine_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cxrbatch("doctor") == ExitCode.DONE
    printed = capsys.readouterr().out
    for backend in ("onnxruntime", "torch", "tensorrt", "tensorrt-rtx"):
        assert f"backend {backend}" in printed


# --------------------------------------------------------------------------- exit codes


def test_exit_1_for_a_bug_with_a_pointer_and_no_traceback(
    images: Path, tmp_path: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("cxrbatch.run.batch.run_batch", broken)
    assert run(images, tmp_path, engine) == ExitCode.UNEXPECTED
    error = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 6), (errno.EACCES, 6), (errno.ENOENT, 1)])
def test_what_the_machine_refuses_is_told_and_is_no_bug(
    number: int,
    code: int,
    images: Path,
    tmp_path: Path,
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setattr("cxrbatch.run.batch.run_batch", refused)
    assert run(images, tmp_path, engine) == code
    assert capsys.readouterr().err.startswith(f"cxrbatch: /some/place: {os.strerror(number)}. Check")


def test_exit_4_for_a_command_whose_packages_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setitem(sys.modules, "cxrbatch.model.build.build", None)
    assert cxrbatch("build", tmp_path / "model.safetensors", "-n", "x") == ExitCode.UNEXPECTED

    class WithoutTorch(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")

    monkeypatch.setitem(sys.modules, "cxrbatch.model.build.build", WithoutTorch("cxrbatch.model.build.build"))
    assert cxrbatch("build", tmp_path / "model.safetensors", "-n", "x") == ExitCode.CONFIGURATION
    assert "this command needs torch: pip install 'cxrbatch[train]'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["run"], ["run", "/nowhere", "-o", "x"], ["nonsense"], ["report", "."]])
def test_exit_2_for_wrong_usage(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cxrbatch(*arguments) == ExitCode.USAGE


def test_exit_3_when_something_is_left_to_retry(images: Path, tmp_path: Path) -> None:
    write_image(images / "poison.png", 77, 10, 10, 10)
    engine = write_tiny_bundle(tmp_path / "engines", name="poisonous", poison_value=77)
    assert run(images, tmp_path, engine) == ExitCode.SOME_STUDIES_FAILED


def test_exit_4_for_a_wrong_setting(
    images: Path, tmp_path: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(images, tmp_path, engine, "--batch-size", "-1") == ExitCode.CONFIGURATION
    assert "batch_size = -1: must be from 0 to 1024" in capsys.readouterr().err


def test_exit_5_for_an_engine_that_cannot_run(
    images: Path, tmp_path: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(images, tmp_path, engine, "--backend", "tensorrt") == ExitCode.ENGINE
    (engine / "model.onnx").write_bytes(b"tampered")
    assert run(images, tmp_path, engine) == ExitCode.ENGINE
    assert "not the file this engine was built with" in capsys.readouterr().err


def test_exit_6_for_an_output_that_cannot_be_written(images: Path, tmp_path: Path, engine: Path) -> None:
    (tmp_path / "file").touch()
    assert cxrbatch("run", images, "-o", tmp_path / "file" / "out", "-e", engine) == ExitCode.OUTPUT_NOT_WRITABLE


def test_exit_7_while_another_run_holds_the_output(images: Path, tmp_path: Path, engine: Path) -> None:
    with open_output(tmp_path / "out"):
        assert run(images, tmp_path, engine) == ExitCode.OUTPUT_LOCKED


# --------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", sorted(commands.commands))
def test_help_of_every_command_imports_nothing_heavy(command: str) -> None:
    script = (
        "import sys; from cxrbatch.cli import run_command_line; "
        f"code = run_command_line(['{command}', '--help']); "
        "heavy = {'torch', 'onnxruntime', 'pydicom', 'numpy', 'weasyprint', 'cv2', 'pandas'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: cxrbatch" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_python_dash_m_is_the_same_command(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "cxrbatch", *arguments], capture_output=True, text=True, check=True)
    assert "cxrbatch" in done.stdout


def test_build_says_at_once_that_a_plan_needs_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.engine.cuda.DRIVER_LIBRARY", str(tmp_path / "libcuda.so.1"))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    arguments = ("build", tmp_path / "model.safetensors", "-n", "x", "--engines", tmp_path / "engines")
    assert cxrbatch(*arguments, "--backend", "tensorrt") == ExitCode.ENGINE
    told = capsys.readouterr().err
    assert "here is none: no NVIDIA driver" in told
    assert "--onnx-only" in told
    assert cxrbatch(*arguments, "--min-batch", "9", "--opt-batch", "4") == ExitCode.USAGE
    assert "1 <= min <= opt <= max, not 9, 4, 128" in capsys.readouterr().err


def test_run_says_at_once_that_a_backend_needs_a_gpu(
    images: Path, tmp_path: Path, engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.engine.cuda.DRIVER_LIBRARY", str(tmp_path / "libcuda.so.1"))
    assert run(images, tmp_path, engine, "--backend", "tensorrt") == ExitCode.ENGINE
    assert "backend tensorrt cannot run here: needs an NVIDIA GPU: no NVIDIA driver" in capsys.readouterr().err
