"""Half precision keeps the function: exact where it folds, close where it rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cxrbatch.model.network.architectures import architectures, build_features, smallest_size
from cxrbatch.model.network.export import fold_normalisation, halve
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import Gray8


class Branching(nn.Module):
    """What resnets do not do: normalisation before a convolution, and a convolution that two others read."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(1)
        self.shared = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.BatchNorm2d(3)
        self.plain = nn.BatchNorm2d(3, affine=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        shared = self.shared(self.first(pixels))
        folded: torch.Tensor = self.plain(self.second(shared)) + shared
        return folded


def settled(module: nn.Module) -> nn.Module:
    """Give every normalisation layer statistics and weights unlike its defaults."""
    generator = torch.Generator().manual_seed(1)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 1:
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.3
    return module.eval()


def normalisations(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def test_folding_leaves_no_normalisation_and_the_same_function(network: ChestNetwork) -> None:
    folded = fold_normalisation(network.features)
    assert normalisations(network.features) > 0
    assert normalisations(folded) == 0
    pixels = torch.rand((2, 1, 64, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network.features(pixels)
        torch.testing.assert_close(folded(pixels), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("architecture", architectures())
def test_every_architecture_folds(architecture: str) -> None:
    size_px = max(64, smallest_size(architecture))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        features = build_features(architecture).extractor
    for layer in features.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # As after training, and so that nothing vanishes: some start as the identity, or as zero.
            settled(layer)
    folded = fold_normalisation(features)
    assert normalisations(folded) == 0
    pixels = torch.rand((1, 1, size_px, size_px), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = features.eval()(pixels)
        torch.testing.assert_close(folded(pixels), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_a_shared_convolution_keeps_its_weights() -> None:
    module = settled(Branching())
    folded = fold_normalisation(module)
    assert normalisations(folded) == 0
    pixels = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels), module(pixels), atol=1e-5, rtol=1e-5)


def test_a_normalisation_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="no function of one image"):
        fold_normalisation(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)))


def test_tiny_variances_survive() -> None:
    """A variance of 1e-9 is 0 in FP16, and its reciprocal root infinite."""
    normalisation = nn.BatchNorm2d(1)
    normalisation.state_dict()["running_var"].fill_(1e-9)
    folded = fold_normalisation(nn.Sequential(normalisation)).half()
    assert float(folded(torch.full((1, 1, 1, 1), 0.5).half())) == pytest.approx(0.5 / (1e-9 + 1e-5) ** 0.5, rel=1e-3)


def test_half_is_a_copy_with_half_weights_and_the_same_answers(network: ChestNetwork, noise: Gray8) -> None:
    half = halve(network)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.features.parameters()} == {torch.float16}
    assert (half.head.weight.dtype, half.head.bias.dtype, half.temperature.dtype) == (
        torch.float16, torch.float32, torch.float32,
    )  # fmt: skip
    with torch.no_grad():
        expected, found = network(torch.from_numpy(noise)), half(torch.from_numpy(noise))
    assert {tensor.dtype for tensor in found} == {torch.float32}
    difference = np.abs(found.probabilities.numpy() - expected.probabilities.numpy())
    assert 0 < difference.max() < 5e-3
    torch.testing.assert_close(found.cams.mean(dim=(2, 3)) + half.head.bias, found.logits)
