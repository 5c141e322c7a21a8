"""Small networks with random weights, and checkpoints of them; what each build would draw or load anew, once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry

from cxrbatch.model.build import images
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import Gray8, InputSpec, Label
from tests.factories.model import build_unlike_defaults

SIZE_PX = 64


@pytest.fixture(scope="session", autouse=True)
def phantoms_drawn_once() -> Iterator[None]:
    """Keep the phantoms that gates look at: every build would draw the same ones, for a second."""
    drawn = cache(images._draw)

    def draw(first_seed: int, count: int, spec: InputSpec, *, smallest_px: int) -> tuple[Gray8, list[tuple[str, ...]]]:
        pixels, found = drawn(first_seed, count, spec, smallest_px=smallest_px)
        return pixels.copy(), list(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_draw", draw)
        yield


@pytest.fixture(scope="session", autouse=True)
def operators_loaded_once() -> Iterator[None]:
    """Keep the exporter's table of ONNX operators, which each export would parse anew, for half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def facts() -> CheckpointFacts:
    return CheckpointFacts(
        created="2026-01-02T03:04:05+00:00",
        architecture="resnet18",
        task="multilabel",
        labels=(Label("A", 0.4, urgent=True, metrics={"auroc": 0.75}), Label("B", None), Label("C")),
        input=InputSpec(SIZE_PX, mean=0.4, std=0.3),
        output_stride=16,
        notice="Knows nothing.",
    )


@pytest.fixture(scope="session")
def network(facts: CheckpointFacts) -> ChestNetwork:
    """A resnet18 whose weights and running statistics are all unlike their defaults."""
    return build_unlike_defaults(facts)


@pytest.fixture(scope="session")
def checkpoint(network: ChestNetwork, facts: CheckpointFacts) -> Checkpoint:
    return Checkpoint(network, facts)


@pytest.fixture
def checkpoint_file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="session")
def noise() -> Gray8:
    return np.random.default_rng(0).integers(0, 256, (8, 1, SIZE_PX, SIZE_PX), dtype=np.uint8)
