"""`cxrbatch bench`: every file that runs here, beside the backend on its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.manifest import EngineFile
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError, ExitCode, UsageError
from cxrbatch.upkeep.bench import BenchOptions, measure_engine, time_in_turns
from tests.factories.engine import write_tiny_bundle


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrbatch.upkeep.bench._SETTLE_S", 0.0)


QUICK = BenchOptions(batch_sizes=(1, 3), seconds=0.01, threads=1)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A tiny bundle that says to have an INT8 file too."""
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    (bundle.folder / "int8.onnx").write_bytes((bundle.folder / "model.onnx").read_bytes())
    int8 = EngineFile("int8.onnx", sha256_of_file(bundle.folder / "int8.onnx"), "int8")
    save_bundle(bundle.folder, replace(bundle.manifest, files=bundle.manifest.files | {"onnx_int8": int8}))
    return bundle.folder


def test_every_file_is_measured_at_every_batch_size(engine: Path) -> None:
    report = measure_engine(load_bundle(engine), QUICK)
    assert [(row.backend, row.precision, row.batch_size) for row in report.rows] == [
        ("onnxruntime", "fp32", 1), ("onnxruntime", "fp32", 3), ("onnxruntime", "int8", 1), ("onnxruntime", "int8", 3),
    ]  # fmt: skip
    for row in report.rows:
        assert row.calls >= 5
        assert row.latency_p95_ms >= row.latency_ms > 0
        assert row.images_per_s == pytest.approx(1e3 * row.batch_size / row.latency_ms, rel=0.05)
        assert row.alone_images_per_s is not None
        assert row.alone_images_per_s > 0


def test_one_precision_is_measured_alone(engine: Path) -> None:
    report = measure_engine(load_bundle(engine), BenchOptions(precision="int8", batch_sizes=(2,), seconds=0.01))
    assert {row.precision for row in report.rows} == {"int8"}


def test_what_cannot_run_is_an_error(engine: Path) -> None:
    with pytest.raises(EngineError, match="has no onnx_fp16 file"):
        measure_engine(load_bundle(engine), BenchOptions(precision="fp16"))


def test_both_are_called_in_turns_and_first_calls_do_not_count() -> None:
    calls: list[str] = []
    whole, alone = time_in_turns(lambda: calls.append("whole"), lambda: calls.append("alone"), 1e-9)
    assert calls == ["whole", "whole", "alone", "alone"] * 5
    assert (len(whole), len(alone)) == (5, 5)


@pytest.mark.parametrize("sizes", [(), (0,), (4, -1)])
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="batch-sizes"):
        BenchOptions(batch_sizes=sizes)


def test_the_command_prints_a_table_and_writes_json(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "-e", str(engine), "--batch-sizes", "1,2", "--seconds", "0.01", "--json"]
    assert run_command_line([*arguments, str(tmp_path / "bench.json")]) == ExitCode.DONE
    assert "times as many images per second as fp32" in capsys.readouterr().out
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [row["batch_size"] for row in written["rows"]] == [1, 2, 1, 2]
    assert written["engine"] == "tiny"
    assert run_command_line(["bench", "-e", str(engine), "--batch-sizes", "1,x"]) == ExitCode.USAGE
