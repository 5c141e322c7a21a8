"""The command `train` from end to end: data, folds, checkpoint and report. Start at `train_model`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.model.data.dataset import load_folds, prepare_folds
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.data.regions import MarkedRegions, mark_regions
from cxrbatch.model.network.checkpoint import CHECKPOINT_SUFFIX, build_network, load_checkpoint, save_checkpoint
from cxrbatch.model.network.combine import read_checkpoints
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.model.network.pretrained import find_init, initialise
from cxrbatch.model.train.checks import (
    Training,
    check_place,
    check_plan,
    offer_finer_maps,
    settle_options,
    usual_architecture,
)
from cxrbatch.model.train.cross_fit import cross_fit
from cxrbatch.model.train.describe import VALIDATION, describe_parts
from cxrbatch.model.train.finish import RUN_JSON, find_finished, finish_training
from cxrbatch.model.train.fit import TrainedEpochs, train_network
from cxrbatch.model.train.folds import middle_of, summarise_folds
from cxrbatch.model.train.loggers import check_log
from cxrbatch.model.train.out_of_fold import score_out_of_fold, write_out_of_fold
from cxrbatch.model.train.page import write_training_page
from cxrbatch.model.train.record import NOBODY, Listener, TrainingPlan, TrainingRun, TrainingSummary
from cxrbatch.model.train.states import Journal
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.pages.wording import counted
from cxrbatch.records import InputSpec
from cxrbatch.system import durable
from cxrbatch.system.record_json import to_json
from cxrbatch.system.stopping import Stopped, stop_at_safe_points

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
    if plan.ensemble and not plan.data.folds:
        raise UsageError("an ensemble is made of folds: say how many with --folds, such as --folds 5.")
    check_log(plan.log)
    folder = check_place(checkpoint)
    folds = load_folds(data, plan.data)
    usual = usual_architecture(len(folds[0].part("train")), plan.output_stride)
    init = find_init(plan.init, plan.architecture, from_scratch=usual)
    plan = replace(plan, architecture=init.architecture)
    options = settle_options(plan, folds[0], pretrained=bool(init.features))
    for images in folds:
        check_plan(plan, options, images)
    if offer := offer_finer_maps(plan):
        listener.say(offer)
    marked = _mark(folds[0], plan, listener)
    prepared = prepare_folds(
        folds,
        InputSpec(plan.size_px, fit=plan.fit),
        allow_leak=plan.data.allow_leak,
        workers=plan.workers,
        report=listener.images,
    )
    trainings: list[Training] = []
    for number, part in enumerate((replace(each, marked=marked) for each in prepared), start=1):
        fold = number if len(prepared) > 1 else 0
        place = checkpoint if not fold else folder / f"fold-{fold}{CHECKPOINT_SUFFIX}"
        trainings.append(Training(part, place, plan, options, init, fold, listener))
    return _finish(trainings, [_train(training) for training in trainings], checkpoint, folder)


def _mark(images: LabelledImages, plan: TrainingPlan, listener: Listener) -> MarkedRegions | None:
    """Read what marks findings on the images: their order is that of all folds."""
    if plan.boxes is None and plan.masks is None:
        return None
    marked = mark_regions(images, InputSpec(plan.size_px, fit=plan.fit), plan.boxes, plan.masks)
    listener.say(f"findings are marked on {counted(len(marked.coverage), 'image')}: they teach the heatmaps")
    return marked


# --------------------------------------------------------------------------- one network


def _train(training: Training) -> TrainingRun:
    """Train, calibrate, place operating points, measure and save one network."""
    say = training.listener.say
    if (before := find_finished(training)) is not None:
        say(f"{training.checkpoint} is there, of the same data and options: nothing to do")
        return before
    say(_headline(training))
    network = build_seeded(lambda: build_network(training.untrained), training.options.seed)
    init = initialise(network, training.init, training.options.seed, labels=training.images.labels)
    journal = Journal(training.folder, training.recipe, resume=training.plan.resume, log=training.plan.log)
    trained = _run_epochs(training, network, journal)
    if not trained.writes:
        raise SystemExit(ExitCode.DONE)
    with _stopping_afterwards():
        run = finish_training(training, network, trained, init)
    if trained.stopped is not None:
        say(f"kept epoch {run.kept}, the {training.options.keep} so far, in {training.checkpoint}")
        raise trained.stopped.advising(GO_ON)
    if trained.diverged is not None:
        raise UsageError(
            f"{trained.diverged}. Epoch {run.kept}, the {training.options.keep} before it, is in "
            f"{training.checkpoint}. Try a lower --lr, or --precision fp32."
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


def _headline(training: Training) -> str:
    images, options = training.images, training.options
    fold = f"fold {training.fold}: " if training.fold else ""
    parts = ", ".join(f"{part.images} {part.name}" for part in describe_parts(images))
    return (
        f"{fold}training {training.plan.architecture} at {training.plan.size_px} px on {parts} images: "
        f"{counted(options.epochs, 'epoch')}, {', '.join(images.labels)}"
    )


def _run_epochs(training: Training, network: ChestNetwork, journal: Journal) -> TrainedEpochs:
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


# --------------------------------------------------------------------------- all of them


def _finish(
    trainings: Sequence[Training], runs: Sequence[TrainingRun], checkpoint: Path, folder: Path
) -> TrainingSummary:
    """Make one checkpoint of the folds: the network in the middle, with what all images chose, or their ensemble."""
    if len(runs) == 1:
        return summarise_folds(runs)
    trainings[0].listener.say("scoring every image by the network that did not learn from it")
    scores, samples = score_out_of_fold(trainings)
    chosen = middle_of(runs)
    folds = cross_fit(trainings[chosen], scores, samples, runs, chosen)
    whole = replace(folds.whole, checkpoint=str(checkpoint))
    summary = replace(summarise_folds(folds.runs), chosen=chosen)
    if trainings[0].plan.ensemble:
        summary, made = replace(summary, ensemble=True), read_checkpoints([each.checkpoint for each in trainings])
    else:
        loaded = load_checkpoint(trainings[chosen].checkpoint)
        whole.calibration.apply_to(loaded.network)
        summary, made = replace(summary, cross_fitted=whole), replace(loaded, facts=whole.facts)
    with output_errors_explained(folder):
        save_checkpoint(checkpoint, made)
        write_out_of_fold(folder, scores, folds.fitted)
        durable.replace_text(folder / RUN_JSON, to_json(summary, indent=2) + "\n")
        write_training_page(folder, summary)
    return summary
