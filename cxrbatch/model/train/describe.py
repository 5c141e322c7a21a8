"""What the images that a network did not learn from choose for it, and say of it; no Lightning is needed for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version

import msgspec
import numpy as np

from cxrbatch.engine.training_facts import CHOICES, CHOOSING_PART, TrainingFacts
from cxrbatch.model.data.labelled import (
    SPLITS,
    LabelledImages,
    Sample,
    count_patients,
    describe_patients,
    patients_sha256,
)
from cxrbatch.model.figures.alarms import Alarms, ImagesByStudy, place_for_alarms
from cxrbatch.model.figures.bootstrap import draw_resamples
from cxrbatch.model.figures.figures import (
    Estimates,
    LabelFigures,
    MeasuredLabels,
    judge_scores,
    measure_labels,
    quantiles,
)
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.figures.operating_points import OperatingPointRule, enough_cases, place_operating_points
from cxrbatch.model.train.checks import choosing_part
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import TrainingPart
from cxrbatch.pages.retelling import kept
from cxrbatch.pages.wording import counted
from cxrbatch.records import Float32, Label

VALIDATION = CHOOSING_PART
RESAMPLES = 1000
LIBRARIES = ("torch", "torchvision", "lightning", "numpy", "pydicom", "scikit-learn")
# What reports and model cards show of a label; evaluate measures more.
_LABEL_FIGURES = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY)


def place_points(
    rule: OperatingPointRule, labels: Sequence[Label], samples: Sequence[Sample], probabilities: Float32
) -> tuple[tuple[float | None, ...], Alarms | None]:
    """Choose the operating points; for a rate of alarms also say what they come to.

    Args:
        rule: how.
        labels: of the network.
        samples: the N images that choose.
        probabilities: calibrated, float32 [N,C], in the order of these images.
    """
    targets = np.array([sample.targets for sample in samples], np.float32)
    if rule.goal != "alarms" or rule.value is None:
        return place_operating_points(rule, targets, probabilities), None
    return place_for_alarms(rule.value, labels, by_study(samples, probabilities), judged=enough_cases(targets))


def by_study(samples: Sequence[Sample], probabilities: Float32) -> ImagesByStudy:
    """Put images, and what is said of them, float32 [N,C], together by study."""
    targets = np.array([sample.targets for sample in samples], np.float32)
    studies, patients = [sample.study_key() for sample in samples], [sample.patient for sample in samples]
    return ImagesByStudy(targets, probabilities, studies, patients)


def alarm_figures(alarms: Alarms | None) -> dict[str, float]:
    """Return what points chosen for a rate of alarms come to, by name, as a checkpoint's figures hold it."""
    if alarms is None:
        return {}
    found = {"alarm_rate": alarms.rate, "any_finding_sensitivity": alarms.sensitivity}
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        f"{name}{end}": float(getattr(estimate, at))
        for name, estimate in found.items()
        if estimate is not None
        for end, at in ends.items()
    }


def measure_validation(
    labels: Sequence[Label], images: LabelledImages, probabilities: Float32, *, resamples: int
) -> MeasuredLabels:
    """Measure the validation images, with intervals over patients, as `cxrbatch evaluate` does.

    Args:
        labels: with their operating points.
        images: the data set.
        probabilities: calibrated, float32 [N,C], in the order of its validation images.
        resamples: of the bootstrap.
    """
    samples = images.part(VALIDATION)
    targets = np.array([sample.targets for sample in samples], np.float32)
    patients = [sample.patient for sample in samples]
    weights = draw_resamples(patients, count=resamples, seed=0)
    return measure_labels(judge_scores(labels, images.task, targets, probabilities, patients, weights))


def with_metrics(labels: Sequence[Label], measured: MeasuredLabels, probabilities: Float32) -> tuple[Label, ...]:
    """Write each label's figures, with their intervals, and its validation scores, where reports find them.

    Args:
        labels: with their operating points.
        measured: of the validation images.
        probabilities: of the validation images, calibrated, float32 [N,C].
    """
    found = {label.label: label for label in measured.labels}
    known = [replace(label, reference=quantiles(probabilities[:, place])) for place, label in enumerate(labels)]
    return tuple(_with_figures(label, found[label.name]) if label.name in found else label for label in known)


def _with_figures(label: Label, measured: LabelFigures) -> Label:
    return replace(
        label,
        metrics=dict(_metrics(measured.figures)),
        images_with=measured.positives,
        images_without=measured.images - measured.positives,
    )


def _metrics(figures: Estimates) -> Iterator[tuple[str, float]]:
    for figure in _LABEL_FIGURES:
        if figure in figures:
            estimate = figures[figure]
            yield figure.value, estimate.value
            yield f"{figure.value}_low", estimate.low
            yield f"{figure.value}_high", estimate.high


def describe_training(
    images: LabelledImages, options: TrainingOptions, measured: MeasuredLabels, *, rule: str
) -> TrainingFacts:
    """Say what the weights learned from, and how."""
    parts = {name: [sample for sample in images.samples if sample.split == name] for name in SPLITS}
    present = {name: samples for name, samples in parts.items() if samples}
    patients = describe_patients(images.samples)
    return TrainingFacts(
        data=kept("{name}, {layout} layout: {images} of {patients}").format(
            name=images.root.name, layout=images.layout, images=counted(len(images.samples), "image"), patients=patients
        ),
        images={name: len(samples) for name, samples in present.items()},
        seed=options.seed,
        options=msgspec.to_builtins(options) | {"operating_point": rule},
        libraries={name: version(name) for name in LIBRARIES},
        figures=dict(overall_figures(measured)),
        patients={name: patients_sha256(samples) for name, samples in present.items()},
        measured_on=VALIDATION,
        data_sha256=images.sha256,
        chosen_on=_chosen_on(images, options),
    )


def _chosen_on(images: LabelledImages, options: TrainingOptions) -> dict[str, str]:
    """Say which images chose what: the epoch only where the best one is kept, or the rate falls when none is better."""
    epoch = {CHOICES[0]: VALIDATION} if options.keep == "best" or options.schedule == "plateau" else {}
    return epoch | dict.fromkeys(CHOICES[1:], choosing_part(images))


def overall_figures(measured: MeasuredLabels) -> Iterator[tuple[str, float]]:
    """Yield the figures over all labels by name: macro_auroc, macro_auroc_low, ..., and accuracy of classes."""
    for figure, estimate in measured.macro.items():
        yield f"macro_{figure.value}", estimate.value
        if estimate.low < estimate.high:
            yield f"macro_{figure.value}_low", estimate.low
            yield f"macro_{figure.value}_high", estimate.high
    if measured.classes is not None:
        accuracy = measured.classes.accuracy
        yield "accuracy", accuracy.value
        if accuracy.low < accuracy.high:
            yield from (("accuracy_low", accuracy.low), ("accuracy_high", accuracy.high))
        yield "balanced_accuracy", measured.classes.balanced_accuracy


def describe_parts(images: LabelledImages) -> tuple[TrainingPart, ...]:
    """Count images, patients and labels in each part that the data has."""
    return tuple(_describe_part(images, name) for name in SPLITS if name in {each.split for each in images.samples})


def _describe_part(images: LabelledImages, name: str) -> TrainingPart:
    samples = images.part(name)
    targets = np.array([sample.targets for sample in samples], np.float32)
    return TrainingPart(
        name=name,
        images=len(samples),
        patients=count_patients(samples)[0],
        of_unknown=count_patients(samples)[1],
        positives=tuple(int(count) for count in (targets == 1.0).sum(axis=0)),
        unknown=tuple(int(count) for count in np.isnan(targets).sum(axis=0)),
    )
