"""Paired rates: Tango's interval, swaps of answers, and p for many tests at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from cxrbatch.model.figures import paired
from cxrbatch.model.figures.bootstrap import draw_resamples, resample_mean
from cxrbatch.model.figures.paired import adjust_holm, estimate_rate_difference, swap_patients, tango


def score(only_first: int, only_second: int, count: int, end: float) -> float:
    """Return the square of Tango's statistic, its likeliest share found by trying."""

    def unlikely(share: float) -> float:
        first, rest = share + end, 1 - 2 * share - end
        logs = (only_first, first), (only_second, share), (count - only_first - only_second, rest)
        return -float(sum(cases * np.log(max(chance, 1e-300)) for cases, chance in logs if cases))

    bounds = max(0.0, -end), (1 - end) / 2
    share = float(minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x)
    return (only_first - only_second - count * end) ** 2 / (count * (2 * share + end - end**2))


@pytest.mark.parametrize(("only_first", "only_second", "count"), [(9, 3, 40), (0, 1, 44), (5, 5, 30), (12, 0, 25)])
def test_tangos_interval_ends_where_the_likelihood_says(only_first: int, only_second: int, count: int) -> None:
    for end in tango(only_first / count, only_second / count, count):
        assert score(only_first, only_second, count, end) == pytest.approx(1.959964**2, abs=1e-3)


def test_tangos_own_example(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two ways to disinfect contact lenses in Tango (1998), 44 pairs, one differs: 90 % from -0.096 to 0.037.
    monkeypatch.setattr(paired, "_Z", 1.644854)
    assert tango(0.0, 1 / 44, 44) == pytest.approx((-0.096, 0.037), abs=0.0005)


def test_no_pair_that_differs_is_no_certainty() -> None:
    low, high = tango(0.0, 0.0, 20)
    assert (low, high) == pytest.approx((-0.161, 0.161), abs=0.001)
    assert tango(1.0, 0.0, 10)[1] == 1.0
    assert tango(0.0, 1.0, 10)[0] == -1.0


def test_more_images_of_the_same_patients_tell_no_more() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random(40) < 0.8, generator.random(40) < 0.6

    def estimated(copies: int) -> tuple[float, float]:
        patients = np.repeat(np.arange(40), copies)
        answers = [np.repeat(each, copies) for each in (first, second)]
        weights = draw_resamples([str(patient) for patient in patients], count=400, seed=0)
        moved = resample_mean(answers[0].astype(float) - answers[1], weights)
        found = estimate_rate_difference(answers[0], answers[1], patients, moved)
        return found.low, found.high

    once, five = estimated(1), estimated(5)
    assert five[1] - five[0] > 0.9 * (once[1] - once[0])


def test_swaps_are_mcnemars_exact_test_where_patients_have_one_image() -> None:
    first = np.array([True] * 11 + [False] * 3 + [True] * 20)
    second = np.array([False] * 11 + [True] * 3 + [True] * 20)
    assert swap_patients(first, second, np.arange(34)) == pytest.approx(binomtest(11, 14).pvalue)
    assert swap_patients(first, first, np.arange(34)) == 1.0


def test_swaps_keep_a_patients_images_together() -> None:
    # Four patients with 3, 2, 2 and 1 images that only the first answers rightly: two of sixteen swaps reach that.
    patients = np.repeat(np.arange(4), [3, 2, 2, 1])
    assert swap_patients(np.ones(8, bool), np.zeros(8, bool), patients) == pytest.approx(2 / 16)


def test_holm_adjusts_as_he_says() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []
