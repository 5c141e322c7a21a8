"""The command `train` from end to end: data, folds, checkpoint and report. Start at `train_model`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from cxrbatch import __version__
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.model.data.dataset import LabelledImages, PreparedImages, load_folds, prepare_folds
from cxrbatch.model.evaluate.record import counted
from cxrbatch.model.figures.operating_points import place_operating_points
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, build_network, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.model.network.pretrained import Init, find_init, initialise
from cxrbatch.model.train.calibration import fit_calibration
from cxrbatch.model.train.checks import (
    CHECKPOINT_SUFFIX,
    check_place,
    check_plan,
    describe_untrained,
    settle_options,
    training_folder,
)
from cxrbatch.model.train.devices import resolve_precision
from cxrbatch.model.train.facts import (
    VALIDATION,
    describe_parts,
    describe_training,
    measure_validation,
    with_metrics,
)
from cxrbatch.model.train.fit import TrainedEpochs, predict_logits, train_network
from cxrbatch.model.train.folds import summarise_folds
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.page import write_training_page
from cxrbatch.model.train.progress import NOBODY, EpochFigures, Listener
from cxrbatch.model.train.record import TrainingPlan, TrainingRun, TrainingSummary
from cxrbatch.model.train.states import Journal
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.pages.cells import harmless
from cxrbatch.records import InputSpec, now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.system.stopping import Stopped, stop_at_safe_points

RUN_JSON, EPOCHS_CSV = "training.json", "epochs.csv"
RESAMPLES = 1000
GO_ON = "the same command with --resume goes on"


def train_model(data: Path, checkpoint: Path, plan: TrainingPlan, listener: Listener = NOBODY) -> TrainingSummary:
    """Train a network on labelled images and write its checkpoint; everything that can be wrong is found first.

    Beside CHECKPOINT.safetensors a folder CHECKPOINT-training holds training.html, training.json, epochs.csv and
    TensorBoard's files; with folds, one such folder and checkpoint for each.

    Args:
        data: a folder or a table, in any of the three layouts.
        checkpoint: the file to write; its name ends in .safetensors.
        plan: what to train, and how.
        listener: told what happens.

    Raises:
        UsageError: the data or the plan cannot be used.
        EngineError: the weights to start from cannot be used.
        OutputNotWritable: a file cannot be written.
        Stopped: a signal ended it; the best epoch so far, if there is one, was saved before.
    """
    folder = check_place(checkpoint)
    init = find_init(plan.init, plan.architecture)
    options = settle_options(plan, pretrained=bool(init.features))
    folds = load_folds(data, plan.data)
    for images in folds:
        check_plan(plan, options, images)
    prepared = prepare_folds(
        folds,
        InputSpec(plan.size_px, fit=plan.fit),
        allow_leak=plan.data.allow_leak,
        workers=plan.workers,
        report=listener.images,
    )
    runs: list[TrainingRun] = []
    for number, part in enumerate(prepared, start=1):
        fold = number if len(prepared) > 1 else 0
        place = checkpoint if not fold else folder / f"fold-{fold}{CHECKPOINT_SUFFIX}"
        runs.append(_train(_Training(part, place, plan, options, init, fold, listener)))
    return _finish(runs, checkpoint, folder)


# --------------------------------------------------------------------------- one network


@dataclass(frozen=True, slots=True)
class _Training:
    """One network to train: its images, where its checkpoint goes, and everything that decides its weights."""

    prepared: PreparedImages
    checkpoint: Path
    plan: TrainingPlan
    options: TrainingOptions
    init: Init
    fold: int
    listener: Listener

    @property
    def images(self) -> LabelledImages:
        return self.prepared.images

    @property
    def untrained(self) -> CheckpointFacts:
        return describe_untrained(self.plan, self.images)

    @property
    def folder(self) -> Path:
        return training_folder(self.checkpoint)

    @property
    def recipe(self) -> str:
        """The SHA-256 of what decides the weights, but for the processor and its threads: 64 hex digits."""
        options = replace(self.options, precision=resolve_precision(self.options))
        data = (self.images.sha256, self.prepared.pixels_sha256)
        decisive = (data, replace(self.untrained, created=""), options, self.init.origin, version("torch"))
        return hashlib.sha256(to_json(decisive).encode()).hexdigest()


def _train(training: _Training) -> TrainingRun:
    """Train, calibrate, place operating points, measure and save one network."""
    say = training.listener.say
    if (before := _trained_before(training)) is not None:
        say(f"{training.checkpoint} is there, of the same data and options: nothing to do")
        return before
    say(_headline(training))
    network = build_seeded(lambda: build_network(training.untrained), training.options.seed)
    init = initialise(network, training.init, training.options.seed, labels=training.images.labels)
    journal = Journal(training.folder, training.recipe, resume=training.plan.resume)
    trained = _run_epochs(training, network, journal)
    if not trained.writes:
        raise SystemExit(ExitCode.DONE)
    with _stopping_afterwards():
        run = _settle(training, network, trained, init)
    if trained.stopped is not None:
        say(f"kept epoch {run.kept}, the best so far, in {training.checkpoint}")
        raise trained.stopped.advising(GO_ON)
    if trained.diverged is not None:
        raise UsageError(
            f"{trained.diverged}. Epoch {run.kept}, the best before it, is in {training.checkpoint}. "
            f"Try a lower --lr, or --precision fp32."
        )
    journal.forget()
    return run


@contextmanager
def _stopping_afterwards() -> Iterator[None]:
    """Let a signal wait until what was trained is saved."""
    try:
        with stop_at_safe_points():
            yield
    except Stopped as stopped:
        raise stopped.advising(GO_ON) from None


def _headline(training: _Training) -> str:
    images, options = training.images, training.options
    fold = f"fold {training.fold}: " if training.fold else ""
    parts = ", ".join(f"{part.images} {part.name}" for part in describe_parts(images))
    return (
        f"{fold}training {training.plan.architecture} at {training.plan.size_px} px on {parts} images: "
        f"{counted(options.epochs, 'epoch')}, {', '.join(images.labels)}"
    )


def _run_epochs(training: _Training, network: ChestNetwork, journal: Journal) -> TrainedEpochs:
    try:
        with output_errors_explained(training.folder):
            return train_network(
                network,
                training.prepared.part("train"),
                training.options,
                validation=training.prepared.part(VALIDATION),
                journal=journal,
                listener=training.listener,
            )
    except Stopped as stopped:
        training.listener.say("no epoch was finished: nothing to keep")
        raise stopped.advising(GO_ON) from None


def _settle(training: _Training, network: ChestNetwork, trained: TrainedEpochs, init: str) -> TrainingRun:
    """Make a checkpoint of trained weights: calibrated, with operating points, and with what is known of it."""
    images, plan, validation = training.images, training.plan, training.prepared.part(VALIDATION)
    seconds = sum(epoch.seconds for epoch in trained.epochs)
    logits = predict_logits(network, validation, training.options.devices)
    calibration = fit_calibration(logits, validation.targets, images.task)
    calibration.apply_to(network)
    probabilities = calibration.probabilities(logits, images.task)
    points = place_operating_points(plan.operating_point, validation.targets, probabilities)
    labels = [
        replace(label, operating_point=point) for label, point in zip(training.untrained.labels, points, strict=True)
    ]
    measured = measure_validation(labels, images, probabilities, resamples=RESAMPLES)
    facts = replace(
        training.untrained,
        created=now_text(),
        labels=with_metrics(labels, measured),
        notice=" ".join(images.leaks),
        training=replace(
            describe_training(images, training.options, measured, rule=str(plan.operating_point)),
            recipe=training.recipe,
            init=init,
            seconds=round(seconds, 1),
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
    _save(training, Checkpoint(network, facts), run)
    return run


def _save(training: _Training, checkpoint: Checkpoint, run: TrainingRun) -> None:
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


def _trained_before(training: _Training) -> TrainingRun | None:
    """Return what an earlier call of the same recipe finished, where this one is to go on."""
    record = training.folder / RUN_JSON
    if not (training.plan.resume and record.is_file() and training.checkpoint.is_file()):
        return None
    try:
        run = from_json(record.read_text(), TrainingSummary).runs[0]
    except ValueError:  # of another version: train again
        return None
    same = (run.facts.training.recipe, run.operating_point_rule) == (
        training.recipe,
        str(training.plan.operating_point),
    )
    return run if same and not run.interrupted else None


# --------------------------------------------------------------------------- all of them


def _finish(runs: Sequence[TrainingRun], checkpoint: Path, folder: Path) -> TrainingSummary:
    summary = summarise_folds(runs)
    if len(runs) > 1:
        with output_errors_explained(folder):
            durable.replace_bytes(checkpoint, Path(summary.runs[summary.chosen].checkpoint).read_bytes())
            durable.replace_text(folder / RUN_JSON, to_json(summary, indent=2) + "\n")
            write_training_page(folder, summary)
    return summary
