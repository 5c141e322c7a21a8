"""What a checkpoint and its report say of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version

import msgspec
import numpy as np

from cxrbatch.engine.manifest import TrainingFacts
from cxrbatch.model.data.labelled import SPLITS, LabelledImages
from cxrbatch.model.evaluate.overlap import patients_sha256
from cxrbatch.model.evaluate.record import counted
from cxrbatch.model.figures.bootstrap import Estimate, draw_resamples
from cxrbatch.model.figures.figures import LabelledScores, MeasuredLabels, make_calls, measure_labels
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import TrainingPart
from cxrbatch.records import Float32, Label

VALIDATION = "val"
LIBRARIES = ("torch", "torchvision", "lightning", "numpy", "pydicom", "scikit-learn")
# What reports and model cards show of a label; evaluate measures more.
_LABEL_FIGURES = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY)


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
    multiclass = images.task == "multiclass"
    likeliest = probabilities.argmax(axis=1).astype(np.int64)
    scores = LabelledScores(
        labels=tuple(labels),
        task=images.task,
        targets=np.array([sample.targets for sample in samples], np.float32),
        probabilities=probabilities,
        calls=make_calls(labels, images.task, probabilities, likeliest),
        classes=likeliest if multiclass else np.empty(0, np.int64),
        weights=draw_resamples([sample.patient for sample in samples], count=resamples, seed=0),
    )
    return measure_labels(scores)


def with_metrics(labels: Sequence[Label], measured: MeasuredLabels) -> tuple[Label, ...]:
    """Write each label's figures, with their intervals, where reports find them."""
    figures_of = {label.label: label.figures for label in measured.labels}
    return tuple(replace(label, metrics=dict(_metrics(figures_of.get(label.name, {})))) for label in labels)


def _metrics(figures: dict[Figure, Estimate]) -> Iterator[tuple[str, float]]:
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
    patients = counted(len({sample.patient for sample in images.samples}), "patient")
    return TrainingFacts(
        data=f"{images.root.name}, {images.layout} layout: {counted(len(images.samples), 'image')} of {patients}",
        images={name: len(samples) for name, samples in present.items()},
        seed=options.seed,
        options=msgspec.to_builtins(options) | {"operating_point": rule},
        libraries={name: version(name) for name in LIBRARIES},
        figures=dict(summarise(measured)),
        patients={name: patients_sha256(samples) for name, samples in present.items()},
        measured_on=VALIDATION,
        data_sha256=images.sha256,
    )


def summarise(measured: MeasuredLabels) -> Iterator[tuple[str, float]]:
    """Yield the figures over all labels by name: macro_auroc, macro_auroc_low, ..., and accuracy of classes."""
    for figure, estimate in measured.macro.items():
        yield f"macro_{figure.value}", estimate.value
        if figure is Figure.AUROC:
            yield f"macro_{figure.value}_low", estimate.low
            yield f"macro_{figure.value}_high", estimate.high
    if measured.classes is not None:
        yield "accuracy", measured.classes.accuracy.value
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
        patients=len({sample.patient for sample in samples}),
        positives=tuple(int(count) for count in (targets == 1.0).sum(axis=0)),
        unknown=tuple(int(count) for count in np.isnan(targets).sum(axis=0)),
    )
