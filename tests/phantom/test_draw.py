"""What a seed promises: the same patient again, lesions where the masks say, nothing else changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cxrbatch.phantom import FINDINGS, Phantom, draw_phantom
from cxrbatch.phantom.lesions import choose_findings

ROWS = 256
SEEDS = range(100, 108)


@cache
def draw_with(seed: int, finding: str) -> Phantom:
    """Draw a patient with one finding, or with none (""), once for all tests."""
    return draw_phantom(seed, rows=ROWS, findings=(finding,) if finding else ())


def lesion_pair(seed: int, finding: str) -> tuple[Phantom, Phantom]:
    return draw_with(seed, ""), draw_with(seed, finding)


def shown(phantom: Phantom) -> NDArray[Any]:
    """0..1 within the window, float64 [H,W]."""
    low = phantom.window_center - phantom.window_width / 2
    return np.asarray(np.clip((phantom.stored - low) / phantom.window_width, 0, 1))


def without_grain(phantom: Phantom) -> NDArray[Any]:
    return cv2.GaussianBlur(shown(phantom), (0, 0), 1.5)


def grown(mask: NDArray[Any], by_px: int) -> NDArray[Any]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by_px + 1, 2 * by_px + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


def overlap(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Dice coefficient of two masks."""
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def test_a_seed_draws_the_same_pixels_again() -> None:
    first, second = draw_phantom(5, rows=ROWS), draw_phantom(5, rows=ROWS)
    np.testing.assert_array_equal(first.stored, second.stored)
    assert first.findings == second.findings
    assert (first.window_center, first.window_width) == (second.window_center, second.window_width)


def test_seeds_draw_different_patients() -> None:
    one, other = without_grain(draw_phantom(1, rows=ROWS)), without_grain(draw_phantom(2, rows=ROWS))
    assert np.abs(one - other).mean() > 0.02


@pytest.mark.parametrize("columns", [ROWS, 200, 300])
def test_pixels_are_12_bit_and_use_the_window(columns: int) -> None:
    phantom = draw_phantom(11, rows=ROWS, columns=columns)
    assert phantom.stored.dtype == np.uint16
    assert phantom.stored.shape == (ROWS, columns)
    assert phantom.stored.max() <= 4095
    assert np.ptp(np.percentile(shown(phantom), [2, 98])) > 0.4


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, ...]]:
    """What many phantoms have, by seed."""
    return [tuple(choose_findings(seed)) for seed in range(300)]


def test_what_was_chosen_is_drawn(drawn: list[tuple[str, ...]]) -> None:
    for seed in range(12):
        assert set(draw_phantom(seed, rows=64).findings) == set(drawn[seed])


def test_about_four_in_ten_have_no_finding_and_findings_are_equally_common(drawn: list[tuple[str, ...]]) -> None:
    counts = np.array([sum(name in findings for findings in drawn) for name in FINDINGS])
    assert 0.33 < np.mean([not findings for findings in drawn]) < 0.47
    assert counts.min() > 0.6 * counts.mean()
    assert counts.max() < 1.4 * counts.mean()
    assert max(len(findings) for findings in drawn) == 2


def test_an_unknown_finding_is_refused() -> None:
    with pytest.raises(ValueError, match="no such finding: Fracture"):
        draw_phantom(1, rows=64, findings=("Fracture",))


@pytest.mark.parametrize("finding", FINDINGS)
def test_masks_are_there_for_what_is_present_only(finding: str) -> None:
    for seed in SEEDS:
        phantom = draw_with(seed, finding)
        assert phantom.findings == (finding,)
        mask = phantom.masks[finding]
        assert mask.dtype == np.bool_
        assert mask.shape == phantom.stored.shape
        assert 0.0005 < mask.mean() < 0.25


@pytest.mark.parametrize("finding", ["Effusion", "Nodule", "Consolidation", "Cardiomegaly"])
def test_opacities_are_brighter_than_the_healthy_patient(finding: str) -> None:
    for seed in SEEDS:
        healthy, ill = lesion_pair(seed, finding)
        change = without_grain(ill) - without_grain(healthy)
        mask = ill.masks[finding]
        assert change[mask].mean() > 0.02, seed
        assert (change[mask] > -0.02).mean() > 0.97, seed


def test_a_pneumothorax_is_darker_than_the_healthy_lung() -> None:
    for seed in SEEDS:
        healthy, ill = lesion_pair(seed, "Pneumothorax")
        change = without_grain(ill) - without_grain(healthy)
        assert change[ill.masks["Pneumothorax"]].mean() < -0.02, seed


@pytest.mark.parametrize("finding", FINDINGS)
def test_nothing_changes_away_from_a_lesion(finding: str) -> None:
    for seed in SEEDS:
        healthy, ill = lesion_pair(seed, finding)
        away = ~grown(ill.masks[finding], 10)
        change = np.abs(without_grain(ill) - without_grain(healthy))[away]
        assert change.mean() < 0.001, seed
        assert np.percentile(change, 99.5) < 0.02, seed


def test_two_findings_look_as_they_do_alone() -> None:
    alone = draw_phantom(7, rows=ROWS, findings=("Effusion",))
    together = draw_phantom(7, rows=ROWS, findings=("Consolidation", "Effusion"))
    assert together.findings == ("Effusion", "Consolidation")
    np.testing.assert_array_equal(alone.masks["Effusion"], together.masks["Effusion"])


def test_the_heart_lies_on_the_right_of_the_image_and_is_wide_when_enlarged() -> None:
    for seed in SEEDS:
        mask = draw_with(seed, "Cardiomegaly").masks["Cardiomegaly"]
        columns = np.flatnonzero(mask.any(axis=0))
        assert np.nonzero(mask)[1].mean() > ROWS / 2 - 4, seed
        # The inner thorax is less than 0.8 of any image's width, and an enlarged heart more than half of it.
        assert np.ptp(columns) > 0.34 * ROWS, seed


def test_lungs_are_darker_than_the_abdomen() -> None:
    for seed in SEEDS:
        picture = without_grain(draw_with(seed, ""))
        abdomen = picture[int(0.9 * ROWS) : int(0.95 * ROWS), int(0.4 * ROWS) : int(0.6 * ROWS)].mean()
        right_lung = picture[int(0.4 * ROWS) : int(0.5 * ROWS), int(0.22 * ROWS) : int(0.3 * ROWS)].mean()
        assert right_lung < abdomen - 0.2, seed


@pytest.mark.parametrize("finding", FINDINGS)
def test_another_size_shows_the_same_patient(finding: str) -> None:
    for seed in SEEDS[:3]:
        small = draw_phantom(seed, rows=160, findings=(finding,))
        large = draw_phantom(seed, rows=800, findings=(finding,))
        reduced = cv2.resize(shown(large), (160, 160), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(reduced.ravel(), shown(small).ravel())[0, 1] > 0.98, seed
        mask = cv2.resize(large.masks[finding].astype(np.float32), (160, 160), interpolation=cv2.INTER_AREA) > 0.5
        assert overlap(mask, small.masks[finding]) > 0.9, seed


def test_grain_vanishes_as_a_large_image_is_reduced() -> None:
    large, small = draw_phantom(3, rows=1024, findings=()), draw_phantom(3, rows=256, findings=())
    reduced = cv2.resize(shown(large), (256, 256), interpolation=cv2.INTER_AREA)

    def grain(picture: NDArray[Any]) -> float:
        return float(np.std((picture - cv2.GaussianBlur(picture, (0, 0), 2.0))[110:150, 60:90]))

    assert grain(reduced) == pytest.approx(grain(shown(small)), rel=0.35)


def test_another_take_is_the_same_patient_in_another_pose() -> None:
    first = draw_phantom(8, rows=ROWS, findings=("Effusion", "Nodule"))
    second = draw_phantom(8, rows=ROWS, findings=("Effusion", "Nodule"), take=1)
    assert (first.age, first.sex, first.findings) == (second.age, second.sex, second.findings)
    assert not np.array_equal(first.stored, second.stored)


def test_what_is_not_the_lesion_does_not_tell_the_label(drawn: list[tuple[str, ...]]) -> None:
    """Healthy twins of ill and of healthy patients have the same brightness and age."""
    twins = [(draw_phantom(seed, rows=64, findings=()), drawn[seed]) for seed in range(200)]
    ill = np.array([bool(findings) for _, findings in twins])
    measures: tuple[Callable[[Phantom], float], ...] = (
        lambda phantom: float(shown(phantom).mean()),
        lambda phantom: float(phantom.age),
        lambda phantom: phantom.window_width,
    )
    for measure in measures:
        values = np.array([measure(twin) for twin, _ in twins])
        difference = values[ill].mean() - values[~ill].mean()
        error = np.sqrt(values[ill].var() / ill.sum() + values[~ill].var() / (~ill).sum())
        assert abs(difference) < 3 * error
