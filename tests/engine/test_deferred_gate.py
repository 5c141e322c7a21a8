"""A pending plan is compared before its first score: passed and recorded, or refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.deferred_gate import PARITY_FILE, PARITY_ROLE, DeferredGate, load_gate, save_gate
from cxrbatch.engine.manifest import PENDING, EngineFile, ParityFigures
from cxrbatch.engine.model_card import MODEL_CARD, write_model_card
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.open import open_engine
from cxrbatch.engine.torch_cuda_engine import open_torch
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError
from cxrbatch.records import Gray8
from tests.factories.engine import write_tiny_bundle
from tests.factories.gpu import GPU, VERSION, FakeGpu, add_plan, fake_tensorrt, install_fake_gpu

IMAGES: Gray8 = np.random.default_rng(0).integers(0, 256, (64, 1, 32, 32), dtype=np.uint8)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Any:
    gpu = FakeGpu()
    module = fake_tensorrt(gpu)
    install_fake_gpu(monkeypatch, gpu, module)
    return module


@pytest.fixture
def pending(tmp_path: Path) -> EngineBundle:
    """A bundle whose plan nobody has run yet."""
    bundle = add_plan(write_tiny_bundle(tmp_path))
    reference = OnnxRuntimeEngine(bundle).infer(IMAGES)
    save_gate(bundle.folder / PARITY_FILE, DeferredGate(IMAGES, reference, "phantoms", 0.005))
    entry = EngineFile(PARITY_FILE, sha256_of_file(bundle.folder / PARITY_FILE), "fp32")
    files = {**bundle.manifest.files, PARITY_ROLE: entry}
    return save_bundle(bundle.folder, replace(bundle.manifest, files=files, parity={"plan": PENDING}))


def figures_of(bundle: EngineBundle) -> ParityFigures:
    figures = load_bundle(bundle.folder).manifest.parity["plan"]
    assert isinstance(figures, ParityFigures)
    return figures


def test_pending_is_written_as_that_word(pending: EngineBundle) -> None:
    assert '"plan": "pending"' in (pending.folder / "engine.json").read_text()
    assert load_bundle(pending.folder).manifest.parity == {"plan": "pending"}


def test_the_first_machine_compares_and_records(pending: EngineBundle, tensorrt: Any) -> None:
    open_engine(pending, backend="tensorrt").close()
    figures = load_bundle(pending.folder).manifest.parity["plan"]
    assert isinstance(figures, ParityFigures)
    assert (figures.images, figures.source, figures.limit) == (64, "phantoms", 0.005)
    assert figures.max_probability_change < 1e-6
    assert figures.device == f"{GPU.name}, TensorRT {VERSION}"


def test_the_second_time_nothing_is_compared(pending: EngineBundle, tensorrt: Any) -> None:
    open_engine(pending, backend="tensorrt").close()
    (pending.folder / PARITY_FILE).unlink()
    open_engine(load_bundle(pending.folder), backend="tensorrt").close()


def test_the_model_card_tells_the_result(pending: EngineBundle, tensorrt: Any) -> None:
    open_engine(pending, backend="tensorrt").close()
    card = (pending.folder / MODEL_CARD).read_text(encoding="utf-8")
    assert "- plan: largest change of a probability" in card
    assert f"on 64 phantoms; on {GPU.name}" in card


def test_another_gpu_compares_again(pending: EngineBundle, tensorrt: Any) -> None:
    open_engine(pending, backend="tensorrt").close()
    elsewhere = figures_of(pending)
    moved = replace(elsewhere, device="another GPU", max_probability_change=0.001)
    bundle = load_bundle(pending.folder)
    bundle = save_bundle(bundle.folder, replace(bundle.manifest, parity={"plan": moved}))
    open_engine(bundle, backend="tensorrt").close()
    assert figures_of(pending) == elsewhere


def test_a_plan_that_disagrees_is_refused_each_time(pending: EngineBundle, tensorrt: Any) -> None:
    tensorrt.distort = 0.006
    for _ in range(2):
        with pytest.raises(EngineError, match=r"differ from the checkpoint's by up to 0.006 .* it is not used"):
            open_engine(load_bundle(pending.folder), backend="tensorrt")
    assert load_bundle(pending.folder).manifest.parity == {"plan": "pending"}


def test_a_plan_that_answers_no_number_is_refused(pending: EngineBundle, tensorrt: Any) -> None:
    tensorrt.distort = np.nan
    with pytest.raises(EngineError, match="NaN or Inf"):
        open_engine(pending, backend="tensorrt")


def test_a_bundle_that_cannot_be_written_is_compared_again(
    pending: EngineBundle, tensorrt: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cxrbatch.system.durable.replace_bytes", refuse)
    open_engine(pending, backend="tensorrt").close()
    assert "the next run compares again" in caplog.text


def test_a_pickle_among_the_images_is_refused(pending: EngineBundle) -> None:
    content = io.BytesIO()
    np.savez(content, pixels=np.array([{"any": "object"}], dtype=object), allow_pickle=True)
    (pending.folder / PARITY_FILE).write_bytes(content.getvalue())
    entry = EngineFile(PARITY_FILE, sha256_of_file(pending.folder / PARITY_FILE), "fp32")
    bundle = EngineBundle(
        pending.folder, replace(pending.manifest, files={**pending.manifest.files, PARITY_ROLE: entry})
    )
    with pytest.raises(EngineError, match=r"parity.npz: cannot be read: .*cxrbatch build"):
        load_gate(bundle)


def test_tampered_images_are_refused(pending: EngineBundle, tensorrt: Any) -> None:
    path = pending.folder / PARITY_FILE
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(EngineError, match=r"parity\.npz: not the file this engine was built with"):
        open_engine(pending, backend="tensorrt")


# --------------------------------------------------------------------------- torch, in half precision


@pytest.fixture
def half(pending: EngineBundle) -> EngineBundle:
    """A bundle with an FP16 graph that nobody has run on torch yet."""
    files = pending.manifest.files | {"onnx_fp16": replace(pending.file("onnx"), precision="fp16")}
    return save_bundle(pending.folder, replace(pending.manifest, files=files, parity={}))


def test_torch_compares_its_half_precision_once(half: EngineBundle) -> None:
    open_torch(half, role="onnx_fp16", device="cpu").close()
    figures = load_bundle(half.folder).manifest.parity["torch_fp16"]
    assert isinstance(figures, ParityFigures)
    assert (figures.images, figures.verdicts, figures.flip_limit, figures.p99_limit) == (64, 256, 0.01, 0.0025)
    assert figures.device.startswith("cpu, torch ")
    assert "- torch_fp16: largest change of a probability" in (half.folder / MODEL_CARD).read_text(encoding="utf-8")
    (half.folder / PARITY_FILE).unlink()
    open_torch(load_bundle(half.folder), role="onnx_fp16", device="cpu").close()


def test_torch_refuses_half_precision_that_disagrees(half: EngineBundle) -> None:
    gate = load_gate(half)
    off = replace(gate.reference, probabilities=gate.reference.probabilities + np.float32(0.01))
    save_gate(half.folder / PARITY_FILE, replace(gate, reference=off))
    entry = EngineFile(PARITY_FILE, sha256_of_file(half.folder / PARITY_FILE), "fp32")
    bundle = save_bundle(half.folder, replace(half.manifest, files=half.manifest.files | {PARITY_ROLE: entry}))
    with pytest.raises(EngineError, match=r"by up to 0.01 .* it is not used. Run it in FP32"):
        open_torch(bundle, role="onnx_fp16", device="cpu")
    assert "torch_fp16" not in load_bundle(half.folder).manifest.parity
    open_torch(bundle, role="onnx", device="cpu").close()


def test_a_bundle_of_before_says_that_nobody_compared(half: EngineBundle, caplog: pytest.LogCaptureFixture) -> None:
    files = {role: file for role, file in half.manifest.files.items() if role != PARITY_ROLE}
    bundle = save_bundle(half.folder, replace(half.manifest, files=files))
    open_torch(bundle, role="onnx_fp16", device="cpu").close()
    assert "nobody compared its FP16 graph on torch" in caplog.text
    assert load_bundle(half.folder).manifest.parity == {}


def test_figures_of_before_are_read_and_called_what_they_are(half: EngineBundle) -> None:
    manifest = msgspec.json.decode((half.folder / "engine.json").read_bytes())
    old = {"images": 9, "source": "x", "max_probability_change": 0.1, "mean_probability_change": 0.01, "limit": 1.0}
    manifest["parity"] = {"onnx": old | {"decision_flips": 2}, "onnx_int8": old | {"decision_flips": 0}}
    manifest["accuracy"] = {
        "onnx_int8": {
            "images": 9,
            "source": "x",
            "auroc_reference": 0.9,
            "auroc": 0.9,
            "worst_drop": 0.0,
            "limit": 0.005,
        }
    }
    del manifest["adjustments"]
    (half.folder / "engine.json").write_bytes(msgspec.json.encode(manifest))
    write_model_card(half.folder / MODEL_CARD, load_bundle(half.folder).manifest)
    card = (half.folder / MODEL_CARD).read_text(encoding="utf-8").splitlines()
    assert next(line for line in card if line.startswith("- onnx: largest")).endswith("2 verdicts differ")
    assert sum("verdicts that differ were not counted" in line for line in card if "onnx_int8: " in line) == 2
