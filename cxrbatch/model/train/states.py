"""States of a training on disk: written after every epoch, whole or not at all; read without running anything."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cxrbatch.errors import UsageError
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.system import durable

LAST, BEST = "last.ckpt", "best.ckpt"
_RECIPE_KEY, _FOLDER_KEY = "cxrbatch_recipe", "cxrbatch_folder"
_NOTICEABLE_S = 0.25
_WEIGHTS_PREFIX, _AVERAGED_PREFIX = "network.", "averaged.module."


@dataclass(frozen=True, slots=True)
class Journal:
    """Where a training keeps what it needs to go on after an interruption, and TensorBoard's files.

    `recipe` identifies data, network and options: only a training of the same recipe goes on. `log` says where else
    figures go: mlflow or mlflow=URI.
    """

    folder: Path
    recipe: str
    resume: bool = False
    log: str = ""

    @property
    def last(self) -> Path:
        """The state after the last whole epoch, as Lightning writes it; read with weights_only."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """The state after the best epoch so far."""
        return self.folder / BEST

    def forget(self) -> None:
        """Remove the states: the training is done, and its checkpoint holds what counts."""
        for state in (self.last, self.best):
            state.unlink(missing_ok=True)


def state_to_resume(journal: Journal | None) -> Path | None:
    """Return the state that a training goes on from, if it is to go on and there is one.

    Raises:
        UsageError: it is damaged, of another training, or was written elsewhere.
    """
    if journal is None:
        return None
    if not journal.resume:
        journal.forget()
        return None
    if not journal.last.is_file():
        return None
    state = read_state(journal.last)
    if state.get(_RECIPE_KEY) != journal.recipe:
        raise UsageError(
            f"{journal.last}: the state of another training (other data, options, network or PyTorch). Give the same "
            f"command as before with --resume, or leave --resume out to start afresh."
        )
    if state.get(_FOLDER_KEY) != os.path.realpath(journal.folder):
        # Lightning would forget which epoch was best.
        raise UsageError(
            f"{journal.last}: was written as {state.get(_FOLDER_KEY)}/{LAST}. Put it back there to go on, or leave "
            f"--resume out to start afresh."
        )
    return journal.last


def take_weights(network: ChestNetwork, path: Path) -> int:
    """Load the weights that a state keeps, averaged ones if it has them, into the network; return their epoch."""
    state = read_state(path)
    averages = any(name.startswith(_AVERAGED_PREFIX) for name in state["state_dict"])
    prefix = _AVERAGED_PREFIX if averages else _WEIGHTS_PREFIX
    weights = {
        name.removeprefix(prefix): tensor for name, tensor in state["state_dict"].items() if name.startswith(prefix)
    }
    network.load_state_dict(weights)
    return int(state["epoch"]) + 1


def read_state(path: Path) -> dict[str, Any]:
    """Read a state that Lightning wrote; weights_only runs nothing that the file may hold.

    Raises:
        UsageError: damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"{path}: damaged ({error}). Leave --resume out to start afresh.") from error
    return state


class RecipeKeeper(Callback):
    """Writes into every state of which training it is, and where."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add both to a state that is about to be written."""
        del trainer, pl_module
        checkpoint[_RECIPE_KEY] = self._journal.recipe
        checkpoint[_FOLDER_KEY] = os.path.realpath(self._journal.folder)


class DurableStates(TorchCheckpointIO):
    """Writes states beside their place and moves them there: a full disk or a kill leaves the old one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the state `checkpoint` to `path`."""
        del storage_options
        with durable.replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class _StateWriter(ModelCheckpoint):
    """Writes a state after an epoch unless writing would take more than a twentieth of the time.

    A ResNet50's state of some 400 MB takes seconds on a slow disk, an epoch of a small set no more.
    """

    _written_at = _write_took_s = 0.0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write it, or wait for a later epoch; the last one is always written."""
        is_last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        started = time.monotonic()
        if self.monitor is None and not is_last and started - self._written_at < 20 * self._write_took_s:
            return
        super().on_train_epoch_end(trainer, pl_module)
        self._written_at = time.monotonic()
        # What takes no time is written each time.
        took_s = self._written_at - started
        self._write_took_s = took_s if took_s > _NOTICEABLE_S else 0.0


def state_writer(folder: Path, name: str, monitor: str | None) -> ModelCheckpoint:
    """Make what writes a state after epochs, or after every one with more of what it monitors."""
    return _StateWriter(
        dirpath=folder,
        filename=name.removesuffix(".ckpt"),
        monitor=monitor,
        mode="max",
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
