"""95 % intervals of rates, which a bootstrap alone makes too narrow: of 15 hits in 15 it says 1.00 to 1.00.

A rate is a share of images. Where each is of a patient of its own, its interval is Wilson's (1927), which keeps its
promise for few images and at the edge (Brown, Cai and DasGupta 2001). Images of one patient resemble each other, so
where patients have several, Wilson counts fewer: as many as would vary as much as the rate does between resamples of
the patients (the effective sample size of Korn and Graubard 1998). At the edge, where no resample differs, he counts
patients, as if all images of one said the same. The bootstrap's interval is taken in, too, so the wider end holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from cxrbatch.model.figures.bootstrap import COVERAGE, Estimate, Resampled, estimate
from cxrbatch.model.figures.metrics import Calls, Figure, Mask, Truths

Patients = NDArray[np.int64]

_Z = NormalDist().inv_cdf((1 + COVERAGE) / 2)


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of a share of `count` cases, which need not be a whole number."""
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    reach = _Z / (1 + _Z**2 / count) * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    # At the edge the interval ends there; rounding would let it end just beside.
    return (0.0 if share == 0.0 else max(0.0, middle - reach)), (1.0 if share == 1.0 else min(1.0, middle + reach))


def estimate_share(hits: Mask, patients: Patients, resampled: Resampled) -> Estimate:
    """Return the share of images that are hits, with its interval; without resamples it stands alone.

    Args:
        hits: bool [N], N > 0.
        patients: int64 [N], who is on each image.
        resampled: float64 [B], the share in resamples of the patients.
    """
    share = float(hits.mean())
    if not resampled.size:
        return Estimate(share, share, share)
    low, high = wilson(share, _effective_count(share, len(hits), len(np.unique(patients)), resampled))
    drawn = estimate(share, resampled)
    if len(np.unique(patients)) == len(hits):
        return Estimate(share, low, high)
    return Estimate(share, min(low, drawn.low), max(high, drawn.high))


def _effective_count(share: float, images: int, patients: int, resampled: Resampled) -> float:
    """Return how many images of patients of their own would tell as much."""
    if patients == images:
        return images
    told = resampled[np.isfinite(resampled)]
    variance = float(told.var()) if told.size else 0.0
    if share in (0.0, 1.0) or variance == 0.0:
        return patients
    return max(1.0, min(images, share * (1 - share) / variance))


def widen_figures(
    estimates: dict[Figure, Estimate],
    truths: Truths,
    calls: Calls | None,
    patients: Patients,
    resampled: dict[Figure, Resampled],
) -> dict[Figure, Estimate]:
    """Return one label's figures, with the intervals of rates in place of the bootstrap's.

    Args:
        estimates: its figures, as the bootstrap has them.
        truths: bool [N].
        calls: bool [N], or None where the label has no operating point.
        patients: int64 [N], who is on each image.
        resampled: its figures in the resamples; empty without any.
    """
    widened = dict(estimates)
    for figure, (hits, among) in ({} if calls is None else _rates(truths, calls)).items():
        if figure in estimates and figure in resampled:
            widened[figure] = estimate_share(hits[among], patients[among], resampled[figure])
    if Figure.F1 in widened and calls is not None and Figure.F1 in resampled:
        widened[Figure.F1] = _estimate_f1(truths, calls, patients, resampled[Figure.F1])
    auroc = estimates.get(Figure.AUROC)
    if auroc is not None and auroc.value in (0.0, 1.0) and Figure.AUROC in resampled:
        counts = len(np.unique(patients[truths])), len(np.unique(patients[~truths]))
        widened[Figure.AUROC] = auroc_at_edge(auroc.value, *counts)
    return widened


def _rates(truths: Truths, calls: Calls) -> dict[Figure, tuple[Mask, Mask]]:
    """Return the figures that are shares of images: which images are hits, and among which."""
    return {
        Figure.SENSITIVITY: (calls, truths),
        Figure.SPECIFICITY: (~calls, ~truths),
        Figure.PPV: (truths, calls),
        Figure.NPV: (~truths, ~calls),
    }


def _estimate_f1(truths: Truths, calls: Calls, patients: Patients, resampled: Resampled) -> Estimate:
    """Bound F1 by way of the share of hits among all images that are true or called (Jaccard 1901): 2 J / (1 + J)."""
    among = truths | calls
    share = estimate_share((truths & calls)[among], patients[among], resampled / (2 - resampled))
    return Estimate(*(2 * end / (1 + end) for end in (share.value, share.low, share.high)))


def auroc_at_edge(auroc: float, positives: int, negatives: int) -> Estimate:
    """Return the interval of an AUROC of 0 or 1, of so many patients with the finding and without.

    No resample of a perfect order is anything else. Newcombe's fifth method (2006, part 2) takes the error that Hanley
    and McNeil (1982) give an area, at the interval's own ends instead of at the edge, where it is nothing.
    """
    halves = (positives + negatives) / 2 - 1

    def beyond(end: float) -> float:
        spread = 1 + halves * ((1 - end) / (2 - end) + end / (1 + end))
        return (1 - end) ** 2 - _Z**2 * end * (1 - end) * spread / (positives * negatives)

    low = float(brentq(beyond, 0.0, 1.0 - 1e-12))
    return Estimate(1.0, low, 1.0) if auroc == 1.0 else Estimate(0.0, 0.0, 1.0 - low)


def widen_mean(mean: Estimate, parts: Sequence[Estimate]) -> Estimate:
    """Return the mean of several labels' figures, with an interval that is not narrower than theirs allow.

    The ends' distances from the figures are added as those of independent figures are (MOVER: Zou and Donner 2008);
    labels that all stand at the edge have a mean whose resamples all agree.
    """
    down = sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    up = sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    low, high = min(mean.low, mean.value - down), max(mean.high, mean.value + up)
    return Estimate(mean.value, max(0.0, low), min(1.0, high))
