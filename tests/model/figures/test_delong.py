"""DeLong's test: by ranks as by its definition, level where nothing differs, honest where patients have many images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from cxrbatch.model.figures.delong import auroc_components, compare_aurocs, compare_mean_aurocs
from cxrbatch.model.figures.metrics import measure_auroc


def draw(seed: int, images: int = 60, *, better: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw truths and two scores that share half of what they know; scores are rounded, so that some tie."""
    generator = np.random.default_rng(seed)
    truths = np.arange(images) % 3 == 0
    common = truths + generator.normal(0, 0.8, images)
    first, second = (common + generator.normal(0, 0.8, images) + gain * truths for gain in (better, 0.0))
    return truths, np.round(first, 1).astype(np.float32), np.round(second, 1).astype(np.float32)


def by_definition(truths: np.ndarray, scores: list[np.ndarray]) -> tuple[list[float], np.ndarray]:
    """Return the AUROCs and their covariance by DeLong et al. (1988), every pair of images looked at."""
    positive, negative = np.flatnonzero(truths), np.flatnonzero(~truths)
    above = [
        (each[positive][:, None] > each[negative]) + 0.5 * (each[positive][:, None] == each[negative])
        for each in scores
    ]
    of_with, of_without = (np.cov([each.mean(axis=axis) for each in above]) for axis in (1, 0))
    return [float(each.mean()) for each in above], of_with / len(positive) + of_without / len(negative)


def area(truths: np.ndarray, scores: np.ndarray) -> float:
    return float(auroc_components(truths, scores)[truths].mean())


def test_one_image_a_patient_is_delongs_own_covariance() -> None:
    truths, first, second = draw(1)
    areas, covariance = by_definition(truths, [first, second])
    found = compare_aurocs(truths, first, second, np.arange(len(truths)))
    assert [found.first, found.second] == pytest.approx(areas, abs=1e-12)
    assert found.first == pytest.approx(measure_auroc(truths, first), abs=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-14)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.p == pytest.approx(2 * norm.sf(abs(areas[0] - areas[1]) / error))


def test_hanley_and_mcneils_kind_of_example_by_hand() -> None:
    # Three with the finding, two without: areas 5/6 and 4/6; the components can be counted on the fingers.
    truths = np.array([True, True, True, False, False])
    first, second = np.array([3, 4, 1.5, 1, 2], np.float32), np.array([3, 1, 4, 2, 2], np.float32)
    found = compare_aurocs(truths, first, second, np.arange(5))
    assert (found.first, found.second) == pytest.approx((5 / 6, 4 / 6))
    # With: (1, 1, 1/2) and (1, 0, 1); without: (1, 2/3) and (2/3, 2/3).
    assert found.covariance[0, 0] == pytest.approx(1 / 12 / 3 + 1 / 18 / 2)
    assert found.covariance[1, 1] == pytest.approx(1 / 3 / 3)
    assert found.covariance[0, 1] == pytest.approx(-1 / 12 / 3)


def test_a_permutation_of_the_two_scores_says_about_the_same() -> None:
    truths, first, second = draw(8, 150, better=0.5)
    found = compare_aurocs(truths, first, second, np.arange(len(truths)))
    generator = np.random.default_rng(0)
    # Ranks, so that the scores may be swapped image by image (Venkatraman and Begg 1996).
    ranked = np.stack([np.argsort(np.argsort(each, kind="stable"), kind="stable") for each in (first, second)])
    drawn = []
    for _ in range(1000):
        swapped = np.where(generator.random(len(truths)) < 0.5, ranked, ranked[::-1]).astype(np.float32)
        drawn.append(area(truths, swapped[0]) - area(truths, swapped[1]))
    p = np.mean(np.abs(drawn) >= abs(found.first - found.second) - 1e-12)
    assert found.p == pytest.approx(p, abs=0.04)


def test_where_nothing_differs_five_in_a_hundred_are_called_different() -> None:
    found = [compare_aurocs(*draw(seed), np.arange(60)).p for seed in range(400)]
    assert 0.025 < np.mean([p is not None and p < 0.05 for p in found]) < 0.085


def test_copies_of_images_make_nothing_more_certain() -> None:
    truths, first, second = draw(2, better=0.6)
    once = compare_aurocs(truths, first, second, np.arange(len(truths)))
    four, ours, theirs = (np.repeat(each, 4) for each in (truths, first, second))
    kept = compare_aurocs(four, ours, theirs, np.repeat(np.arange(len(truths)), 4))
    naive = compare_aurocs(four, ours, theirs, np.arange(4 * len(truths)))
    np.testing.assert_allclose(kept.covariance, once.covariance, rtol=1e-9)
    assert kept.p == pytest.approx(once.p)
    assert naive.p is not None
    assert kept.p is not None
    assert naive.p < kept.p


def test_patients_with_images_of_both_kinds_share_what_they_share() -> None:
    """Of a patient who is hard in both images the two parts move together; the mean square over resamples agrees."""
    generator = np.random.default_rng(5)
    patients = np.repeat(np.arange(150), 2)
    truths = np.tile([True, False], 150)
    hard = np.repeat(generator.normal(0, 1, 150), 2)
    first = (truths * 1.0 + hard + generator.normal(0, 0.7, 300)).astype(np.float32)
    second = (truths * 1.0 + generator.normal(0, 1, 300)).astype(np.float32)
    found = compare_aurocs(truths, first, second, patients)
    drawn = []
    for _ in range(400):
        chosen = generator.integers(0, 150, 150)
        rows = np.concatenate([2 * chosen, 2 * chosen + 1])
        drawn.append([area(truths[rows], each[rows]) for each in (first, second)])
    expected = np.cov(np.array(drawn).T)
    np.testing.assert_allclose(np.diag(found.covariance), np.diag(expected), rtol=0.25)


def test_the_same_scores_and_perfect_ones_are_told_apart_from_what_cannot_be_told() -> None:
    truths, first, _ = draw(3)
    patients = np.arange(len(truths))
    same = compare_aurocs(truths, first, first * 2 + 1, patients)
    assert (same.p, same.error) == (1.0, 0.0)
    perfect = truths.astype(np.float32)
    assert compare_aurocs(truths, perfect, perfect + truths, patients).p == 1.0
    assert compare_aurocs(truths, perfect, 1 - perfect, patients).p is None
    assert compare_aurocs(truths, first, perfect, np.zeros(len(truths), int)).p is None


def test_a_mean_over_labels_knows_that_labels_go_together() -> None:
    truths, first, second = draw(4, better=0.4)
    patients = np.arange(len(truths))
    one = compare_aurocs(truths, first, second, patients)
    twice = compare_mean_aurocs([one, one], patients)
    assert twice is not None
    # The same label twice tells as much as once, but for the factor of the number of patients.
    assert twice == pytest.approx(one.p, rel=0.1)
    truths, first, second = draw(4, better=0.4)
    assert compare_mean_aurocs([one, compare_aurocs(truths, second, first, patients)], patients) == 1.0
    assert compare_mean_aurocs([one], np.zeros(len(truths), int)) is None


def test_where_no_label_differs_five_in_a_hundred_means_are_called_different() -> None:
    patients = np.arange(60)
    pairs = [[compare_aurocs(*draw(seed + more), patients) for more in (0, 1000)] for seed in range(300)]
    found = [compare_mean_aurocs(pair, patients) for pair in pairs]
    assert 0.02 < np.mean([p is not None and p < 0.05 for p in found]) < 0.09


def test_images_of_unknown_truth_play_no_part() -> None:
    truths, first, second = draw(6)
    known = np.arange(60) % 5 != 0
    found = compare_aurocs(truths, first, second, np.arange(60), known=known)
    expected = compare_aurocs(truths[known], first[known], second[known], np.arange(60)[known])
    assert found.p == expected.p
    assert not found.moved[~known].any()
    assert found.moved.sum() == pytest.approx(0.0, abs=1e-12)
