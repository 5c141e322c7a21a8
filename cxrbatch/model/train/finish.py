"""From trained weights to a checkpoint and its report: calibrated, measured, saved. Start at `finish_training`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pandas as pd

from cxrbatch import __version__
from cxrbatch.model.data.known_images import remember
from cxrbatch.model.data.urgent import mark_urgent
from cxrbatch.model.figures.alarms import Alarms, measure_alarms, raise_alarms
from cxrbatch.model.figures.figures import MeasuredLabels
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.train.calibration import Calibration, fit_calibration
from cxrbatch.model.train.checks import Training, choosing_part
from cxrbatch.model.train.describe import (
    RESAMPLES,
    VALIDATION,
    alarm_figures,
    by_study,
    describe_parts,
    describe_training,
    measure_validation,
    place_points,
    with_metrics,
)
from cxrbatch.model.train.fit import TrainedEpochs, predict_logits
from cxrbatch.model.train.folds import summarise_folds
from cxrbatch.model.train.map_check import with_checked_maps
from cxrbatch.model.train.novelty import fit_novelty
from cxrbatch.model.train.page import write_training_page
from cxrbatch.model.train.record import EpochFigures, TrainingRun, TrainingSummary
from cxrbatch.model.train.reference import describe_reference
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.pages.cells import harmless
from cxrbatch.records import Float32, Label, now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import from_json, to_json

RUN_JSON, EPOCHS_CSV = "training.json", "epochs.csv"


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """How answers become verdicts: the calibration, and the labels, with points, and urgent as was asked.

    `alarms` is what points chosen for a rate of alarms come to on the validation images; `answers` are the network's
    for these, calibrated, float32 [N,C].
    """

    calibration: Calibration
    labels: tuple[Label, ...]
    alarms: Alarms | None
    answers: Float32


def finish_training(training: Training, network: ChestNetwork, trained: TrainedEpochs, init: str) -> TrainingRun:
    """Make a checkpoint of trained weights: calibrated, with operating points, and with all that is known of it."""
    images, chosen = training.images, _choose_verdicts(training, network)
    validation = training.prepared.part(VALIDATION)
    novelty = fit_novelty(network, training.prepared.part("train"), validation, training.options.devices)
    measured = measure_validation(chosen.labels, images, chosen.answers, resamples=RESAMPLES)
    described = describe_training(images, training.options, measured, rule=str(training.plan.operating_point))
    described.figures.update(alarm_figures(chosen.alarms))
    labels = with_metrics(chosen.labels, measured, chosen.answers)
    facts = replace(
        training.untrained,
        created=now_text(),
        labels=with_checked_maps(labels, training.prepared, network),
        cells=network.cells,
        reference=describe_reference(images.part(VALIDATION), validation, chosen.labels, chosen.answers),
        notice=" ".join(images.leaks),
        training=replace(
            described,
            recipe=training.recipe,
            init=init,
            seconds=round(sum(epoch.seconds for epoch in trained.epochs), 1),
            novelty=novelty,
        ),
    )
    run = _describe_run(training, trained, chosen, facts, measured)
    known = (
        remember(images, training.prepared.digests, facts.training.choosing_parts),
        *training.init.known,
    )
    _save(training, Checkpoint(network, facts, known), run)
    return run


def _describe_run(
    training: Training, trained: TrainedEpochs, chosen: _Verdicts, facts: CheckpointFacts, measured: MeasuredLabels
) -> TrainingRun:
    images = training.images
    return TrainingRun(
        checkpoint=str(training.checkpoint),
        data=str(images.root),
        layout=images.layout,
        data_sha256=images.sha256,
        parts=describe_parts(images),
        notes=images.notes,
        leaks=images.leaks,
        facts=facts,
        operating_point_rule=str(training.plan.operating_point),
        alarms=chosen.alarms,
        calibration=chosen.calibration,
        epochs=trained.epochs,
        kept=trained.kept,
        measured=measured,
        resamples=RESAMPLES,
        interrupted=trained.stopped is not None or trained.diverged is not None,
        seconds=facts.training.seconds,
        fold=training.fold,
        trained_at=facts.created,
        cxrbatch_version=__version__,
    )


def _choose_verdicts(training: Training, network: ChestNetwork) -> _Verdicts:
    """Choose calibration and operating points on the images that are there for it, and calibrate the network."""
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
        return _Verdicts(calibration, labels, alarms, probabilities)
    validation = predict_logits(network, training.prepared.part(VALIDATION), training.options.devices)
    answers = calibration.probabilities(validation, images.task)
    if alarms is not None:
        studies = by_study(images.part(VALIDATION), answers)
        alarms = measure_alarms(alarms, labels, studies, raise_alarms(labels, answers))
    return _Verdicts(calibration, labels, alarms, answers)


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
