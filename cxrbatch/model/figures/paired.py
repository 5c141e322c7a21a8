"""Whether two engines' verdicts on the same images differ in truth: intervals and tests of paired rates.

Only images that one answers rightly and the other wrongly tell anything (McNemar 1947).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from cxrbatch.model.figures.bootstrap import COVERAGE, Estimate, Resampled, estimate
from cxrbatch.model.figures.intervals import Patients
from cxrbatch.model.figures.metrics import Mask

_Z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
# Where no pair differs, the difference itself solves the equation of both ends as well.
_BESIDE = 1e-9


def estimate_rate_difference(first: Mask, second: Mask, patients: Patients, resampled: Resampled) -> Estimate:
    """Return the difference of two shares of the same images, with its interval.

    Tango's score interval (1998), which keeps its promise for few images and where no two answers differ, when a
    bootstrap says that the difference is nothing for certain. Where patients have several images, he counts as many
    as would vary as much as the difference does over resamples of the patients, and the bootstrap's ends are taken in.

    Args:
        first: bool [N], N > 0, whether the first answers an image rightly.
        second: the same of the second.
        patients: int64 [N], who is on each image.
        resampled: float64 [B], the difference in resamples of the patients.
    """
    images, count = len(first), len(np.unique(patients))
    only_first, only_second = float((first & ~second).mean()), float((second & ~first).mean())
    value = float(first.mean()) - float(second.mean())
    if not resampled.size:
        return Estimate(value, value, value)
    if count == images:
        return Estimate(value, *tango(only_first, only_second, images))
    told = resampled[np.isfinite(resampled)]
    variance, spread = float(told.var()) if told.size else 0.0, only_first + only_second - value**2
    effective = max(1.0, min(images, spread / variance)) if variance > 0.0 and spread > 0.0 else count
    low, high = tango(only_first, only_second, effective)
    drawn = estimate(value, resampled)
    return Estimate(value, min(low, drawn.low), max(high, drawn.high))


def tango(only_first: float, only_second: float, count: float) -> tuple[float, float]:
    """Return Tango's 95 % interval (1998) of only_first - only_second, shares of `count` pairs that differ."""
    difference = only_first - only_second

    def beyond(end: float) -> float:
        # The likeliest share of pairs that only the second has, if the difference were this end.
        linear = -only_first - only_second + (2 - difference) * end
        constant = -only_second * end * (1 - end)
        share = (sqrt(max(0.0, linear**2 - 8 * constant)) - linear) / 4
        return count * (difference - end) ** 2 - _Z**2 * (2 * share + end * (1 - end))

    nearly = 1.0 - 1e-12
    low = -1.0 if difference <= -nearly or beyond(-nearly) <= 0 else brentq(beyond, -nearly, difference - _BESIDE)
    high = 1.0 if difference >= nearly or beyond(nearly) <= 0 else brentq(beyond, difference + _BESIDE, nearly)
    return float(low), float(high)


def swap_patients(first: Mask, second: Mask, patients: Patients) -> float:
    """Return p that two answer the same images as well, two-sided and exact.

    Were they alike, each patient's surplus of the first's right answers over the second's could as well be the
    other's: p is the share of all such swaps that give as large a sum. With one image a patient it is McNemar's
    exact test (1947).

    Args:
        first: bool [N], whether the first answers an image rightly.
        second: the same of the second.
        patients: int64 [N], who is on each image.
    """
    surplus = np.bincount(np.unique(patients, return_inverse=True)[1], first.astype(int) - second.astype(int))
    sizes, reached = np.abs(surplus).astype(int), abs(int(surplus.sum()))
    total = int(sizes.sum())
    chances: NDArray[np.float64] = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in sizes[sizes > 0].tolist():
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    sums = np.abs(np.arange(-total, total + 1))
    return min(1.0, float(chances[sums >= reached].sum()))


def adjust_holm(tests: Sequence[float]) -> list[float]:
    """Return p adjusted for so many tests (Holm 1979): with 5 % at most does any true null fall below 0.05."""
    order = sorted(range(len(tests)), key=tests.__getitem__)
    adjusted, largest = [0.0] * len(tests), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(tests) - rank) * tests[place]))
        adjusted[place] = largest
    return adjusted
