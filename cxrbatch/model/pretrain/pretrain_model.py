"""The command `pretrain` from end to end: archive, epochs, weights and what is told of them. Start at it."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

import torch

from cxrbatch import __version__
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.model.data.known_images import remember
from cxrbatch.model.data.labelled import count_patients, describe_patients
from cxrbatch.model.network.architectures import require_size
from cxrbatch.model.network.checkpoint import CHECKPOINT_SUFFIX
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.model.network.pretrained import Init, find_init, initialise
from cxrbatch.model.network.pretraining_file import PretrainingFacts, read_pretraining, save_pretrained
from cxrbatch.model.network.weights_file import read_weights
from cxrbatch.model.pretrain.archive import Archive, read_archive
from cxrbatch.model.pretrain.record import (
    MIN_EPOCHS,
    MIN_STEPS,
    RATE_OF_256,
    USUAL_BATCH,
    WEIGHT_DECAY,
    PretrainingEpoch,
    PretrainingPlan,
    PretrainingRun,
)
from cxrbatch.model.pretrain.simsiam import METHOD
from cxrbatch.model.pretrain.task import PretrainingTask
from cxrbatch.model.train.checks import check_place
from cxrbatch.model.train.fit import run_epochs
from cxrbatch.model.train.options import TrainingOptions, images_per_round, resolve_precision
from cxrbatch.model.train.record import NOBODY, Listener
from cxrbatch.model.train.states import LAST, Journal, RecipeKeeper, state_writer, take_weights
from cxrbatch.model.train.task import Diverged
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.pages.cells import harmless
from cxrbatch.pages.wording import counted
from cxrbatch.records import InputSpec, now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import to_json
from cxrbatch.system.stopping import Stopped

RUN_JSON, EPOCHS_CSV, REFUSED_CSV = "pretraining.json", "epochs.csv", "refused.csv"
LIBRARIES = ("torch", "torchvision", "lightning", "numpy", "pydicom")
GO_ON = "the same command with --resume goes on"


@dataclass(frozen=True, slots=True)
class _Pretraining:
    """One network to pretrain, its images, where its weights go, and everything that decides them."""

    plan: PretrainingPlan
    options: TrainingOptions
    spec: InputSpec
    archive: Archive
    init: Init
    weights: Path
    listener: Listener

    @property
    def folder(self) -> Path:
        return pretraining_folder(self.weights)

    @property
    def recipe(self) -> str:
        """The SHA-256 of what decides the weights, but for the processor and its threads: 64 hex digits."""
        options = replace(self.options, precision=resolve_precision(self.options))
        decisive = (METHOD, self.archive.sha256, self.plan.architecture, self.spec, options, self.init.origin)
        return hashlib.sha256(to_json((*decisive, version("torch"))).encode()).hexdigest()


def pretraining_folder(weights: Path) -> Path:
    """Return where a pretraining leaves everything but its weights."""
    return weights.with_name(f"{weights.name.removesuffix(CHECKPOINT_SUFFIX)}-pretraining")


def pretrain_model(folder: Path, weights: Path, plan: PretrainingPlan, listener: Listener = NOBODY) -> PretrainingRun:
    """Learn from the radiographs of a folder, without labels, and write weights that `train --init` takes.

    Beside WEIGHTS.safetensors a folder WEIGHTS-pretraining holds pretraining.json, epochs.csv, refused.csv (every file
    that was left out, and why) and TensorBoard's files.

    Args:
        folder: the archive; walked and screened as INPUT of a run is.
        weights: the file to write; its name ends in .safetensors.
        plan: what to pretrain, and how.
        listener: told what happens.

    Raises:
        UsageError: too few images, the plan cannot be used, or the loss is no number any more.
        EngineError: the weights to start from cannot be used.
        OutputNotWritable: a file cannot be written.
        Stopped: a signal ended it; what the last whole epoch taught, if there is one, was saved before.
    """
    place = check_place(weights, pretraining_folder(weights))
    require_size(plan.architecture, plan.size_px)
    init = find_init(plan.init, plan.architecture)
    spec = InputSpec(plan.size_px, fit=plan.fit)
    archive = read_archive(
        folder, spec, patient_pattern=plan.patient_pattern, workers=plan.workers, report=listener.images
    )
    with output_errors_explained(place):
        durable.replace_text(place / REFUSED_CSV, _refused_table(archive))
    listener.say(describe_archive(archive))
    options = settle_options(plan, len(archive.pixels))
    _require_enough(folder, archive, options)
    return _pretrain(_Pretraining(plan, options, spec, archive, init, weights, listener))


def settle_options(plan: PretrainingPlan, images: int) -> TrainingOptions:
    """Put the usual values for so many images where the plan leaves them open."""
    options = replace(plan.training, batch_size=plan.training.batch_size or USUAL_BATCH)
    batch = images_per_round(options) * options.accumulate
    steps = max(1, images // batch)
    rate = RATE_OF_256 * batch / 256 if plan.learning_rate is None else plan.learning_rate
    return replace(
        options,
        epochs=options.epochs or max(MIN_EPOCHS, math.ceil(MIN_STEPS / steps)),
        learning_rate=rate,
        optimizer="sgd",
        weight_decay=WEIGHT_DECAY,
        schedule="cosine",
    )


def describe_archive(archive: Archive) -> str:
    """Say how many files were met, and what became of them."""
    refused = ", ".join(f"{count} {reason}" for reason, count in archive.reasons.items())
    parts = [f"{counted(len(archive.pixels), 'radiograph')} of {describe_patients(archive.images.samples)}"]
    parts += [f"{counted(archive.duplicates, 'file')} that show the same as another"] if archive.duplicates else []
    parts += [f"{counted(len(archive.refused), 'file')} left out ({refused})"] if archive.refused else []
    return f"{counted(archive.files, 'file')}: {'; '.join(parts)}"


def _require_enough(folder: Path, archive: Archive, options: TrainingOptions) -> None:
    found, needed = len(archive.pixels), images_per_round(options)
    if found >= needed:
        return
    smaller = f", or use --batch-size {found // 2}" if found >= 4 else ""
    raise UsageError(
        f"{folder}: too few images to learn from: {describe_archive(archive)}. A batch takes {needed}, and an archive "
        f"should have thousands. Bring more{smaller}; {REFUSED_CSV} says what was left out."
    )


# --------------------------------------------------------------------------- the epochs


def _pretrain(job: _Pretraining) -> PretrainingRun:
    if (before := _find_finished(job)) is not None:
        job.listener.say(f"{job.weights} is there, of the same images and options: nothing to do")
        return before
    job.listener.say(
        f"pretraining {job.plan.architecture} at {job.plan.size_px} px with {METHOD}: "
        f"{counted(job.options.epochs, 'epoch')} of batches of {job.options.batch_size}"
    )
    network = build_seeded(lambda: ChestNetwork(job.plan.architecture, 1, spec=job.spec), job.options.seed)
    told = initialise(network, job.init, job.options.seed)
    network.to(memory_format=torch.channels_last)
    options = replace(job.options, precision=resolve_precision(job.options))
    task = PretrainingTask(network, job.archive.pixels, options, listener=job.listener)
    journal = Journal(job.folder, job.recipe, resume=job.plan.resume)
    with output_errors_explained(job.folder):
        callbacks = [RecipeKeeper(journal), state_writer(job.folder, LAST, None)]
        ended = run_epochs(task, options, journal, callbacks)
    if task.global_rank != 0:
        raise SystemExit(ExitCode.DONE)
    if isinstance(ended, Diverged):
        raise UsageError(f"{ended}; nothing was written. A lower --lr, or --precision fp32, may help.")
    epochs = _take_epochs(task, journal, ended)
    run = _finish(job, task.network, epochs, told)
    if ended is not None:
        job.listener.say(f"kept what {counted(len(epochs), 'epoch')} taught, in {job.weights}")
        raise ended.advising(GO_ON)
    journal.forget()
    return run


def _take_epochs(task: PretrainingTask, journal: Journal, ended: Stopped | None) -> tuple[PretrainingEpoch, ...]:
    """Leave the weights of the last whole epoch in the network; return the epochs that made them."""
    network = task.network.cpu().to(memory_format=torch.contiguous_format)
    network.eval()
    if ended is None:
        return tuple(task.epochs)
    if not (task.epochs and journal.last.is_file()):
        task.network.zero_grad()
        raise ended.advising(f"no epoch was finished: nothing to keep; {GO_ON}")
    return tuple(task.epochs[: take_weights(network, journal.last)])


def _finish(job: _Pretraining, network: ChestNetwork, epochs: Sequence[PretrainingEpoch], init: str) -> PretrainingRun:
    facts = _describe(job, epochs, init)
    if not all(torch.isfinite(tensor).all() for tensor in network.features.state_dict().values()):
        raise UsageError("the weights are not all numbers; nothing was written. A lower --lr may help.")
    known = (remember(job.archive.images, job.archive.digests), *job.init.known)
    run = PretrainingRun(
        weights=str(job.weights),
        folder=str(job.archive.images.root),
        files=job.archive.files,
        facts=facts,
        epochs=tuple(epochs),
        cxrbatch_version=__version__,
    )
    with output_errors_explained(job.folder):
        save_pretrained(job.weights, network, facts, known)
        durable.replace_text(job.folder / EPOCHS_CSV, _epochs_table(epochs))
        durable.replace_text(job.folder / RUN_JSON, to_json(run, indent=2) + "\n")
    return run


def _describe(job: _Pretraining, epochs: Sequence[PretrainingEpoch], init: str) -> PretrainingFacts:
    archive, options = job.archive, job.options
    patients, of_unknown = count_patients(archive.images.samples)
    steps = len(archive.pixels) // (images_per_round(options) * options.accumulate)
    chosen = ("batch_size", "accumulate", "learning_rate", "optimizer", "weight_decay", "schedule", "precision")
    return PretrainingFacts(
        created=now_text(),
        architecture=job.plan.architecture,
        method=METHOD,
        input=job.spec,
        images=len(archive.pixels),
        patients=patients,
        of_unknown=of_unknown,
        duplicates=archive.duplicates,
        refused=archive.reasons,
        epochs=len(epochs),
        planned=options.epochs,
        steps=steps * len(epochs),
        loss=epochs[-1].loss,
        spread=epochs[-1].spread,
        recognised=epochs[-1].recognised,
        seed=options.seed,
        seconds=round(sum(epoch.seconds for epoch in epochs), 1),
        recipe=job.recipe,
        init=init,
        options={name: getattr(options, name) for name in chosen},
        libraries={"cxrbatch": __version__, **{name: version(name) for name in LIBRARIES}},
    )


def _find_finished(job: _Pretraining) -> PretrainingRun | None:
    """Return what an earlier call of the same recipe finished, where this one is to go on."""
    record = job.folder / RUN_JSON
    if not (job.plan.resume and record.is_file() and job.weights.is_file()):
        return None
    facts, _ = read_pretraining(read_weights(job.weights))
    if (facts.recipe, facts.epochs) != (job.recipe, job.options.epochs):
        return None
    return PretrainingRun(
        weights=str(job.weights),
        folder=str(job.archive.images.root),
        files=job.archive.files,
        facts=facts,
        epochs=(),
        cxrbatch_version=__version__,
    )


# --------------------------------------------------------------------------- tables


def _epochs_table(epochs: Sequence[PretrainingEpoch]) -> str:
    return _table([each.name for each in fields(PretrainingEpoch)], [list(asdict(epoch).values()) for epoch in epochs])


def _refused_table(archive: Archive) -> str:
    rows = [[each.path, each.reason, each.message] for each in archive.refused]
    return _table(["path", "reason", "message"], [[harmless(cell) for cell in row] for row in rows])


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return written.getvalue()
