"""The graph contract holds on the network: heatmaps are Grad-CAM, and maps add up to logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cxrbatch.model.network.architectures import architectures
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import Gray8, InputSpec
from tests.factories.model import draw_noise, settle


def grad_cam(network: ChestNetwork, features: torch.Tensor, label: int) -> torch.Tensor:
    """Grad-CAM as Selvaraju et al. 2017 define it (equations 1 and 2), by autograd: [N,h,w]."""
    features = features.detach().requires_grad_()
    logits = nn.functional.linear(features.mean(dim=(2, 3)), network.head.weight, network.head.bias)
    (gradient,) = torch.autograd.grad(logits[:, label].sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1).relu().detach()


def test_relu_of_cams_over_area_is_grad_cam(network: ChestNetwork, noise: Gray8) -> None:
    pixels = torch.from_numpy(noise)
    with torch.no_grad():
        features, cams = network.feature_map(pixels), network(pixels).cams
    expected = torch.stack([grad_cam(network, features, label) for label in range(3)], dim=1)
    found = cams.relu() / (cams.shape[2] * cams.shape[3])
    assert (expected > 0.001).any()
    assert (cams < 0).any()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_logits_of_the_graph_are_those_of_pooling_and_linear_head(network: ChestNetwork, noise: Gray8) -> None:
    pixels = torch.from_numpy(noise)
    with torch.no_grad():
        scores = network(pixels)
        pooled = network.feature_map(pixels).mean(dim=(2, 3))
        torch.testing.assert_close(scores.logits, network.head(pooled), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores.cams.mean(dim=(2, 3)) + network.head.bias, scores.logits)


def test_normalisation_is_inside() -> None:
    spec = InputSpec(64, mean=0.4, std=0.3)
    network = ChestNetwork("resnet18", 1, spec=spec).eval()
    seen: list[torch.Tensor] = []
    network.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).repeat_interleave(32 * 32).reshape(1, 1, 64, 64)
    network(pixels)
    values = torch.tensor(sorted(set(seen[0].flatten().tolist())))
    torch.testing.assert_close(values, (torch.tensor([0.0, 0.2, 0.4, 1.0]) - 0.4) / 0.3)


def test_calibration_is_between_logits_and_probabilities(noise: Gray8) -> None:
    network = ChestNetwork("resnet18", 2, spec=InputSpec(64)).eval()
    network.temperature.copy_(torch.tensor([2.0, 0.5]))
    network.offset.copy_(torch.tensor([1.0, -1.0]))
    with torch.no_grad():
        scores = network(torch.from_numpy(noise))
    expected = torch.sigmoid(scores.logits / torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(scores.probabilities, expected)


def test_a_multiclass_network_answers_with_softmax(noise: Gray8) -> None:
    network = ChestNetwork("resnet18", 4, spec=InputSpec(64), task="multiclass").eval()
    with torch.no_grad():
        scores = network(torch.from_numpy(noise))
    torch.testing.assert_close(scores.probabilities, torch.softmax(scores.logits, dim=1))


@pytest.mark.parametrize("architecture", architectures())
def test_the_graph_contract_holds_for_every_architecture(architecture: str) -> None:
    size_px = 128 if architecture == "inception_v3" else 64
    pixels = torch.from_numpy(draw_noise(3, size_px))
    network = settle(lambda: ChestNetwork(architecture, 6, spec=InputSpec(size_px)), pixels)
    with torch.no_grad():
        scores, features = network(pixels), network.feature_map(pixels)
    expected = torch.stack([grad_cam(network, features, label) for label in range(6)], dim=1)
    assert expected.max() > 1e-4
    torch.testing.assert_close(scores.cams.relu() / 4, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.cams.mean(dim=(2, 3)) + network.head.bias, scores.logits)


def test_stages_lead_from_the_stem_to_the_last_map(network: ChestNetwork, noise: Gray8) -> None:
    seen: list[torch.Tensor] = []
    hook = network.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        expected = network.feature_map(torch.from_numpy(noise))
        hook.remove()
        # From the very values that it began with: rounded otherwise, they differ by a processor's last digits.
        values = seen[0]
        for stage in network.stages():
            for module in stage:
                values = module(values)
        torch.testing.assert_close(values, expected)
    assert len(network.stages()) == 5
