"""Small networks with random weights, and checkpoints of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import Gray8, InputSpec, Label
from tests.factories.model import build_unlike_defaults

SIZE_PX = 64


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
