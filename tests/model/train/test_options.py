"""What is usual for so many images: steps, batches, sizes, which epoch is kept, and how often an image is drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.train.augment import LIGHT, NONE, STRONG, Augmentation
from cxrbatch.model.train.checks import settle_options
from cxrbatch.model.train.image_batches import ShuffledBatches, repeat_factors
from cxrbatch.model.train.options import MIN_STEPS, TrainingOptions, usual_architecture, with_usual_length
from cxrbatch.model.train.record import TrainingPlan

OPEN = TrainingOptions(epochs=0, batch_size=0, keep="auto")


def images(training: int, validation: int = 100) -> LabelledImages:
    samples = [
        Sample(Path(f"/d/{row}.png"), "train" if row < training else "val", (float(row % 2),), patient_id=str(row))
        for row in range(training + validation)
    ]
    return LabelledImages(Path("/d"), ("Effusion",), tuple(samples))


@pytest.mark.parametrize("count", [20, 162, 253, 550, 1999, 2000, 5000, 100_000])
def test_an_open_schedule_makes_at_least_600_steps(count: int) -> None:
    options = with_usual_length(OPEN, count)
    assert options.epochs * (count // options.batch_size) >= MIN_STEPS
    assert options.epochs >= 16


@pytest.mark.parametrize(("count", "accumulate"), [(162, 4), (550, 2)])
def test_batches_that_are_gathered_make_one_step(count: int, accumulate: int) -> None:
    options = with_usual_length(replace(OPEN, accumulate=accumulate), count)
    assert options.epochs * (count // (options.batch_size * accumulate)) >= MIN_STEPS


@pytest.mark.parametrize(("training", "architecture"), [(200, "resnet18"), (1999, "resnet18"), (2000, "resnet50")])
def test_small_sets_are_learned_by_a_small_network(training: int, architecture: str) -> None:
    assert usual_architecture(training) == architecture


def test_what_is_asked_for_stays() -> None:
    options = with_usual_length(replace(OPEN, epochs=3, batch_size=8), 162)
    assert (options.epochs, options.batch_size) == (3, 8)


@pytest.mark.parametrize(
    ("training", "size_px", "small"),
    [(253, 224, 0), (3999, 224, 0), (4000, 224, 12), (4000, 128, 0), (4000, 222, 0), (100_000, 512, 12)],
)
def test_small_epochs_are_for_large_sets_and_not_below_112_px(training: int, size_px: int, small: int) -> None:
    settled = settle_options(
        TrainingPlan(training=OPEN, size_px=size_px, architecture="resnet50"), images(training), pretrained=False
    )
    assert settled.small_epochs == small


@pytest.mark.parametrize(
    ("validation", "patience", "keep"), [(40, 0, "last"), (999, 0, "last"), (1000, 0, "best"), (40, 3, "best")]
)
def test_the_best_epoch_is_kept_only_where_it_is_not_the_luckiest(validation: int, patience: int, keep: str) -> None:
    plan = TrainingPlan(training=replace(OPEN, patience=patience), architecture="resnet50")
    assert settle_options(plan, images(200, validation), pretrained=False).keep == keep


@pytest.mark.parametrize(
    ("training", "augmentation", "asked", "flip"),
    [
        (1999, LIGHT, None, True),
        (2000, LIGHT, None, False),
        (200, LIGHT, False, False),
        (5000, STRONG, True, True),
        (200, NONE, None, False),
        (200, NONE, True, True),
        (5000, replace(LIGHT, flip=True), None, True),
    ],
)
def test_small_sets_are_mirrored_unless_somebody_says_otherwise(
    training: int, augmentation: Augmentation, asked: bool | None, flip: bool
) -> None:
    plan = TrainingPlan(training=replace(OPEN, augmentation=augmentation), flip=asked, architecture="resnet50")
    settled = settle_options(plan, images(training), pretrained=False)
    assert settled.augmentation == replace(augmentation, flip=flip)


def targets_of(*counts: int, of: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return float32 [of,C]: the first images have the first label, the next ones the second, and so on."""
    targets = np.zeros((of, len(counts)), np.float32)
    first = 0
    for label, count in enumerate(counts):
        targets[first : first + count, label] = 1
        first += count
    return targets


def test_an_image_is_drawn_as_often_as_its_rarest_label_asks_for() -> None:
    repeats = repeat_factors(targets_of(10, 400, of=1000), 0.09)
    assert repeats is not None
    assert repeats[:10] == pytest.approx(3.0)
    assert repeats[10:] == pytest.approx(1.0)
    both = targets_of(10, 400, of=1000)
    both[0, 1] = 1
    both[500, 0] = np.nan
    repeats = repeat_factors(both, 0.09)
    assert repeats is not None
    assert repeats[[0, 500]] == pytest.approx([3.0, 1.0])


def test_labels_that_are_common_enough_or_not_there_change_nothing() -> None:
    assert repeat_factors(targets_of(100, 400, of=1000), 0.09) is None
    assert repeat_factors(targets_of(0, 400, of=1000), 0.09) is None
    assert repeat_factors(targets_of(1, of=1000), 0.0) is None


def test_rare_images_come_more_often_and_epochs_stay_as_long() -> None:
    targets = targets_of(10, 400, of=1000)
    pixels = np.zeros((1000, 1, 1, 1), np.uint8)
    drawn = np.zeros(2)
    for epoch in range(40):
        batches = ShuffledBatches(
            PixelSet(pixels, targets), 16, 0, partial(int, epoch), repeats=repeat_factors(targets, 0.09)
        )
        seen = [batch.targets.numpy() for batch in batches]
        assert len(seen) == len(batches) == 62
        drawn += np.concatenate(seen).sum(axis=0)
    # 3 times 10 of 1020 draws, 400 of them.
    assert drawn / (40 * 62 * 16) == pytest.approx([30 / 1020, 400 / 1020], rel=0.1)
