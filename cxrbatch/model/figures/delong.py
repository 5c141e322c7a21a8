"""Whether one AUROC is greater than another on the same images: DeLong's test, with patients kept together.

DeLong, DeLong and Clarke-Pearson (1988) take images to be independent of each other. Where a patient has several, that
makes a chance difference look certain, so the components are summed over each patient first (Obuchowski 1997). Where
every patient has one image the two are the same, to the last digit. The components are computed from ranks
(Sun and Xu 2014), in N log N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from cxrbatch.model.figures.intervals import Patients
from cxrbatch.model.figures.metrics import Mask, Truths
from cxrbatch.records import Float32

Components = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AurocDifference:
    """The AUROCs of two ways of scoring the same images, their covariance [2,2], and p of no difference, two-sided.

    `p` is None where the components don't vary, so that nothing can be said, unless both rank alike: then it is 1.
    `moved`, float64 [N], is by how much each image moves first - second from what it is: they sum to 0.
    """

    first: float
    second: float
    covariance: NDArray[np.float64]
    p: float | None
    moved: Components

    @property
    def error(self) -> float:
        """The standard error of first - second."""
        return sqrt(max(0.0, self.covariance[0, 0] + self.covariance[1, 1] - 2 * self.covariance[0, 1]))


def compare_aurocs(
    truths: Truths, first: Float32, second: Float32, patients: Patients, *, known: Mask | None = None
) -> AurocDifference:
    """Test whether two scores of the same images have the same AUROC.

    Args:
        truths: bool [N], with both kinds among them.
        first: float32 [N], any scores; equal ones count half.
        second: the same images' other scores.
        patients: int64 [N], who is on each image.
        known: bool [N], the images that count; None: all.
    """
    counted = np.ones(len(truths), bool) if known is None else known
    truths, patients = truths[counted], patients[counted]
    components = [auroc_components(truths, scores[counted]) for scores in (first, second)]
    areas = np.array([each[truths].mean() for each in components])
    centred = np.stack(components) - areas[:, np.newaxis]
    covariance = _covariance(truths, centred, patients)
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    moved = np.zeros(len(counted))
    moved[counted] = (centred[0] - centred[1]) / np.where(truths, truths.sum(), (~truths).sum())
    return AurocDifference(float(areas[0]), float(areas[1]), covariance, two_sided(difference, variance), moved)


def auroc_components(truths: Truths, scores: Float32) -> Components:
    """Return each image's share of the AUROC, float64 [N] (Sun and Xu 2014, equations 5 and 6).

    Of an image with the finding, the share of the others that it lies above, of one without, that it lies below: ties
    count half. The mean over either kind is the AUROC.
    """
    positive, negative = np.flatnonzero(truths), np.flatnonzero(~truths)
    ranks = rankdata(scores)
    components = np.empty(len(scores))
    components[positive] = (ranks[positive] - rankdata(scores[positive])) / len(negative)
    components[negative] = 1.0 - (ranks[negative] - rankdata(scores[negative])) / len(positive)
    return components


def compare_mean_aurocs(differences: Sequence[AurocDifference], patients: Patients) -> float | None:
    """Return p of no difference in the mean of several labels' AUROCs, two-sided.

    Labels of one patient are not independent, so what each image adds to the difference is averaged over the labels
    and summed over the patient before anything is squared: the covariance of the labels is in the sum.

    Args:
        differences: one per label, of the same N images.
        patients: int64 [N], who is on each image.
    """
    moved = np.mean(np.stack([each.moved for each in differences]), axis=0)
    of_patient = np.bincount(np.unique(patients, return_inverse=True)[1], moved)
    if len(of_patient) < 2:
        return None
    difference = float(np.mean([each.first - each.second for each in differences]))
    return two_sided(difference, float((of_patient**2).sum()) * len(of_patient) / (len(of_patient) - 1))


def two_sided(difference: float, variance: float) -> float | None:
    """Return p of a difference with this variance under the normal distribution; None where neither tells anything."""
    # Differences of equal scores are equal but for the last bit.
    if abs(difference) < 1e-12:
        return 1.0
    return float(2 * norm.sf(abs(difference) / sqrt(variance))) if variance > 1e-18 else None


def _covariance(truths: Truths, centred: NDArray[np.float64], patients: Patients) -> NDArray[np.float64]:
    """Return the covariance of the AUROCs, float64 [2,2], of their centred components, float64 [2,N].

    Obuchowski (1997, equations 3 to 5): sums over patients of those with the finding and of those without, each with
    the factor I / (I - 1) of its own number of patients, and what both share where a patient has images of both kinds.
    """
    numbers = np.unique(patients, return_inverse=True)[1]
    with_it = np.stack([np.bincount(numbers, row * truths) for row in centred]) / truths.sum()
    without = np.stack([np.bincount(numbers, row * ~truths) for row in centred]) / (~truths).sum()
    counts = len(np.unique(patients[truths])), len(np.unique(patients[~truths])), with_it.shape[1]
    # One patient alone tells of no spread.
    of_with, of_without, of_both = (count / (count - 1) if count > 1 else 0.0 for count in counts)
    shared = with_it @ without.T
    found: NDArray[np.float64] = (
        of_with * (with_it @ with_it.T) + of_without * (without @ without.T) + of_both * (shared + shared.T)
    )
    return found
