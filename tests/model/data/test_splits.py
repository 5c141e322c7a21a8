"""Laws of splitting: no patient in two parts, shares kept, the same seed the same split."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from cxrbatch.errors import UsageError
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.splits import assign_patients, split_data, split_into_folds

ROOT = Path("/data")
LABELS = ("A", "B", "C")


def data(images: list[tuple[str, tuple[float, ...]]]) -> LabelledImages:
    samples = tuple(
        Sample(ROOT / f"{row}.png", "", targets, patient_id=patient) for row, (patient, targets) in enumerate(images)
    )
    return LabelledImages(ROOT, LABELS, samples)


labelled_images = st.lists(
    st.tuples(st.integers(0, 40).map(str), st.tuples(*[st.sampled_from([0.0, 1.0, float("nan")])] * 3)),
    min_size=12,
    max_size=120,
).filter(lambda drawn: len({patient for patient, _ in drawn}) >= 6)


def parts_by_patient(images: LabelledImages) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = defaultdict(set)
    for sample in images.samples:
        parts[sample.patient_id].add(sample.split)
    return parts


@given(images=labelled_images, seed=st.integers(0, 1000))
def test_no_patient_is_in_two_parts_and_every_image_is_in_one(
    images: list[tuple[str, tuple[float, ...]]], seed: int
) -> None:
    split = split_data(data(images), DataOptions(seed=seed, val_fraction=0.25, test_fraction=0.15))
    assert all(len(parts) == 1 for parts in parts_by_patient(split).values())
    assert {sample.split for sample in split.samples} <= {"train", "val", "test"}
    assert [sample.path for sample in split.samples] == [sample.path for sample in data(images).samples]


@given(images=labelled_images, seed=st.integers(0, 1000), fraction=st.floats(0.1, 0.5))
def test_the_share_of_val_is_kept_up_to_the_size_of_patients(
    images: list[tuple[str, tuple[float, ...]]], seed: int, fraction: float
) -> None:
    split = split_data(data(images), DataOptions(seed=seed, val_fraction=fraction))
    val = sum(sample.split == "val" for sample in split.samples)
    largest = max(sum(patient == other for other, _ in images) for patient, _ in images)
    # Each of the four strata (three labels and none) can be off by about one patient.
    assert abs(val - fraction * len(images)) <= 4 * largest


@given(classes=st.lists(st.integers(0, 2), min_size=10, max_size=200), fraction=st.floats(0.1, 0.5))
def test_classes_keep_their_share_to_within_an_image(classes: list[int], fraction: float) -> None:
    targets = np.eye(3)[classes]
    parts = assign_patients(targets, (1.0 - fraction, fraction), seed=0)
    for column in targets.T:
        assert abs(column[parts == 1].sum() - fraction * column.sum()) <= 1.0


@given(labelled=labelled_images, seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
def test_the_same_seed_gives_the_same_split_in_any_order_and_place(
    labelled: list[tuple[str, tuple[float, ...]]], seed: int, order: random.Random
) -> None:
    images, options = data(labelled), DataOptions(seed=seed)
    split = {sample.path.name: sample.split for sample in split_data(images, options).samples}
    moved = [replace(sample, path=Path("/elsewhere") / sample.path.name) for sample in images.samples]
    order.shuffle(moved)
    again = split_data(replace(images, root=Path("/elsewhere"), samples=tuple(moved)), options)
    assert {sample.path.name: sample.split for sample in again.samples} == split


@given(images=labelled_images, folds=st.integers(2, 6), seed=st.integers(0, 1000))
def test_folds_validate_on_every_image_once(images: list[tuple[str, tuple[float, ...]]], folds: int, seed: int) -> None:
    split = split_into_folds(data(images), folds, seed)
    assert len(split) == folds
    validated = [sample.path for fold in split for sample in fold.samples if sample.split == "val"]
    assert sorted(validated) == sorted(sample.path for sample in split[0].samples)
    for fold in split:
        assert all(len(parts) == 1 for parts in parts_by_patient(fold).values())


def test_another_seed_gives_another_split() -> None:
    images = data([(str(index), (float(index % 2), 0.0, 0.0)) for index in range(60)])
    splits = {split_data(images, DataOptions(seed=seed)).sha256 for seed in range(5)}
    assert len(splits) == 5


def test_images_of_unknown_patients_are_patients_of_their_own() -> None:
    images = data([("", (float(index % 2), 0.0, 0.0)) for index in range(20)])
    split = split_data(images, DataOptions(val_fraction=0.2))
    assert sum(sample.split == "val" for sample in split.samples) == 4
    assert sum(sample.targets[0] for sample in split.samples if sample.split == "val") == 2.0


def test_no_part_stays_empty_while_there_are_patients() -> None:
    images = data([("a", (1.0, 0.0, 0.0)), ("a", (1.0, 0.0, 0.0)), ("b", (0.0, 1.0, 0.0)), ("c", (0.0, 0.0, 0.0))])
    split = split_data(images, DataOptions(val_fraction=0.1, test_fraction=0.1))
    assert sorted(sample.split for sample in split.samples) == ["test", "train", "train", "val"]
    assert parts_by_patient(split)["a"] == {"train"}


def test_a_patient_with_very_many_images_is_trained_on() -> None:
    positive: tuple[float, ...] = (1.0, 0.0, 0.0)
    many = [("23", positive)] * 28 + [(f"p{index}", (1.0, 0.0, 0.0)) for index in range(52)]
    split = split_data(data(many), DataOptions(val_fraction=0.2))
    assert sum(sample.split == "val" for sample in split.samples) == 16
    assert parts_by_patient(split)["23"] == {"train"}


def given_split(*splits: str) -> LabelledImages:
    images = data([(str(index), (float(index % 2), 0.0, 0.0)) for index in range(4 * len(splits))])
    samples = (replace(sample, split=splits[index // 4]) for index, sample in enumerate(images.samples))
    return replace(images, samples=tuple(samples))


def test_a_given_split_is_kept() -> None:
    images = given_split("train", "val", "test")
    assert split_data(images, DataOptions(test_fraction=0.3)) == images


def test_val_is_cut_from_train_where_only_test_is_given() -> None:
    images = given_split("train", "train", "test")
    split = split_data(images, DataOptions(val_fraction=0.25))
    assert [sample.split for sample in split.samples[8:]] == ["test"] * 4
    assert sorted(sample.split for sample in split.samples[:8]) == ["train"] * 6 + ["val"] * 2


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(UsageError, match="all images belong to test and val; none is left to train on"):
        split_data(given_split("val", "test"), DataOptions())


def test_too_few_patients_are_said_without_naming_them() -> None:
    with pytest.raises(UsageError, match=r"too few patients \(1\) to split their images into train, val") as refusal:
        split_data(data([("Mustermann", (1.0, 0.0, 0.0))] * 4), DataOptions())
    assert "Mustermann" not in str(refusal.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"val_fraction": 0.0}, "val_fraction must lie between 0 and 1"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "leave none to train"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"labels": ("A",), "binary": "B"}, "exclude each other"),
        ({"labels": ("A", "A")}, "names a label twice"),
        ({"patient_pattern": "("}, "regular expression with one"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "share"), [(0, 0.1), (1, 0.25), (2, 0.4)])
def test_what_is_set_aside_moves_nobody_else(seed: int, share: float) -> None:
    drawn: list[tuple[str, tuple[float, ...]]] = [
        (f"p{patient}", (float(patient % 3 == 0), 0.0, 1.0)) for patient in range(60) for _ in range(1 + patient % 3)
    ]
    options = DataOptions(val_fraction=0.2, test_fraction=0.1, seed=seed)
    plain, aside = split_data(data(drawn), options), split_data(data(drawn), replace(options, set_aside=share))
    for before, after in zip(plain.samples, aside.samples, strict=True):
        assert after.split == before.split or (before.split, after.split) == ("train", "calibration")
    assert all(len(parts) == 1 for parts in parts_by_patient(aside).values())
    part = [sample for sample in aside.samples if sample.split == "calibration"]
    assert abs(len(part) / len(drawn) - share) < 0.03
    assert abs(np.mean([sample.targets[0] for sample in part]) - 1 / 6) < 0.06
