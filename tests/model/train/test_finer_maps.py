"""An output stride of 16 is offered where it pays, its cost is what is said, and marks meet the right cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cxrbatch.engine.cells import known_cells
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.network.architectures import architectures, build_features, has_output_stride
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.train.checks import (
    COST_OF_FINER,
    FINER_FROM_PX,
    describe_untrained,
    offer_finer_maps,
)
from cxrbatch.model.train.losses import RegionLoss, pool_around_cells
from cxrbatch.model.train.record import TrainingPlan
from cxrbatch.records import InputSpec

LARGE = TrainingPlan(architecture="resnet50", size_px=FINER_FROM_PX)


def test_large_images_are_told_what_finer_maps_cost_and_gain() -> None:
    assert offer_finer_maps(LARGE) == (
        "heatmaps will have 10 x 10 cells; with --output-stride 16 they have 20 x 20, "
        "and training and scoring take 1.5 times the work"
    )
    assert "16 x 16 cells; with --output-stride 16 they have 32 x 32" in offer_finer_maps(replace(LARGE, size_px=512))


@pytest.mark.parametrize(
    "plan",
    [
        replace(LARGE, size_px=FINER_FROM_PX - 1),
        replace(LARGE, output_stride=32),
        replace(LARGE, output_stride=16),
        replace(LARGE, architecture="densenet121"),
    ],
)
def test_nothing_is_said_where_it_does_not_pay_or_somebody_chose(plan: TrainingPlan) -> None:
    assert offer_finer_maps(plan) == ""


@pytest.mark.parametrize(("wanted", "stride"), [(None, 32), (32, 32), (16, 16)])
def test_the_stride_stays_what_it_was_unless_it_is_asked_for(wanted: int | None, stride: int) -> None:
    images = LabelledImages(root=Path(), labels=("A",), samples=())
    assert describe_untrained(replace(LARGE, output_stride=wanted), images).output_stride == stride


def count_multiplications(architecture: str, output_stride: int) -> int:
    """Count those of all convolutions for one image of 320 px; nothing is computed."""
    counted = []

    def count(convolution: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        assert isinstance(convolution, nn.Conv2d)
        counted.append(output[0].numel() * convolution.weight[0].numel())

    with torch.device("meta"):
        extractor = build_features(architecture, output_stride).extractor
    for module in extractor.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    extractor(torch.zeros((1, 1, 320, 320), device="meta"))
    return sum(counted)


def test_every_architecture_that_has_it_is_offered_at_its_true_cost() -> None:
    assert sorted(COST_OF_FINER) == [name for name in architectures() if has_output_stride(name, 16)]
    for architecture, cost in COST_OF_FINER.items():
        found = count_multiplications(architecture, 16) / count_multiplications(architecture, 32)
        assert found == pytest.approx(cost, abs=0.05)


@pytest.mark.parametrize("architecture", sorted(COST_OF_FINER))
def test_a_mark_meets_the_cell_that_looks_there(architecture: str) -> None:
    cells = known_cells(architecture, 16)
    coverage = torch.zeros(1, 1, 320, 320)
    coverage[0, 0, 160 - 4 : 160 + 5, 48 - 4 : 48 + 5] = 1.0  # around the centre of cell (10, 3), at 16 i + 1/2
    pooled = pool_around_cells(coverage, (20, 20), 320, cells)[0, 0]
    assert divmod(int(pooled.argmax()), 20) == (10, 3)
    assert float(pooled[10, 3]) > 0.3
    assert float(pooled.sum()) == pytest.approx(float(pooled[10, 3]))


def test_the_loss_on_marks_pulls_at_the_maps_of_that_stride() -> None:
    network = ChestNetwork("resnet18", 1, spec=InputSpec(320), output_stride=16, pooling="attention")
    features = torch.rand((1, 512, 20, 20), generator=torch.Generator().manual_seed(0))
    cams = network.class_activation_maps(features).detach().requires_grad_()
    coverage = torch.zeros(1, 1, 80, 80)
    coverage[0, 0, 40, 12] = 1.0  # the same place, marked at a quarter of the resolution
    loss = RegionLoss(1, network.cells)(cams, coverage, torch.ones(1, 1, dtype=torch.bool), 320)
    loss.backward()
    assert cams.grad is not None
    # Higher where the mark is, lower everywhere else.
    rises = (cams.grad[0, 0] < 0).nonzero().tolist()
    assert rises == [[10, 3]]
