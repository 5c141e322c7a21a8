"""Which backend and file are chosen; never one that cannot run, and never another than was asked for."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.config import Backend, PrecisionChoice
from cxrbatch.engine import open as opening
from cxrbatch.engine.backends import BackendState
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.int8_gate import int8_obstacle
from cxrbatch.engine.manifest import Manifest
from cxrbatch.engine.open import choose_engine, go_on_with, open_engine, plan_engine, runnable
from cxrbatch.errors import EngineError
from tests.factories.engine import PASSED_INT8, add_tiny_int8, write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> EngineBundle:
    """A bundle with FP32, FP16 and INT8 files."""
    plain = load_bundle(write_tiny_bundle(tmp_path))
    file = plain.file("onnx")
    files = {
        "onnx": file,
        "onnx_fp16": replace(file, precision="fp16"),
        "onnx_int8": replace(file, precision="int8"),
    }
    return EngineBundle(plain.folder, replace(plain.manifest, files=files))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch runs here, TensorRT does not."""
    running = {"torch", "onnxruntime"}
    monkeypatch.setattr(opening, "look_at_backend", lambda name: BackendState(name, name in running, "as told"))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("backend", "precision", "chosen"),
    [
        ("auto", "auto", ("torch", "onnx_fp16")),
        ("auto", "fp32", ("torch", "onnx")),
        ("auto", "int8", ("onnxruntime", "onnx_int8")),
        ("onnxruntime", "auto", ("onnxruntime", "onnx")),
        ("onnxruntime", "fp16", ("onnxruntime", "onnx_fp16")),
        ("torch", "fp32", ("torch", "onnx")),
    ],
)
def test_the_fastest_that_can_run_what_is_asked_for(
    bundle: EngineBundle, backend: Backend, precision: PrecisionChoice, chosen: tuple[str, str]
) -> None:
    choice = choose_engine(bundle, backend=backend, precision=precision)
    assert (choice.backend, choice.role) == chosen
    assert bundle.file(choice.role).precision == choice.precision


@pytest.mark.usefixtures("gpu")
def test_a_bundle_without_fp16_runs_in_fp32_on_torch(bundle: EngineBundle) -> None:
    plain = EngineBundle(bundle.folder, replace(bundle.manifest, files={"onnx": bundle.file("onnx")}))
    assert choose_engine(plain, backend="torch", precision="auto").role == "onnx"
    assert [(choice.backend, choice.precision) for choice in runnable(plain)] == [
        ("torch", "fp32"), ("onnxruntime", "fp32"),
    ]  # fmt: skip


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("backend", "precision", "says"),
    [
        ("torch", "int8", "backend torch does not run int8; it runs fp16, fp32"),
        ("tensorrt", "auto", "backend tensorrt cannot run here: as told. Run with --backend onnxruntime"),
    ],
)
def test_what_cannot_run_is_said(bundle: EngineBundle, backend: Backend, precision: PrecisionChoice, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        choose_engine(bundle, backend=backend, precision=precision)


# --------------------------------------------------------------------------- INT8 by default


def with_accuracy(bundle: EngineBundle, **changed: Any) -> EngineBundle:
    """The bundle with an INT8 file that lost nearly nothing, but for what is `changed`."""
    add_tiny_int8(bundle.folder)
    passed = load_bundle(bundle.folder).manifest
    accuracy = {"onnx_int8": replace(PASSED_INT8, **changed)}
    return EngineBundle(bundle.folder, replace(passed, files=bundle.manifest.files | passed.files, accuracy=accuracy))


def test_int8_runs_on_a_cpu_where_its_gate_passed_and_fp32_on_request(bundle: EngineBundle) -> None:
    passed = with_accuracy(bundle)
    assert int8_obstacle(passed.manifest) == ""
    for backend in ("auto", "onnxruntime"):
        assert plan_engine(passed, backend=backend).precision == "int8"
        assert plan_engine(passed, backend=backend, precision="fp32").precision == "fp32"
    assert [choice.precision for choice in runnable(passed)] == ["int8", "fp32", "fp16"]
    with closing(open_engine(passed)) as engine:
        assert engine.description == plan_engine(passed)
    told = "passed: mean AUROC 0.9460 beside 0.9470 in FP32, 7 of 960 verdicts differ (240 phantoms)"
    assert plan_engine(passed).gate == told
    assert plan_engine(passed, precision="fp32").gate == ""


@pytest.mark.usefixtures("gpu")
def test_a_gpu_goes_before_int8(bundle: EngineBundle) -> None:
    assert choose_engine(with_accuracy(bundle), backend="auto", precision="auto").role == "onnx_fp16"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"auroc": 0.94}, "did not pass"),
        ({"auroc": float("nan")}, "did not pass"),
        ({"worst_drop": 0.03}, "did not pass"),
        ({"worst_drop": float("nan")}, "did not pass"),
        ({"decision_flips": 20}, "did not pass"),
        ({"verdicts": 0, "decision_flips": 0}, "counted no verdicts"),
        ({"flip_limit": None}, "counted no verdicts"),
        ({"worst_limit": None}, "counted no verdicts"),
    ],
)
def test_fp32_stays_where_the_gate_of_int8_failed_or_did_not_count(
    bundle: EngineBundle, changed: dict[str, Any], says: str
) -> None:
    failed = with_accuracy(bundle, **changed)
    assert says in int8_obstacle(failed.manifest)
    assert plan_engine(failed).precision == "fp32"
    asked = plan_engine(failed, precision="int8")
    assert asked.precision == "int8"
    assert asked.gate.startswith("not passed: ")


def test_fp32_stays_where_int8_was_never_judged(bundle: EngineBundle) -> None:
    passed = with_accuracy(bundle).manifest
    unjudged: dict[str, Manifest] = {
        "no labelled images": replace(passed, accuracy={}),
        "was not compared": replace(passed, parity={"onnx_int8": "pending"}),
        "no INT8 file": replace(passed, files={"onnx": passed.files["onnx"]}),
    }
    for says, manifest in unjudged.items():
        assert says in int8_obstacle(manifest)
        assert plan_engine(EngineBundle(bundle.folder, manifest)).precision == "fp32"


def test_a_bundle_of_an_earlier_version_runs_in_fp32(bundle: EngineBundle) -> None:
    save_bundle(bundle.folder, with_accuracy(bundle).manifest)
    path = bundle.folder / "engine.json"
    told = json.loads(path.read_text())
    for key in ("decision_flips", "verdicts", "flip_limit", "worst_label", "worst_limit"):
        del told["accuracy"]["onnx_int8"][key]
    path.write_text(json.dumps(told))
    assert plan_engine(load_bundle(bundle.folder)).precision == "fp32"


def test_what_was_scored_in_fp32_goes_on_in_fp32(bundle: EngineBundle) -> None:
    passed = with_accuracy(bundle)
    int8, fp32 = (passed.describe(role, "onnxruntime") for role in ("onnx_int8", "onnx"))
    assert go_on_with(passed, int8, fp32.sha256) == "fp32"
    assert [go_on_with(passed, int8, before) for before in ("", int8.sha256, "0" * 64)] == ["auto"] * 3
    assert go_on_with(passed, fp32, fp32.sha256) == "auto"
