"""The torch backend: its logic runs here on the CPU, its GPU part where there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxrbatch.engine import torch_cuda_engine
from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.contract import OUTPUTS
from cxrbatch.engine.cuda import probe_cuda
from cxrbatch.engine.open import open_engine
from cxrbatch.engine.torch_cuda_engine import FixedBatch, TorchCudaEngine
from cxrbatch.errors import EngineError
from cxrbatch.records import Gray8, Label
from tests.factories.engine import tiny_probabilities, write_tiny_bundle

GPU = pytest.mark.skipif(not probe_cuda().gpus, reason="no NVIDIA GPU")


@pytest.fixture
def bundle(tmp_path: Path) -> EngineBundle:
    return load_bundle(write_tiny_bundle(tmp_path))


def draw_noise(n: int) -> Gray8:
    return np.random.default_rng(n).integers(0, 256, (n, 1, 32, 32), dtype=np.uint8)


def open_on_cpu(bundle: EngineBundle, sizes: tuple[int, ...] = (1, 4)) -> TorchCudaEngine:
    return TorchCudaEngine(bundle, role="onnx", device="cpu", batch_sizes=sizes)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 13])
def test_batches_of_any_size_come_back_whole_and_in_order(bundle: EngineBundle, n: int) -> None:
    engine = open_on_cpu(bundle)
    expected = open_engine(bundle).infer(draw_noise(n))
    scores = engine.infer(draw_noise(n))
    for name in ("probabilities", "logits", "cams"):
        np.testing.assert_allclose(getattr(scores, name), getattr(expected, name), atol=1e-5)


def test_scores_stay_when_their_slot_is_filled_again(bundle: EngineBundle) -> None:
    engine = open_on_cpu(bundle)
    first = engine.infer(draw_noise(3))
    engine.infer(255 - draw_noise(3))
    np.testing.assert_allclose(first.probabilities, tiny_probabilities(draw_noise(3)), atol=1e-6)


def test_no_image_at_all_is_an_empty_answer(bundle: EngineBundle) -> None:
    assert open_on_cpu(bundle).infer(draw_noise(0)).probabilities.shape == (0, 4)


def test_it_describes_itself_by_the_file_that_it_runs(bundle: EngineBundle) -> None:
    assert open_on_cpu(bundle).description == bundle.describe("onnx", "torch")


class Hungry(nn.Module):
    """Computes one image at a time only; more of them do not fit into its memory."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if len(pixels) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        brightness = pixels.float().mean(dim=(2, 3)).repeat(1, 4)
        return brightness, brightness, brightness[:, :, None, None]

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.outputs = room, OUTPUTS


def test_out_of_memory_takes_smaller_batches_and_loses_nothing(
    bundle: EngineBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_cuda_engine, "GraphNetwork", lambda _: Hungry(room=2))
    engine = open_on_cpu(bundle, (1, 2, 4, 8))
    pixels = draw_noise(7)
    means = pixels.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(engine.infer(pixels).probabilities[:, 0], means, rtol=1e-5)


def test_out_of_memory_for_a_single_image_ends_the_run(bundle: EngineBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda_engine, "GraphNetwork", lambda _: Hungry(room=0))
    with pytest.raises(EngineError, match=r"too little memory for a batch of 1.*--backend onnxruntime"):
        open_on_cpu(bundle)


def test_an_error_of_the_device_is_an_engine_error(bundle: EngineBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_on_cpu(bundle)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(FixedBatch, "submit", fail)
    with pytest.raises(EngineError, match="illegal memory access"):
        engine.infer(draw_noise(1))


def test_computing_alone_computes_every_part_and_copies_nothing(
    bundle: EngineBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_on_cpu(bundle)
    counted: list[int] = []
    monkeypatch.setattr(FixedBatch, "compute_again", lambda slot: counted.append(len(slot._pixels)))
    compute = engine.prepare_alone(draw_noise(9))
    monkeypatch.setattr(FixedBatch, "submit", None)
    compute()
    assert counted == [4, 4, 1]


def test_what_does_not_fit_is_refused(bundle: EngineBundle) -> None:
    engine = open_on_cpu(bundle)
    with pytest.raises(EngineError, match=r"takes uint8 \[N,1,32,32\], got"):
        engine.infer(np.zeros((1, 1, 31, 32), np.uint8))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.infer(draw_noise(1))
    fewer = save_bundle(bundle.folder, replace(bundle.manifest, labels=(Label("A"), Label("B"))))
    with pytest.raises(EngineError, match=r"it scores 4 labels; engine\.json names 2"):
        open_on_cpu(fewer)


def test_a_tampered_file_and_an_unknown_operator_are_refused(bundle: EngineBundle) -> None:
    (bundle.folder / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(EngineError, match="not the file this engine was built with"):
        open_on_cpu(bundle)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_run_instead(bundle: EngineBundle) -> None:
    with pytest.raises(EngineError, match=r"sees no GPU. Run with --backend onnxruntime"):
        TorchCudaEngine(bundle, role="onnx")


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 3, 128, 300])
def test_the_gpu_answers_like_the_cpu(bundle: EngineBundle, n: int) -> None:
    engine = open_engine(bundle, backend="torch")
    for _ in range(3):
        np.testing.assert_allclose(
            engine.infer(draw_noise(n)).probabilities, tiny_probabilities(draw_noise(n)), atol=1e-5
        )
    engine.close()
