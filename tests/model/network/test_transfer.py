"""Weights trained on colours answer the same for a grey image in our network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.errors import UsageError
from cxrbatch.model.network.architectures import architectures, build_features
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.transfer import (
    FeatureWeights,
    Scaling,
    Stem,
    find_stem,
    fold_scaling,
    match_features,
    torchvision_scaling,
)
from cxrbatch.records import InputSpec
from tests.factories.model import Original, colours_of, draw_noise, settle

NOWHERE = Path("weights.pth")


def load_into(network: ChestNetwork, original: nn.Module, architecture: str) -> ChestNetwork:
    weights = match_features(NOWHERE, original.state_dict(), architecture)
    folded = fold_scaling(weights, torchvision_scaling(architecture), network.spec)
    network.features.load_state_dict(folded, strict=False)
    return network.eval()


@pytest.mark.parametrize("architecture", architectures())
def test_a_grey_image_gets_the_feature_map_of_its_colours(architecture: str) -> None:
    """The whole map is the same where the borders are: torchvision's image lies on the grey that our zeros mean."""
    size_px = 107 if architecture == "inception_v3" else 64
    spec = InputSpec(size_px, mean=0.41, std=0.27)
    images = torch.from_numpy(draw_noise(4, size_px))
    original = settle(lambda: Original(architecture), colours_of(images / 255))
    network = load_into(ChestNetwork(architecture, 2, spec=spec), original.network, architecture)
    stem = next(module for module in original.modules() if isinstance(module, nn.Conv2d))
    rim = stem.padding[0]
    assert isinstance(rim, int)
    stem.padding = (0, 0)
    with torch.no_grad():
        expected = original(colours_of(F.pad(images / 255, [rim] * 4, value=spec.mean)))
        found = network.feature_map(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_border_differs_and_the_interior_does_not() -> None:
    images = torch.from_numpy(draw_noise(2, 64))
    original = settle(lambda: Original("resnet18"), colours_of(images / 255))
    network = load_into(ChestNetwork("resnet18", 2, spec=InputSpec(64)), original.network, "resnet18")
    with torch.no_grad():
        conv1, bn1 = (original.network.get_submodule(name) for name in ("conv1", "bn1"))
        expected = bn1(conv1(colours_of(images / 255)))
        found = network.features[:2]((images / 255 - 0.5) / 0.25)
    torch.testing.assert_close(found[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], rtol=1e-4, atol=1e-4)
    assert (found - expected)[:, :, 0].abs().max() > 0.01


def test_stems_are_found() -> None:
    stems = {name: find_stem(build_features(name).extractor) for name in architectures()}
    assert stems == {
        "densenet121": Stem("conv0.weight", "norm0.running_mean", -1),
        "efficientnet_b0": Stem("0.0.weight", "0.1.running_mean", -1),
        "efficientnet_b4": Stem("0.0.weight", "0.1.running_mean", -1),
        "inception_v3": Stem("Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.running_mean", -1),
        "resnet18": Stem("conv1.weight", "bn1.running_mean", -1),
        "resnet50": Stem("conv1.weight", "bn1.running_mean", -1),
        "vgg16_bn": Stem("0.weight", "0.bias", 1),
    }


def test_folding_is_the_formula_by_hand() -> None:
    weights = FeatureWeights(
        {"w": torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), "b": torch.tensor([10.0])}, Stem("w", "b", 1)
    )
    trained = Scaling((0.1, 0.2, 0.4), (0.5, 0.25, 1.0))
    folded = fold_scaling(weights, trained, InputSpec(32, mean=0.6, std=0.5))
    by_hand = 0.5 * (1 / 0.5 + 2 / 0.25 + 3 / 1), 10 + 1 * 0.5 / 0.5 + 2 * 0.4 / 0.25 + 3 * 0.2 / 1
    torch.testing.assert_close((folded["w"].item(), folded["b"].item()), by_hand)


def test_old_names_of_a_densenet_are_understood() -> None:
    tensors = Original("densenet121").network.state_dict()
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: tensor
        for name, tensor in tensors.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert set(match_features(NOWHERE, old, "densenet121").tensors) == set(
        match_features(NOWHERE, tensors, "densenet121").tensors
    )


def test_faults_are_named() -> None:
    tensors = Original("resnet18").network.state_dict()
    tensors["layer9.weight"] = tensors.pop("layer1.0.conv1.weight")
    tensors["bn1.bias"] = torch.zeros(3)
    message = (
        r"^weights\.pth: does not hold a resnet18; missing: layer1\.0\.conv1\.weight; unknown: layer9\.weight; "
        r"of another shape: bn1\.bias\. Name the architecture"
    )
    with pytest.raises(UsageError, match=message):
        match_features(NOWHERE, tensors, "resnet18")


def test_another_architecture_is_refused_without_naming_hundreds_of_tensors() -> None:
    with pytest.raises(
        UsageError, match=r"does not hold a resnet50; missing: .* and \d+ more; of another shape"
    ) as told:
        match_features(NOWHERE, Original("resnet18").network.state_dict(), "resnet50")
    assert len(str(told.value)) < 500
