"""What the worklist of these studies is worth: any finding or none, and how long a finding waits to be read.

A label's figures say how well its images are told apart. Whoever reads a day's list asks something else: does a study
with a finding get a mark, how many marks are for nothing, and how many studies are read before the first that has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbatch.model.figures.bootstrap import COVERAGE, Estimate, Weights, resample_mean
from cxrbatch.model.figures.figures import LabelledScores
from cxrbatch.model.figures.intervals import Patients, estimate_share
from cxrbatch.model.figures.metrics import Mask
from cxrbatch.model.figures.studies import find_any, group_images
from cxrbatch.output.worklist_lines import READING_ORDER
from cxrbatch.records import Float32, Label, Priority, VerdictRule, judge

Alarms = ("urgent", "abnormal")

_ORDERS_WITHOUT_RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Wait:
    """How many studies are read before one, over lists that arrive in random orders: mean, median, middle 95 %."""

    mean: float
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReadingOrder:
    """Studies read before the `first` that truly has a finding, and before `each` of them on average."""

    first: Wait
    each: Wait


@dataclass(frozen=True, slots=True)
class WorklistFigures:
    """What the worklist does with the studies whose truth is known.

    `findings` are those that count, on both sides: the ones that data and model share. `with_finding` studies have one,
    `without` have none; of `unknown` that is not known, and they are left out. `priorities` counts studies by verdict,
    those with a finding and those without. An alarm is a study that is called urgent or abnormal: `sensitivity` is the
    share of studies with a finding that get one, `specificity` that of the others that get none, and `cleared` that of
    the others that are called normal; None where nothing may be judged. `sorted` reads by priority and probability,
    `first_come` in the order of arrival; None where no study has a finding.
    """

    findings: tuple[str, ...]
    studies: int
    with_finding: int
    without: int
    unknown: int
    priorities: dict[Priority, tuple[int, int]]
    sensitivity: Estimate | None
    specificity: Estimate | None
    cleared: Estimate | None
    false_alarms_per_100: Estimate | None
    sorted: ReadingOrder | None
    first_come: ReadingOrder | None


@dataclass(frozen=True, slots=True)
class _Studies:
    """S studies: bool [S] truths, their priorities and strengths, whose they are, and uint8 [B,S] resamples."""

    truths: Mask
    priorities: NDArray[np.str_]
    strengths: NDArray[np.float64]
    patients: Patients
    weights: Weights

    def rate(self, hits: Mask, among: Mask) -> Estimate | None:
        if not among.any():
            return None
        resampled = resample_mean(hits[among].astype(np.float64), self.weights[:, among])
        return estimate_share(hits[among], self.patients[among], resampled)


def measure_worklist(
    scores: LabelledScores, rule: VerdictRule, study_of_image: Sequence[str], *, seed: int
) -> WorklistFigures | None:
    """Measure the worklist of these images; None where no study's truth is known.

    Args:
        scores: N images beside what is true of them.
        rule: how probabilities become findings.
        study_of_image: the study of each image; all images of one are of one patient.
        seed: of the orders in which studies arrive.
    """
    groups = group_images(study_of_image)
    truths = find_any(scores.targets, [label.normal for label in scores.labels], groups)
    known = ~np.isnan(truths)
    if not known.any():
        return None
    studies = _judge_studies(scores, rule, groups, truths)
    with_it, without = studies.truths, ~studies.truths
    is_judged = bool((studies.priorities != "unscored").any())
    alarms = np.isin(studies.priorities, Alarms)
    specificity = studies.rate(~alarms, without) if is_judged else None
    ordered, first_come = _reading_orders(studies, seed) if with_it.any() else (None, None)
    return WorklistFigures(
        findings=tuple(label.name for label in scores.labels if not label.normal),
        studies=len(studies.truths),
        with_finding=int(with_it.sum()),
        without=int(without.sum()),
        unknown=int((~known).sum()),
        priorities=_count(studies),
        sensitivity=studies.rate(alarms, with_it) if is_judged else None,
        specificity=specificity,
        cleared=studies.rate(studies.priorities == "normal", without) if is_judged else None,
        false_alarms_per_100=None if specificity is None else _per_100(specificity),
        sorted=ordered,
        first_come=first_come,
    )


def _judge_studies(
    scores: LabelledScores, rule: VerdictRule, groups: Sequence[NDArray[np.int64]], truths: Float32
) -> _Studies:
    kept = [images for images, truth in zip(groups, truths.tolist(), strict=True) if not np.isnan(truth)]
    first_images = np.array([images[0] for images in kept])
    # In double, as a run compares: rounded to float32, a point between two scores would fall on one of them.
    rows = [scores.probabilities[images].astype(np.float64).tolist() for images in kept]
    verdicts = [judge(scores.labels, rule, images) for images in rows]
    strengths = [
        _strength(scores.labels, np.max(images, axis=0), {label.name for label in verdict.findings})
        for images, verdict in zip(rows, verdicts, strict=True)
    ]
    return _Studies(
        truths=truths[~np.isnan(truths)] > 0.5,
        priorities=np.array([verdict.priority for verdict in verdicts]),
        strengths=np.array(strengths),
        patients=scores.patients_of(np.ones(len(scores.targets), bool))[first_images],
        weights=scores.weights[:, first_images],
    )


def _strength(labels: Sequence[Label], probabilities: NDArray[np.float64], called: set[str]) -> float:
    """Return what the worklist sorts equals by: the strongest urgent finding that is called, else the strongest."""
    values = [(label, float(value)) for label, value in zip(labels, probabilities, strict=True)]
    urgent = [value for label, value in values if label.urgent and label.name in called]
    findings = [value for label, value in values if not label.normal] or [value for _, value in values]
    return max(urgent or findings)


def _count(studies: _Studies) -> dict[Priority, tuple[int, int]]:
    counted: dict[Priority, tuple[int, int]] = {}
    for priority in READING_ORDER:
        alike = studies.priorities == priority
        if alike.any():
            counted[priority] = (int((alike & studies.truths).sum()), int((alike & ~studies.truths).sum()))
    return counted


def _per_100(specificity: Estimate) -> Estimate:
    return Estimate(*(100 * (1 - end) for end in (specificity.value, specificity.high, specificity.low)))


# --------------------------------------------------------------------------- waiting


def _reading_orders(studies: _Studies, seed: int) -> tuple[ReadingOrder, ReadingOrder]:
    """Return how long findings wait in the worklist and in the order of arrival, on the same lists.

    A list is a resample of the patients, whose studies arrive in a random order; without resamples, all of them.
    """
    generator = np.random.default_rng(seed)
    weights = studies.weights
    if not len(weights):
        weights = np.ones((_ORDERS_WITHOUT_RESAMPLES, len(studies.truths)), np.uint8)
    place = np.array([READING_ORDER.index(priority) for priority in studies.priorities.tolist()])
    # Equals stay in the order of arrival.
    keys = np.unique(np.stack([place, -studies.strengths], axis=1), axis=0, return_inverse=True)[1].ravel()
    waits: list[tuple[float, float, float, float]] = []
    for row in weights:
        arrived = generator.permutation(np.repeat(np.arange(len(row)), row))
        in_order = arrived[np.argsort(keys[arrived], kind="stable")]
        if studies.truths[arrived].any():
            waits.append((*_waits(studies.truths[in_order]), *_waits(studies.truths[arrived])))
    columns = np.array(waits).T
    told = [_wait(column, is_resampled=bool(len(studies.weights))) for column in columns]
    return ReadingOrder(told[0], told[1]), ReadingOrder(told[2], told[3])


def _waits(truths: Mask) -> tuple[float, float]:
    """Return how many studies come before the first with a finding, and before each on average."""
    places = np.flatnonzero(truths)
    return float(places[0]), float(places.mean())


def _wait(values: NDArray[np.float64], *, is_resampled: bool) -> Wait:
    mean = float(values.mean())
    ends = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]) if is_resampled else (mean, mean)
    return Wait(mean, float(np.median(values)), float(ends[0]), float(ends[1]))
