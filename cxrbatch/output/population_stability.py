"""The population stability index (Siddiqi 2006, chapter 6), and how large it is by chance.

Of two distributions over the same bins it is sum((p - q) * ln(p / q)); its usual limits are 0.1 (look) and 0.25 (act).
Of few studies it is large by chance alone: with equal distributions it is about (1/n + 1/m) times a chi-square of
bins - 1 degrees (Yurdakul and Naranjo 2020).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# Added to the count of every bin, so that an empty one has a logarithm (Krichevsky and Trofimov 1981).
_SMOOTHING = 0.5

BY_CHANCE = 0.01
"""How often a run may raise an alarm although nothing changed."""

Counts = NDArray[np.float64]


def population_stability_index(counts: Counts, reference: Counts) -> float:
    """Return the index of two lots of counts over the same bins, float64 [bins]; half a count is added to each bin."""
    shares, expected = ((each + _SMOOTHING) / (each.sum() + _SMOOTHING * len(each)) for each in (counts, reference))
    return float(((shares - expected) * np.log(shares / expected)).sum())


def chance_limit(degrees: int, studies: int, reference: int, comparisons: int = 1) -> float:
    """Return what the index stays below by chance, over all comparisons together, in 99 runs out of 100.

    The quantile of chi-square is Wilson and Hilferty's (1931), within 1 % of the exact one.
    """
    z = NormalDist().inv_cdf(1 - BY_CHANCE / max(1, comparisons))
    part = 2 / (9 * degrees)
    return degrees * float((1 - part + z * part**0.5) ** 3) * (1 / studies + 1 / reference)
