"""For a machine with an NVIDIA GPU: plans are built, gated, run and closed there, by both flavours of TensorRT."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.cuda import probe_cuda
from cxrbatch.engine.deferred_gate import PARITY_FILE, PARITY_ROLE
from cxrbatch.engine.manifest import PENDING, BatchProfile, EngineFile, ParityFigures
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.open import open_engine
from cxrbatch.engine.tensorrt_flavour import FLAVOURS
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.model.build.build import BuildOptions, build_engine
from cxrbatch.model.build.gate import save_deferred_gate
from cxrbatch.model.build.images import draw_gate_images
from cxrbatch.model.build.tensorrt_build import PlanOptions
from cxrbatch.model.network.checkpoint import Checkpoint, save_checkpoint
from cxrbatch.records import Gray8

PROBE = probe_cuda()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not PROBE.gpus, reason=f"needs an NVIDIA GPU: {PROBE.problem}"),
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="needs pycuda"),
]

IMAGES: Gray8 = np.random.default_rng(0).integers(0, 256, (37, 1, 64, 64), dtype=np.uint8)


@pytest.fixture(scope="module", params=sorted(FLAVOURS))
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint
) -> EngineBundle:
    """A small network's bundle with a plan for this GPU."""
    flavour = FLAVOURS[request.param]
    pytest.importorskip(flavour.module)
    folder = tmp_path_factory.mktemp(flavour.role)
    save_checkpoint(folder / "small.safetensors", checkpoint)
    options = BuildOptions(backends=(flavour.backend,), plan=PlanOptions(BatchProfile(1, 8, 16)))
    return build_engine(folder / "small.safetensors", "small", engines_folder=folder / "engines", options=options)


def backend_of(bundle: EngineBundle) -> str:
    return next(flavour.backend for flavour in FLAVOURS.values() if flavour.role in bundle.manifest.files)


def test_the_gate_was_run_on_this_gpu(bundle: EngineBundle) -> None:
    figures = bundle.manifest.parity[FLAVOURS[backend_of(bundle)].role]
    assert isinstance(figures, ParityFigures)
    assert PROBE.gpus[0].name in figures.device
    assert figures.max_probability_change <= 0.005


def test_it_scores_like_the_cpu_at_any_batch_size_beside_torch(bundle: EngineBundle) -> None:
    on_cpu = OnnxRuntimeEngine(bundle).infer(IMAGES)
    torch_memory = torch.ones(1000, device="cuda") if torch.cuda.is_available() else None
    engine = open_engine(bundle, backend=backend_of(bundle))  # type: ignore[arg-type]  # one of the flavours' names
    for count in (1, 7, 8, 9, 37):
        scores = engine.infer(IMAGES[:count])
        np.testing.assert_allclose(scores.probabilities, on_cpu.probabilities[:count], atol=0.005)
        assert scores.cams.shape == on_cpu.cams[:count].shape
    engine.close()
    if torch_memory is not None:
        assert float(torch_memory.sum()) == 1000


def test_two_engines_close_in_any_order(bundle: EngineBundle) -> None:
    first, second = (open_engine(bundle, backend=backend_of(bundle)) for _ in range(2))  # type: ignore[arg-type]
    expected = second.infer(IMAGES).probabilities
    first.close()
    np.testing.assert_array_equal(second.infer(IMAGES).probabilities, expected)
    second.close()


def test_a_pending_plan_is_settled_by_the_first_that_opens_it(
    bundle: EngineBundle, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    role, folder = FLAVOURS[backend_of(bundle)].role, tmp_path / "small"
    shutil.copytree(bundle.folder, folder)
    save_deferred_gate(folder / PARITY_FILE, checkpoint.network, draw_gate_images(checkpoint.facts))
    entry = EngineFile(PARITY_FILE, sha256_of_file(folder / PARITY_FILE), "fp32")
    files = {**bundle.manifest.files, PARITY_ROLE: entry}
    pending = save_bundle(folder, replace(bundle.manifest, files=files, parity={role: PENDING}))
    open_engine(pending, backend=backend_of(bundle)).close()  # type: ignore[arg-type]
    assert isinstance(load_bundle(folder).manifest.parity[role], ParityFigures)
