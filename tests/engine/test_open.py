"""Which backend and file are chosen; never one that cannot run, and never another than was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.config import Backend, PrecisionChoice
from cxrbatch.engine import open as opening
from cxrbatch.engine.backends import BackendState
from cxrbatch.engine.bundle import EngineBundle, load_bundle
from cxrbatch.engine.open import choose_engine, runnable
from cxrbatch.errors import EngineError
from tests.factories.engine import write_tiny_bundle


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
