"""Operating points of all labels chosen together, for a wanted rate of alarms: so many normal studies may get one.

Where each label has a point of its own, 14 labels with a specificity of 0.95 give half of the normal studies an alarm.
Here one rank is chosen for all: the point of every label lies just above its score in the normal study of that rank,
so that every label is allowed as many alarms of its own. The rank is the highest at which at most the wanted share
of the normal studies gets any alarm; more would be too many, fewer would find less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from cxrbatch.errors import UsageError
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.intervals import wilson
from cxrbatch.model.figures.metrics import Mask
from cxrbatch.model.figures.studies import find_any, group_images, strongest
from cxrbatch.records import Float32, Label


@dataclass(frozen=True, slots=True)
class Alarms:
    """What points chosen together come to on the studies that chose them.

    Of `normal_studies` without any finding the share `rate` gets an alarm; `wanted` was allowed. Of `with_finding`
    studies the share `sensitivity` does; None where there are none. Intervals are Wilson's, over patients.
    `per_label` normal studies reach the point of one label, at most.
    """

    wanted: float
    normal_studies: int
    rate: Estimate
    with_finding: int
    sensitivity: Estimate | None
    per_label: int


@dataclass(frozen=True, slots=True)
class ImagesByStudy:
    """N images: `targets` float32 [N,C] (nan unknown), `probabilities` float32 [N,C], and whose and of which study."""

    targets: Float32
    probabilities: Float32
    studies: Sequence[str]
    patients: Sequence[str]


def require_normal_studies(rate: float, targets: Float32, labels: Sequence[Label], studies: Sequence[str]) -> None:
    """Refuse a rate that these studies cannot tell: one alarm among them is more already.

    Raises:
        UsageError: there are too few studies without any finding.
    """
    truths = find_any(targets, [label.normal for label in labels], group_images(studies))
    normal, needed = int((truths == 0.0).sum()), ceil(1 / rate - 1e-9)
    if normal < needed:
        raise UsageError(
            f"operating point alarms={rate:g}: of {len(truths)} validation studies {normal} are known to have no "
            f"finding, and it takes {needed} to tell such a rate. Bring more normal studies, or allow more alarms."
        )


def place_for_alarms(
    rate: float, labels: Sequence[Label], images: ImagesByStudy, *, judged: Mask
) -> tuple[tuple[float | None, ...], Alarms]:
    """Choose the points of all findings together.

    Args:
        rate: the share of normal studies that may get an alarm, 0..1.
        labels: one that means that nothing was found gets no point.
        images: calibrated, that the network did not learn from.
        judged: bool [C], the labels that enough images speak for; the others get no point.

    Returns:
        A point on the probability per label, or None, and what they come to.

    Raises:
        UsageError: there are too few studies without any finding.
    """
    require_normal_studies(rate, images.targets, labels, images.studies)
    groups = group_images(images.studies)
    truths = find_any(images.targets, [label.normal for label in labels], groups)
    scores = strongest(images.probabilities, groups)
    usable = [at for at, label in enumerate(labels) if judged[at] and not label.normal]
    normal = scores[truths == 0.0][:, usable]
    per_label = _highest_rank(normal, floor(rate * len(normal) + 1e-9)) if usable else 0
    points: list[float | None] = [None] * len(labels)
    for column, at in enumerate(usable):
        points[at] = _just_above(normal[:, column], scores[:, at], per_label)
    patients = np.array([images.patients[group[0]] for group in groups], dtype=object)
    return tuple(points), _describe(rate, _alarms(points, scores), truths, patients, per_label)


def measure_alarms(chosen: Alarms, labels: Sequence[Label], images: ImagesByStudy, raised: Mask) -> Alarms:
    """Say what points come to that were chosen for a rate of alarms, on images that did not choose them.

    Args:
        chosen: what was wanted.
        labels: of the network.
        images: the others; without any normal study among them there is nothing to say beyond what was chosen.
        raised: bool [N], which images raise an alarm.
    """
    groups = group_images(images.studies)
    truths = find_any(images.targets, [label.normal for label in labels], groups)
    if not (truths == 0.0).any():
        return chosen
    of_study = np.array([raised[group].any() for group in groups], bool)
    patients = np.array([images.patients[group[0]] for group in groups], dtype=object)
    return _describe(chosen.wanted, of_study, truths, patients, chosen.per_label)


def raise_alarms(labels: Sequence[Label], probabilities: Float32) -> Mask:
    """Return which images, float32 [N,C], reach the point of any finding: bool [N]."""
    return _alarms([None if label.normal else label.operating_point for label in labels], probabilities)


def _highest_rank(normal: Float32, allowed: int) -> int:
    """Return the highest rank at which at most `allowed` of the normal studies, float32 [n,C], get an alarm.

    A study's rank in a label is how many normal studies score as high as it or higher, so that equals are called
    together; its alarm is raised by the label that ranks it best.
    """
    ordered = np.sort(normal, axis=0)
    ranks = np.stack(
        [len(normal) - np.searchsorted(ordered[:, at], normal[:, at], side="left") for at in range(normal.shape[1])]
    )
    best = np.sort(ranks.min(axis=0))
    return len(normal) if allowed >= len(best) else int(best[allowed]) - 1


def _just_above(normal: Float32, scores: Float32, per_label: int) -> float | None:
    """Return the point between the highest normal score that must not be called and the next score of anybody.

    None where nobody scores higher: a verdict that is always "no" is no verdict.
    """
    descending = np.sort(normal)[::-1]
    reaching = len(normal) - np.searchsorted(descending[::-1], descending, side="left")
    kept = descending[reaching > per_label]
    if not kept.size:
        return float(scores.min())
    higher = scores[scores > kept[0]]
    return (float(kept[0]) + float(higher.min())) / 2 if higher.size else None


def _alarms(points: Sequence[float | None], scores: Float32) -> Mask:
    raised = np.zeros(len(scores), bool)
    for at, point in enumerate(points):
        if point is not None:
            raised |= scores[:, at].astype(np.float64) >= point
    return raised


def _describe(wanted: float, raised: Mask, truths: Float32, patients: NDArray[np.object_], per_label: int) -> Alarms:
    normal, sick = truths == 0.0, truths == 1.0
    return Alarms(
        wanted=wanted,
        normal_studies=int(normal.sum()),
        rate=_share(raised[normal], patients[normal]),
        with_finding=int(sick.sum()),
        sensitivity=_share(raised[sick], patients[sick]) if sick.any() else None,
        per_label=per_label,
    )


def _share(raised: Mask, patients: NDArray[np.object_]) -> Estimate:
    share = float(raised.mean())
    return Estimate(share, *wilson(share, len(set(patients.tolist()))))
