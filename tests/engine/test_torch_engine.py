"""The PyTorch engine keeps the contract, and is what every other backend must agree with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxrbatch.engine.torch_engine import TorchEngine
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, InputSpec, Label
from tests.factories.engine import tiny_probabilities

DESCRIPTION = EngineDescription(
    name="quadrants",
    sha256="0" * 64,
    backend="torch",
    precision="fp32",
    architecture="quadrants",
    task="multilabel",
    labels=tuple(map(Label, "ABCD")),
    input=InputSpec(32),
)


class Quadrants(nn.Module):
    """What the tiny engine of the factories computes."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        brightness = nn.functional.avg_pool2d(pixels.float() / 255.0, 16)
        cams = 8.0 * 4.0 * brightness * torch.eye(4).reshape(1, 4, 2, 2)
        logits = cams.mean(dim=(2, 3)) - 4.0
        return logits.sigmoid(), logits, cams


def test_it_answers_what_the_network_computes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32), dtype=np.uint8)
    scores = TorchEngine(Quadrants(), DESCRIPTION).infer(pixels)
    np.testing.assert_allclose(scores.probabilities, tiny_probabilities(pixels), atol=1e-6)
    assert {array.dtype.name for array in (scores.probabilities, scores.logits, scores.cams)} == {"float32"}
    assert scores.cams.shape == (3, 4, 2, 2)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((1, 1, 16, 16), np.uint8), np.zeros((1, 1, 32, 32), np.float32), np.zeros((1, 32, 32), np.uint8)],
)
def test_other_shapes_and_types_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"takes uint8 \[N,1,32,32\]"):
        TorchEngine(Quadrants(), DESCRIPTION).infer(pixels)


def test_a_closed_engine_says_so_and_closes_twice() -> None:
    engine = TorchEngine(Quadrants(), DESCRIPTION)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(np.zeros((1, 1, 32, 32), np.uint8))


def test_a_network_that_breaks_the_contract_is_refused() -> None:
    with pytest.raises(EngineError, match="answers 1 tensors, not 3"):
        TorchEngine(nn.Sequential(nn.Flatten()), DESCRIPTION).infer(np.zeros((1, 1, 32, 32), np.uint8))
