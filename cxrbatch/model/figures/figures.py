"""Every figure of every label, with its interval, of all images and of groups of them. Start at `measure_labels`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxrbatch.model.data.labelled import AGE_BANDS, UNKNOWN, Sample, age_band, count_patients
from cxrbatch.model.figures.bootstrap import (
    Estimate,
    Resampled,
    Weights,
    average_resampled,
    estimate,
    estimate_figures,
    resample_figures,
    resample_mean,
)
from cxrbatch.model.figures.intervals import Patients, estimate_share, widen_figures, widen_mean
from cxrbatch.model.figures.metrics import Calls, Figure, count_confusions, measure_figures
from cxrbatch.records import FEWEST_PATIENTS, Float32, Label, Task, call_image, likeliest_class, usual_rule

Estimates = dict[Figure, Estimate]

# What ranks images, and says nothing where it ranks a handful.
RANKING = (Figure.AUROC, Figure.AVERAGE_PRECISION)
# What no bootstrap may call certain; Brier score and calibration error reach no edge that would mislead.
_WIDENED = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY, Figure.PPV, Figure.NPV, Figure.F1)


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """N images with what is true of them and what an engine says, label by label.

    `labels` are the C labels that are measured; `targets` float32 [N,C], 0 or 1, nan where unknown;
    `probabilities` float32 [N,C]; `calls` per label bool [N], or None without an operating point; `classes`
    int64 [N], the likeliest of C classes in a multi-class task, else empty; `weights` uint8 [B,N], resamples
    over patients; `patients` int64 [N], numbers them, or is empty where each image is of another.
    """

    labels: tuple[Label, ...]
    task: Task
    targets: Float32
    probabilities: Float32
    calls: tuple[Calls | None, ...]
    classes: NDArray[np.int64]
    weights: Weights
    patients: Patients = field(default_factory=lambda: np.empty(0, np.int64))

    def patients_of(self, images: NDArray[np.bool_]) -> Patients:
        """Return who is on some of the images, bool [N]."""
        return (self.patients if self.patients.size else np.arange(len(images)))[images]

    def part(self, images: NDArray[np.bool_]) -> LabelledScores:
        """Return some of the images, bool [N]."""
        return LabelledScores(
            self.labels,
            self.task,
            self.targets[images],
            self.probabilities[images],
            tuple(None if calls is None else calls[images] for calls in self.calls),
            self.classes[images] if self.classes.size else self.classes,
            self.weights[:, images],
            self.patients_of(images),
        )


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """What was measured of one label, on the images whose target is known.

    A figure that the images cannot tell is missing: sensitivity without a verdict; AUROC and average precision where
    `too_few` says that fewer than FEWEST_PATIENTS have the finding, or are without it. `positives` counts images,
    `patients_with` and `patients_without` those who show it and those with an image that does not.
    """

    label: str
    operating_point: float | None
    images: int
    positives: int
    figures: Estimates
    patients_with: int | None = None
    patients_without: int | None = None
    too_few: bool = False


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What was measured of a multi-class task as a whole, where the likeliest class is the answer.

    `confusion` counts images by true class (rows) and answered class (columns), in the order of `labels`.
    """

    labels: tuple[str, ...]
    images: int
    accuracy: Estimate
    balanced_accuracy: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class MeasuredLabels:
    """Every label's figures, their mean over the labels that have them ("macro"), and the task's own."""

    labels: tuple[LabelFigures, ...]
    macro: Estimates
    classes: ClassFigures | None = None


def judge_scores(
    labels: Sequence[Label],
    task: Task,
    targets: Float32,
    probabilities: Float32,
    patients: Sequence[str],
    weights: Weights,
) -> LabelledScores:
    """Set what an engine says, and what it makes of that, beside what is true.

    Args:
        labels: those that are measured, with their operating points; all of a multi-class task.
        task: what is asked.
        targets: float32 [N,C], 0 or 1, nan where unknown.
        probabilities: float32 [N,C], in the same order.
        patients: who is on each of the N images.
        weights: uint8 [B,N], resamples over these patients.
    """
    likeliest = np.array([likeliest_class(labels, row) or 0 for row in probabilities.tolist()], np.int64)
    return LabelledScores(
        labels=tuple(labels),
        task=task,
        targets=targets,
        probabilities=probabilities,
        calls=make_calls(labels, task, probabilities),
        classes=likeliest if task == "multiclass" else np.empty(0, np.int64),
        weights=weights,
        patients=number_patients(patients),
    )


def number_patients(patients: Sequence[str]) -> Patients:
    """Return a number for each image's patient, int64 [N]."""
    return np.asarray(np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)[1], np.int64)


def make_calls(labels: Sequence[Label], task: Task, probabilities: Float32) -> tuple[Calls | None, ...]:
    """Return who is called positive per label, bool [N], as reports do; None for a label that nobody may judge.

    Args:
        labels: those that are measured; all of a multi-class task.
        task: what is asked.
        probabilities: float32 [N,C], in the order of the labels.
    """
    rule = usual_rule(task, labels)
    # In double: rounded to float32, a point between two neighbouring scores would fall on one of them.
    rows = [call_image(labels, rule, row) for row in probabilities.astype(np.float64).tolist()]
    return tuple(
        None if label.operating_point is None else np.array([row[place] for row in rows], np.bool_)
        for place, label in enumerate(labels)
    )


def quantiles(probabilities: Float32) -> tuple[float, ...]:
    """Return the 101 percentiles of a label's probabilities, float32 [N], N > 0: rising, to four digits."""
    found = np.quantile(probabilities.astype(np.float64), np.linspace(0.0, 1.0, 101))
    return tuple(float(f"{value:.4g}") for value in found)


def measure_labels(scores: LabelledScores) -> MeasuredLabels:
    """Measure every label that has images with a known target, their mean, and a multi-class task as a whole."""
    measured: list[LabelFigures] = []
    resamples: list[dict[Figure, Resampled]] = []
    for column, label in enumerate(scores.labels):
        if (~np.isnan(scores.targets[:, column])).any():
            figures, resampled = _measure_label(scores, column, label)
            measured.append(figures)
            resamples.append(resampled)
    classes = _measure_classes(scores) if scores.task == "multiclass" else None
    return MeasuredLabels(tuple(measured), _average(measured, resamples), classes)


def _measure_label(scores: LabelledScores, column: int, label: Label) -> tuple[LabelFigures, dict[Figure, Resampled]]:
    known = ~np.isnan(scores.targets[:, column])
    truths, probabilities = scores.targets[known, column] > 0.5, scores.probabilities[known, column]
    all_calls = scores.calls[column]
    calls = None if all_calls is None else all_calls[known]
    patients = scores.patients_of(known)
    with_it, without = len(np.unique(patients[truths])), len(np.unique(patients[~truths]))
    too_few = min(with_it, without) < FEWEST_PATIENTS
    figures = measure_figures(truths, probabilities, calls)
    if too_few:
        figures = {figure: value for figure, value in figures.items() if figure not in RANKING}
    resampled = resample_figures(truths, probabilities, calls, scores.weights[:, known])
    estimates = widen_figures(estimate_figures(figures, resampled), truths, calls, patients, resampled)
    counts = (len(truths), int(truths.sum()))
    return LabelFigures(
        label.name, label.operating_point, *counts, estimates, with_it, without, too_few=too_few
    ), resampled


def _average(measured: Sequence[LabelFigures], resamples: Sequence[dict[Figure, Resampled]]) -> Estimates:
    macro: Estimates = {}
    for figure in Figure:
        having = [at for at, label in enumerate(measured) if figure in label.figures]
        if not having:
            continue
        parts = [measured[at].figures[figure] for at in having]
        value = float(np.mean([part.value for part in parts]))
        told = [resamples[at][figure] for at in having if figure in resamples[at]]
        mean = estimate(value, average_resampled(told) if told else np.empty(0))
        macro[figure] = widen_mean(mean, parts) if figure in _WIDENED else mean
    return macro


def _measure_classes(scores: LabelledScores) -> ClassFigures | None:
    """Compare the likeliest class with the true one, on images that have exactly one true class."""
    single = np.nan_to_num(scores.targets).sum(axis=1) == 1
    if not single.any():
        return None
    truths, answers = scores.targets[single].argmax(axis=1).astype(np.int64), scores.classes[single]
    right = truths == answers
    resampled = resample_mean(right.astype(np.float64), scores.weights[:, single])
    confusion = count_confusions(truths, answers, len(scores.labels))
    of_class = confusion.sum(axis=1)
    recalls = np.diag(confusion)[of_class > 0] / of_class[of_class > 0]
    return ClassFigures(
        labels=tuple(label.name for label in scores.labels),
        images=len(truths),
        accuracy=estimate_share(right, scores.patients_of(single), resampled),
        balanced_accuracy=float(recalls.mean()),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


@dataclass(frozen=True, slots=True)
class SubgroupFigures:
    """One group of images, such as sex F, and what was measured on it alone."""

    column: str
    group: str
    images: int
    patients: int
    measured: MeasuredLabels


def measure_subgroups(scores: LabelledScores, samples: Sequence[Sample]) -> tuple[SubgroupFigures, ...]:
    """Measure every group of sex, age band and view that these images form; a column with one group is left out."""
    found: list[SubgroupFigures] = []
    for column, group_of in _COLUMNS.items():
        groups = np.array([group_of(sample) for sample in samples])
        names = sorted(set(groups.tolist()), key=_unknown_last)
        if len(names) > 1:
            found.extend(_measure_group(column, name, groups == name, scores, samples) for name in names)
    return tuple(found)


def _measure_group(
    column: str,
    name: str,
    images: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    scores: LabelledScores,
    samples: Sequence[Sample],
) -> SubgroupFigures:
    patients, _ = count_patients(sample for sample, inside in zip(samples, images.tolist(), strict=True) if inside)
    return SubgroupFigures(column, name, int(images.sum()), patients, measure_labels(scores.part(images)))


def _unknown_last(name: str) -> tuple[bool, int, str]:
    return name == UNKNOWN, AGE_BANDS.index(name) if name in AGE_BANDS else 0, name


_COLUMNS: dict[str, Callable[[Sample], str]] = {
    "sex": lambda sample: sample.sex or UNKNOWN,
    "age": lambda sample: age_band(sample.age),
    "view": lambda sample: sample.view or UNKNOWN,
}
