"""A pending plan is compared before its first score: passed and recorded, or refused."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrbatch.engine.agreement import PARITY_FILE, PARITY_ROLE, DeferredGate, load_gate, save_gate
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.manifest import PENDING, EngineFile, ParityFigures
from cxrbatch.engine.model_card import MODEL_CARD
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.open import open_engine
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
