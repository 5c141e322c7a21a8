"""Label losses count what is known, weighted as they say; the region loss asks each cell if the finding is there."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.errors import UsageError
from cxrbatch.model.train.losses import LabelLoss, RegionLoss, check_loss, pool_around_cells, usual_loss
from cxrbatch.model.train.options import CLASS_LOSSES, LABEL_LOSSES, Loss
from cxrbatch.records import CellGrid, Task

LOGITS = torch.tensor([[2.0, -1.0], [0.5, 0.0], [-3.0, 4.0]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
NAN = float("nan")


def label_loss(loss: Loss, targets: torch.Tensor = TARGETS, *, classes: bool = False) -> float:
    return float(LabelLoss(loss, targets.numpy())(LOGITS, targets, classes=classes))


def test_bce_is_the_mean_cross_entropy_of_every_decision() -> None:
    assert label_loss("bce") == pytest.approx(float(F.binary_cross_entropy_with_logits(LOGITS, TARGETS)))


def test_what_is_not_known_does_not_count() -> None:
    partly = torch.tensor([[1.0, NAN], [NAN, 1.0], [NAN, NAN]])
    expected = (math.log1p(math.exp(-2.0)) + math.log(2.0)) / 2
    assert label_loss("bce", partly) == pytest.approx(expected)
    assert label_loss("bce", torch.full((3, 2), NAN)) == 0.0


def test_weighted_bce_weighs_images_with_a_finding_by_how_many_have_it_not() -> None:
    # The first label: one image has it, two have not; the second: two have it, one has not.
    positive, negative = F.softplus(-LOGITS), F.softplus(LOGITS)
    weights = torch.tensor([2.0, 0.5])
    expected = (weights * TARGETS * positive + (1 - TARGETS) * negative).mean()
    assert label_loss("weighted-bce") == pytest.approx(float(expected))


def test_a_label_that_hardly_anybody_has_does_not_outweigh_all_others() -> None:
    targets = np.zeros((10_000, 1), np.float32)
    targets[0] = 1.0
    assert float(LabelLoss("weighted-bce", targets).weights) == 50.0


def test_focal_forgives_what_is_nearly_right() -> None:
    probability = LOGITS.sigmoid()
    of_truth = torch.where(TARGETS > 0, probability, 1 - probability)
    expected = -((1 - of_truth) ** 2 * of_truth.log()).mean()
    assert label_loss("focal") == pytest.approx(float(expected), rel=1e-5)


def test_ce_is_one_decision_among_classes() -> None:
    expected = F.cross_entropy(LOGITS, TARGETS.argmax(dim=1))
    assert label_loss("ce", classes=True) == pytest.approx(float(expected))
    unknown = torch.cat([TARGETS[:2], torch.full((1, 2), NAN)])
    expected = F.cross_entropy(LOGITS[:2], TARGETS[:2].argmax(dim=1))
    assert label_loss("ce", unknown, classes=True) == pytest.approx(float(expected))


def test_weighted_ce_gives_every_class_the_same_say() -> None:
    # One image of the first class, two of the second: weights 3/2 and 3/4.
    each = F.cross_entropy(LOGITS, TARGETS.argmax(dim=1), reduction="none")
    weights = torch.tensor([1.5, 0.75, 0.75])
    assert label_loss("weighted-ce", classes=True) == pytest.approx(float((weights * each).sum() / weights.sum()))


def test_focal_works_for_classes_too() -> None:
    of_truth = LOGITS.softmax(dim=1)[torch.arange(3), TARGETS.argmax(dim=1)]
    expected = -((1 - of_truth) ** 2 * of_truth.log()).mean()
    assert label_loss("focal", classes=True) == pytest.approx(float(expected), rel=1e-5)


def test_every_loss_fits_a_task_and_no_other() -> None:
    for loss in get_args(Loss):
        for task in get_args(Task):
            fitting = CLASS_LOSSES if task == "multiclass" else LABEL_LOSSES
            if loss in fitting:
                check_loss(loss, task)
            else:
                with pytest.raises(UsageError, match=f"loss {loss}: does not fit a {task} task"):
                    check_loss(loss, task)
    assert (usual_loss("binary"), usual_loss("multiclass")) == ("bce", "ce")


# --------------------------------------------------------------------------- regions


def test_a_map_of_zeros_costs_what_the_prior_costs() -> None:
    loss = RegionLoss(1)(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), torch.ones(1, 1), 64)
    # One covered cell of four, weight 8; every cell's logit is the offset, -2.
    expected = (8 * math.log1p(math.exp(2)) + 3 * math.log1p(math.exp(-2))) / 4
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)


def test_pointing_at_the_lesion_costs_less_than_pointing_elsewhere() -> None:
    coverage = torch.zeros(1, 1, 24, 24)
    coverage[..., :4, :4] = 255
    there, elsewhere = torch.full((1, 1, 6, 6), -5.0), torch.full((1, 1, 6, 6), -5.0)
    there[..., 0, 0], elsewhere[..., 5, 5] = 60.0, 60.0
    region_loss = RegionLoss(1)
    assert region_loss(there, coverage, torch.ones(1, 1), 96) < 0.5 * region_loss(
        elsewhere, coverage, torch.ones(1, 1), 96
    )


def test_a_small_lesion_weighs_as_much_as_a_dense_one() -> None:
    cams, coverage, known = torch.randn(1, 2, 6, 6), torch.zeros(1, 2, 24, 24), torch.ones(1, 2)
    coverage[..., 9, 9] = 255
    torch.testing.assert_close(RegionLoss(2)(cams, coverage, known, 96), RegionLoss(2)(cams, coverage / 10, known, 96))


def test_maps_whose_place_nobody_marked_do_not_count() -> None:
    torch.manual_seed(0)
    cams, coverage = torch.randn(2, 3, 6, 6), torch.rand(2, 3, 24, 24)
    known = torch.tensor([[True, False, False], [False, False, True]])
    region_loss = RegionLoss(3)
    whole = region_loss(cams, coverage, known, 96)
    alone = [
        RegionLoss(1)(cams[image, label][None, None], coverage[image, label][None, None], torch.ones(1, 1), 96)
        for image, label in ((0, 0), (1, 2))
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean())
    assert float(region_loss(cams, coverage, torch.zeros(2, 3, dtype=torch.bool), 96).detach()) == 0


def test_labels_without_a_region_ask_for_silence() -> None:
    region_loss, nothing = RegionLoss(3), torch.zeros(2, 3, 24, 24)
    quiet, loud = torch.full((2, 3, 6, 6), -50.0), torch.full((2, 3, 6, 6), 50.0)
    assert float(region_loss(quiet, nothing, torch.ones(2, 3), 96).detach()) < 0.01
    assert float(region_loss(loud, nothing, torch.ones(2, 3), 96).detach()) > 2
    assert torch.isfinite(region_loss(quiet, nothing, torch.ones(2, 3), 96))


def test_coverage_is_pooled_over_what_each_cell_is_nearest_to() -> None:
    coverage = torch.arange(64, dtype=torch.float32).repeat(64, 1)[None, None]
    # Cells of a ResNet at 0.5 and 32.5 of a square of 64: the border between them is at 16.5.
    pooled = pool_around_cells(coverage, (2, 2), 64, CellGrid(0.5, 0.5, 32, 32))
    left, right = (sum(range(16)) + 0.5 * 16) / 16.5, (0.5 * 16 + sum(range(17, 64))) / 47.5
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[left, right], [left, right]]))
    # The same square, seen at half the size and marked four times as coarsely.
    small = pool_around_cells(coverage[..., ::4, ::4], (2, 2), 32, CellGrid(0.5, 0.5, 16, 16))
    torch.testing.assert_close(small, pooled, rtol=0.05, atol=2)
    torch.testing.assert_close(
        pool_around_cells(coverage, (2, 2), 64, None), torch.nn.functional.adaptive_avg_pool2d(coverage, 2)
    )


@pytest.mark.parametrize("column", [0, 15, 40, 63])
def test_a_lesion_anywhere_is_asked_of_the_nearest_cell(column: int) -> None:
    for grid, shape in (
        (CellGrid(0.5, 0.5, 32, 32), 2),
        (CellGrid(16, 16, 32, 32), 2),
        (CellGrid(37.5, 37.5, 4, 4), 3),
    ):
        coverage = torch.zeros(1, 1, 64, 64)
        coverage[..., 20, column] = 255
        pooled = pool_around_cells(coverage, (shape, shape), 64, grid)[0, 0]
        centres = torch.arange(shape) * grid.stride_x + grid.origin_x
        nearest = int((centres - column - 0.5).abs().argmin())
        assert pooled.amax(dim=0).argmax() == nearest
        assert pooled.max() > 0
