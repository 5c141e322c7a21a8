"""Training one network on prepared pixels, on Lightning. Start at `train_network`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cxrbatch.errors import UsageError
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.network.network import SCORING_BATCH, ChestNetwork, ScoringNetwork
from cxrbatch.model.train.image_batches import OrderedBatches
from cxrbatch.model.train.loggers import make_loggers
from cxrbatch.model.train.options import (
    TrainingOptions,
    count_processes,
    find_devices,
    images_per_round,
    resolve_precision,
    with_usual_length,
)
from cxrbatch.model.train.record import NOBODY, EpochFigures, Listener
from cxrbatch.model.train.states import (
    BEST,
    LAST,
    DurableStates,
    Journal,
    RecipeKeeper,
    state_to_resume,
    state_writer,
    take_weights,
)
from cxrbatch.model.train.task import SCORE, Diverged, TrainingTask
from cxrbatch.records import Float32
from cxrbatch.system.stopping import Stopped, stop_at_safe_points, stop_if_asked


@dataclass(frozen=True, slots=True)
class TrainedEpochs:
    """What became of the epochs; the network holds the weights of epoch `kept`: the best or the last, as was asked.

    `stopped` is the signal that ended the training early, `diverged` says where its loss ceased to be a number. Of
    several processes that train together, `writes` tells the one that writes what came of it.
    """

    epochs: tuple[EpochFigures, ...]
    kept: int
    stopped: Stopped | None = None
    diverged: Diverged | None = None
    writes: bool = True


def train_network(
    network: ChestNetwork,
    data: PixelSet,
    options: TrainingOptions,
    *,
    validation: PixelSet | None = None,
    journal: Journal | None = None,
    listener: Listener = NOBODY,
) -> TrainedEpochs:
    """Train the network in place, and leave the weights of the epoch that is to be kept in it.

    The same network, data, options, thread count and processor give the same weights, also when the training
    was interrupted and went on in between.

    Args:
        network: left in evaluation mode, FP32, on the CPU.
        data: the images to learn from.
        options: how.
        validation: images that measure every epoch, and choose the best where that is kept.
        journal: where to keep what a later call needs to go on; without one nothing is written.
        listener: told after every batch and every epoch.

    Raises:
        UsageError: too few images, the journal is of another training, or the loss is no number from the start.
        Stopped: a signal ended it before there was anything to keep.
    """
    options = with_usual_length(options, len(data))
    if len(data) < (needed := images_per_round(options)):
        raise UsageError(f"{len(data)} images are fewer than one batch of {needed}.")
    options = replace(options, precision=resolve_precision(options))
    network.to(memory_format=torch.channels_last)
    task = TrainingTask(network, data, validation, options, listener=listener)
    chooses = validation is not None and options.keep == "best"
    ended = _fit(task, options, journal, chooses=chooses)
    if task.averaged is not None:
        network.load_state_dict(task.kept_network.state_dict())
    network.cpu().to(memory_format=torch.contiguous_format).requires_grad_(True).eval()
    state = _kept_state(journal, options, chooses=chooses, ended_early=ended is not None)
    if state is None and isinstance(ended, Stopped):
        raise ended
    if state is None and ended is not None:
        raise UsageError(f"{ended}; a lower learning rate, or precision fp32, may help.")
    return TrainedEpochs(
        tuple(task.epochs),
        len(task.epochs) if state is None else take_weights(network, state),
        stopped=ended if isinstance(ended, Stopped) else None,
        diverged=ended if isinstance(ended, Diverged) else None,
        writes=task.global_rank == 0,
    )


def _kept_state(journal: Journal | None, options: TrainingOptions, *, chooses: bool, ended_early: bool) -> Path | None:
    """Return the state whose weights are to be kept; None for those that the network has."""
    if journal is not None and chooses and journal.best.is_file():
        return journal.best
    if journal is not None and ended_early and options.keep == "last" and journal.last.is_file():
        return journal.last
    return None


def _fit(
    task: TrainingTask, options: TrainingOptions, journal: Journal | None, *, chooses: bool
) -> Stopped | Diverged | None:
    """Run the epochs; return what ended them early, if something did."""
    return run_epochs(task, options, journal, _callbacks(options, journal, chooses=chooses))


def run_epochs(
    task: lightning.LightningModule, options: TrainingOptions, journal: Journal | None, callbacks: list[Callback]
) -> Stopped | Diverged | None:
    """Run the epochs of a task, from where its journal goes on; return what ended them early, if something did."""
    state = state_to_resume(journal)
    with _quiet_lightning(), torch.random.fork_rng(devices=[]):
        trainer = _make_trainer(options, journal, callbacks)
        try:
            with stop_at_safe_points():
                trainer.fit(task, ckpt_path=state, weights_only=True)
                stop_if_asked()
        except (Stopped, Diverged) as ended:
            return ended
        except SIGTERMException:  # Lightning met the signal between two of our safe points
            try:
                stop_if_asked()
            except Stopped as ended:
                return ended
            raise
    return None


def _make_trainer(options: TrainingOptions, journal: Journal | None, callbacks: list[Callback]) -> lightning.Trainer:
    accelerator, devices = find_devices(options.devices)
    return lightning.Trainer(
        max_epochs=options.epochs,
        accelerator=accelerator,
        devices=devices,
        num_nodes=options.nodes,
        # Stages that are frozen for a while, and regions that few images have, leave parameters without a gradient.
        strategy="ddp_find_unused_parameters_true" if count_processes(options) > 1 else "auto",
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        accumulate_grad_batches=options.accumulate,
        plugins=[DurableStates()],
        callbacks=callbacks,
        logger=make_loggers(journal, options) or False,
        num_sanity_val_steps=0,
        enable_checkpointing=journal is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _callbacks(options: TrainingOptions, journal: Journal | None, *, chooses: bool) -> list[Callback]:
    callbacks: list[Callback] = []
    if options.patience and chooses:
        callbacks.append(EarlyStopping(SCORE, mode="max", patience=options.patience, check_on_train_epoch_end=True))
    if journal is not None:
        callbacks.append(RecipeKeeper(journal))
        # The last state is written last: it tells how good the best one is, so that a worse epoch after it never wins.
        states = [(BEST, SCORE), (LAST, None)] if chooses else [(LAST, None)]
        for name, monitor in states:
            callbacks.append(state_writer(journal.folder, name, monitor))
    return callbacks


@torch.inference_mode()
def predict_logits(network: ScoringNetwork, images: PixelSet, devices: str = "cpu") -> Float32:
    """Return what the network answers before calibration, in FP32: float32 [N,C].

    `devices` is the training's: images are scored on the first of them. The network comes back to the CPU.
    """
    accelerator, places = find_devices(devices)
    first = places[0] if isinstance(places, list) else 0
    device = torch.device("cuda", first) if accelerator == "gpu" else torch.device("cpu")
    network.to(device)
    answers = [
        network.answers(batch.to(device).pixels)["logits"].cpu() for batch in OrderedBatches(images, SCORING_BATCH)
    ]
    network.cpu()
    logits: Float32 = torch.cat(answers).numpy()
    return logits


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's announcements and advice out of our output; errors still come as exceptions."""
    # Its loggers have handlers and levels of their own, so the parent's level does not silence them.
    names = [name for name in logging.root.manager.loggerDict if name.startswith("lightning")]
    loggers = [logging.getLogger(name) for name in {*names, "lightning", "lightning.pytorch"}]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
