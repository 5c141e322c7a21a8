"""Where the cells of every architecture lie: the table against gradients, and against networks that learned to look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cxrbatch.engine.cells import known_cells
from cxrbatch.model.network import architectures as known
from cxrbatch.model.network.architectures import Features, build_features
from cxrbatch.model.network.cells import measure_cells
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.records import CellGrid, InputSpec, even_cells
from scripts.registration import draw_blobs, measure_offsets, train_on_labels

LEARN_WHERE_TO_LOOK = ("efficientnet_b0", "efficientnet_b4")
BUILT = [(name, 32) for name in known.architectures() if name not in LEARN_WHERE_TO_LOOK]
BUILT += [("resnet18", 16), ("resnet50", 16)]
# What the middle cells look at has to lie inside. Inception's see three times as far as those of a ResNet.
SIDES_PX = {"densenet121": 256, "inception_v3": 448, "resnet50": 256, "vgg16_bn": 224}


def build_spread(architecture: str, output_stride: int) -> nn.Sequential:
    """Build an extractor whose residual branches and every channel speak, as those of a trained one do."""
    torch.manual_seed(1)
    extractor = build_features(architecture, output_stride).extractor
    for module in extractor.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
        elif isinstance(module, nn.Conv2d) and architecture == "inception_v3":
            # Its own narrow draw lets the gradient run thin over all of the image, whose border then cuts it.
            nn.init.kaiming_normal_(module.weight)
    return extractor


@pytest.mark.parametrize(("architecture", "output_stride"), BUILT)
def test_the_table_says_what_gradients_show(architecture: str, output_stride: int) -> None:
    side_px = SIDES_PX.get(architecture, 320)
    measured = measure_cells(build_spread(architecture, output_stride), draws=1, side_px=side_px)
    table = known_cells(architecture, output_stride)
    assert table is not None
    for origin, stride, true_origin, true_stride in (
        (measured.origin_x, measured.stride_x, table.origin_x, table.stride_x),
        (measured.origin_y, measured.stride_y, table.origin_y, table.stride_y),
    ):
        assert stride == pytest.approx(true_stride, rel=0.15)
        # Compared where it was measured, around the middle: an error of the stride grows towards the first cell.
        middle = (side_px / 2 - true_origin) / true_stride
        assert origin + stride * middle == pytest.approx(side_px / 2, abs=0.12 * true_stride)


@pytest.mark.parametrize("architecture", LEARN_WHERE_TO_LOOK)
def test_what_learns_where_to_look_is_drawn_evenly(architecture: str) -> None:
    assert known_cells(architecture, 32) == even_cells((10, 10), 320)


def strided(_output_stride: int) -> Features:
    """Four padded convolutions of stride 2: like a ResNet's, cell i looks at pixel 16 i."""
    layers = nn.Sequential()
    for before, width in ((1, 8), (8, 16), (16, 24), (24, 32)):
        convolution = nn.Conv2d(before, width, 3, stride=2, padding=1)
        layers.extend([convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
    return Features(layers, 32, tuple((str(index),) for index in range(len(layers))))


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(known._ARCHITECTURES, "padded", known._Architecture(strided))
    return "padded"


def test_an_unknown_architecture_is_measured(padded: str) -> None:
    network = build_seeded(lambda: ChestNetwork(padded, 1, spec=InputSpec(96)), 3)
    assert (network.cells.stride_x, network.cells.stride_y) == (16, 16)
    assert (network.cells.origin_x, network.cells.origin_y) == pytest.approx((0.5, 0.5), abs=1.5)


def test_measuring_leaves_weights_chance_and_statistics_as_they_are(padded: str) -> None:
    network = ChestNetwork(padded, 1, spec=InputSpec(96)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    assert measure_cells(network.features) == measure_cells(network.features)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training


def test_pooled_2x2_lies_between_its_pixels() -> None:
    torch.manual_seed(0)
    extractor = nn.Sequential(nn.Conv2d(1, 8, 1), nn.AvgPool2d(2), nn.AvgPool2d(4))
    cells = measure_cells(extractor)
    assert (cells.stride_x, cells.stride_y) == (8, 8)
    assert (cells.origin_x, cells.origin_y) == pytest.approx((4, 4), abs=0.01)


def test_a_network_that_learned_from_labels_alone_points_at_the_blobs(padded: str) -> None:
    torch.manual_seed(0)
    network = build_seeded(lambda: ChestNetwork(padded, 1, spec=InputSpec(96)), 0)
    train_on_labels(network, 60, 96)
    blobs = draw_blobs(128, 96, np.random.default_rng(7))
    even, accuracy = measure_offsets(network, None, blobs)
    registered, _ = measure_offsets(network, CellGrid(0.5, 0.5, 16, 16), blobs)
    assert accuracy > 0.9
    # Half a cell to the lower right: what the drawing did before it knew where cells lie.
    assert even.mean(axis=0) == pytest.approx(0.5, abs=0.15)
    assert np.abs(registered.mean(axis=0)).max() < 0.15
