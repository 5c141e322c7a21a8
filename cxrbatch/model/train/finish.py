"""From trained weights to a checkpoint and its report: calibrated, measured, saved. Start at `finish_training`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from importlib.metadata import version

import msgspec
import numpy as np
import pandas as pd

from cxrbatch import __version__
from cxrbatch.engine.manifest import CHOICES, CHOOSING_PART, TrainingFacts
from cxrbatch.model.data.known_images import remember
from cxrbatch.model.data.labelled import (
    SPLITS,
    LabelledImages,
    Sample,
    count_patients,
    describe_patients,
    patients_sha256,
)
from cxrbatch.model.data.urgent import mark_urgent
from cxrbatch.model.figures.alarms import Alarms, ImagesByStudy, measure_alarms, place_for_alarms, raise_alarms
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
from cxrbatch.model.network.checkpoint import Checkpoint, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.train.calibration import Calibration, fit_calibration
from cxrbatch.model.train.checks import Training, choosing_part
from cxrbatch.model.train.fit import TrainedEpochs, predict_logits
from cxrbatch.model.train.folds import summarise_folds
from cxrbatch.model.train.map_check import with_checked_maps
from cxrbatch.model.train.novelty import fit_novelty
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.page import write_training_page
from cxrbatch.model.train.record import EpochFigures, TrainingPart, TrainingRun, TrainingSummary
from cxrbatch.model.train.reference import describe_reference
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.pages.cells import harmless
from cxrbatch.pages.wording import counted
from cxrbatch.records import Float32, Label, now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import from_json, to_json

RUN_JSON, EPOCHS_CSV = "training.json", "epochs.csv"
VALIDATION = CHOOSING_PART
RESAMPLES = 1000
LIBRARIES = ("torch", "torchvision", "lightning", "numpy", "pydicom", "scikit-learn")
# What reports and model cards show of a label; evaluate measures more.
_LABEL_FIGURES = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY)


def finish_training(training: Training, network: ChestNetwork, trained: TrainedEpochs, init: str) -> TrainingRun:
    """Make a checkpoint of trained weights: calibrated, with operating points, and with all that is known of it."""
    images, plan = training.images, training.plan
    seconds = sum(epoch.seconds for epoch in trained.epochs)
    calibration, labels, alarms, probabilities = choose_verdicts(training, network)
    validation = training.prepared.part(VALIDATION)
    novelty = fit_novelty(network, training.prepared.part("train"), validation, training.options.devices)
    measured = measure_validation(labels, images, probabilities, resamples=RESAMPLES)
    described = describe_training(images, training.options, measured, rule=str(plan.operating_point))
    described.figures.update(alarm_figures(alarms))
    facts = replace(
        training.untrained,
        created=now_text(),
        labels=with_checked_maps(with_metrics(labels, measured, probabilities), training.prepared, network),
        cells=network.cells,
        reference=describe_reference(images.part(VALIDATION), validation, labels, probabilities),
        notice=" ".join(images.leaks),
        training=replace(
            described,
            recipe=training.recipe,
            init=init,
            seconds=round(seconds, 1),
            novelty=novelty,
        ),
    )
    run = TrainingRun(
        checkpoint=str(training.checkpoint),
        data=str(images.root),
        layout=images.layout,
        data_sha256=images.sha256,
        parts=describe_parts(images),
        notes=images.notes,
        leaks=images.leaks,
        facts=facts,
        operating_point_rule=str(plan.operating_point),
        alarms=alarms,
        calibration=calibration,
        epochs=trained.epochs,
        kept=trained.kept,
        measured=measured,
        resamples=RESAMPLES,
        interrupted=trained.stopped is not None or trained.diverged is not None,
        seconds=round(seconds, 1),
        fold=training.fold,
        trained_at=facts.created,
        cxrbatch_version=__version__,
    )
    known = (
        remember(images, training.prepared.digests, facts.training.choosing_parts),
        *training.init.known,
    )
    _save(training, Checkpoint(network, facts, known), run)
    return run


def choose_verdicts(
    training: Training, network: ChestNetwork
) -> tuple[Calibration, tuple[Label, ...], Alarms | None, Float32]:
    """Choose calibration and operating points on the images that are there for it, and calibrate the network.

    Returns:
        The calibration; the labels, with points, and urgent as was asked; what points chosen for a rate of alarms
        come to on the validation images; what the network answers for these now, float32 [N,C].
    """
    images, plan, part = training.images, training.plan, choosing_part(training.images)
    choosing = training.prepared.part(part)
    logits = predict_logits(network, choosing, training.options.devices)
    calibration = fit_calibration(logits, choosing.targets, images.task)
    calibration.apply_to(network)
    probabilities = calibration.probabilities(logits, images.task)
    # Urgency decides nothing about the weights, and so is no part of what `untrained` says of them.
    marked = mark_urgent(training.untrained.labels, plan.urgent)
    points, alarms = place_points(plan.operating_point, marked, images.part(part), probabilities)
    labels = tuple(replace(label, operating_point=point) for label, point in zip(marked, points, strict=True))
    if part == VALIDATION:
        return calibration, labels, alarms, probabilities
    validation = predict_logits(network, training.prepared.part(VALIDATION), training.options.devices)
    answers = calibration.probabilities(validation, images.task)
    if alarms is not None:
        by_study = _by_study(images.part(VALIDATION), answers)
        alarms = measure_alarms(alarms, labels, by_study, raise_alarms(labels, answers))
    return calibration, labels, alarms, answers


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
    return place_for_alarms(rule.value, labels, _by_study(samples, probabilities), judged=enough_cases(targets))


def _by_study(samples: Sequence[Sample], probabilities: Float32) -> ImagesByStudy:
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


def _save(training: Training, checkpoint: Checkpoint, run: TrainingRun) -> None:
    with output_errors_explained(training.folder):
        save_checkpoint(training.checkpoint, checkpoint)
        durable.replace_text(training.folder / RUN_JSON, to_json(summarise_folds([run]), indent=2) + "\n")
        durable.replace_text(training.folder / EPOCHS_CSV, _epochs_table(run))
        write_training_page(training.folder, summarise_folds([run]))


def _epochs_table(run: TrainingRun) -> str:
    labels = [f"val_auroc_{label.name}" for label in run.facts.labels]
    names = [each.name for each in fields(EpochFigures) if each.name != "label_auroc"]
    rows = [[getattr(epoch, name) for name in names] + list(epoch.label_auroc) for epoch in run.epochs]
    return str(pd.DataFrame(rows, columns=[*names, *map(harmless, labels)]).to_csv(index=False))


def find_finished(training: Training) -> TrainingRun | None:
    """Return what an earlier call of the same recipe finished, where this one is to go on."""
    record = training.folder / RUN_JSON
    if not (training.plan.resume and record.is_file() and training.checkpoint.is_file()):
        return None
    try:
        run = from_json(record.read_text(), TrainingSummary).runs[0]
    except ValueError:  # of another version: train again
        return None
    urgent = {label.name for label in run.facts.labels if label.urgent}
    same = (run.facts.training.recipe, run.operating_point_rule, urgent) == (
        training.recipe,
        str(training.plan.operating_point),
        set(training.plan.urgent),
    )
    return run if same and not run.interrupted else None


# --------------------------------------------------------------------------- what is said of it


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
        data=f"{images.root.name}, {images.layout} layout: {counted(len(images.samples), 'image')} of {patients}",
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
