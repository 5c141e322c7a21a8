"""One optimisation of a network, as Lightning runs it: steps, validation, what an epoch came to, the optimiser."""

from __future__ import annotations

import math
import signal
import time
from typing import Any, cast

import lightning
import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # everyone's name for it
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.figures.metrics import average_over_labels, measure_aurocs
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.train.augment import augment_with_regions
from cxrbatch.model.train.image_batches import (
    AUGMENTATION,
    NETWORK,
    ImageBatch,
    OrderedBatches,
    ShuffledBatches,
    epoch_seed,
    repeat_factors,
)
from cxrbatch.model.train.losses import LabelLoss, RegionLoss, usual_loss
from cxrbatch.model.train.optimisation import make_optimizer, make_plateau, make_schedule
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import NOBODY, EpochFigures, Listener, TrainingProgress
from cxrbatch.system.stopping import Stopped, stop_if_asked, stop_was_asked

SCORE = "val_score"
"""The name that Lightning knows `EpochFigures.score` by; the best epoch has most of it."""

_EPOCHS_KEY = "cxrbatch_epochs"


class Diverged(Exception):  # a state, as Stopped is
    """The loss is no number any more; what comes after it is worth nothing."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"in epoch {epoch} the loss was not a number any more")


class TrainingTask(lightning.LightningModule):
    """One optimisation of the network.

    All chance is drawn from the seed and the number of the epoch, so that a training which goes on at an epoch
    does there what it would have done.
    """

    def __init__(
        self,
        network: ChestNetwork,
        data: PixelSet,
        validation: PixelSet | None,
        options: TrainingOptions,
        *,
        listener: Listener = NOBODY,
    ) -> None:
        super().__init__()
        self.network = network
        # Its state is part of this module's: what goes on goes on averaging.
        self.averaged = _averaging(network, options.average) if options.average else None
        self.region_loss = RegionLoss(network.head.out_features, None if data.regions is None else network.cells)
        self.label_loss = LabelLoss(options.loss or usual_loss(network.task), data.targets)
        self.epochs: list[EpochFigures] = []
        self._data, self._validation, self._options = data, validation, options
        self._repeats = repeat_factors(data.targets, options.balance)
        self._averaged_at = -1
        self._listener = listener
        self._losses: list[float] = []
        self._validated: list[tuple[Tensor, Tensor]] = []
        self._val_loss: float | None = None
        self._aurocs: tuple[float | None, ...] = ()
        self._generator = torch.Generator()
        self._plateau: ReduceLROnPlateau | None = None
        self._rate = options.learning_rate
        self._started = self._epoch_started = self._trained_until = time.monotonic()

    @property
    def kept_network(self) -> ChestNetwork:
        """The network that is validated and kept: the average of the weights, where there is one."""
        network: Any = self.network if self.averaged is None else self.averaged.module
        return cast("ChestNetwork", network)

    # ------------------------------------------------------------------ data

    def train_dataloader(self) -> ShuffledBatches:
        """Return this process's share of the batches."""
        trainer = self.trainer
        return ShuffledBatches(
            self._data,
            self._options.batch_size,
            self._options.seed,
            lambda: self.current_epoch,
            trainer.global_rank,
            trainer.world_size,
            self._repeats,
        )

    def val_dataloader(self) -> Any:
        """Return all validation images: every process looks at all of them, so that all choose the same epoch."""
        return [] if self._validation is None else OrderedBatches(self._validation, self._options.batch_size)

    def transfer_batch_to_device(self, batch: ImageBatch, device: torch.device, _loader: int) -> ImageBatch:
        """Move a batch, bytes as it is, where the network is."""
        return batch.to(device)

    # ------------------------------------------------------------------ training

    def on_train_epoch_start(self) -> None:
        """Begin an epoch with its own chance, and with the stages that may learn in it."""
        options, process = self._options, self.trainer.global_rank
        torch.manual_seed(epoch_seed(options.seed, self.current_epoch, NETWORK, process))
        self._generator = torch.Generator(self.device)
        self._generator.manual_seed(epoch_seed(options.seed, self.current_epoch, AUGMENTATION, process))
        self._freeze()
        self._losses.clear()
        self._epoch_started = time.monotonic()

    def training_step(self, batch: ImageBatch, _index: int) -> Tensor:
        """Return the loss of one batch of augmented images."""
        images, regions = augment_with_regions(batch.pixels, batch.regions, self._options.augmentation, self._generator)
        if (side := self._side()) < images.shape[-1]:
            images = F.interpolate(images, size=(side, side), mode="area")
        scores = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = self._loss(scores.logits, batch.targets)
        self._losses.append(self._require_number(float(loss.detach())))
        self._rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        if regions.shape[1]:
            misplaced = self.region_loss(scores.cams.float(), regions, batch.located, images.shape[-1])
            loss = loss + self._options.region_weight * misplaced
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Say how far it is, and average the weights after a step; between two batches is a safe point to stop."""
        if self.averaged is not None and self.trainer.global_step != self._averaged_at:
            self.averaged.update_parameters(self.network)
            self._averaged_at = self.trainer.global_step
        self._trained_until = time.monotonic()
        batches = int(self.trainer.num_training_batches)
        epoch, epochs = self.current_epoch + 1, self._options.epochs
        step = self.current_epoch * batches + len(self._losses)
        loss, seconds = sum(self._losses) / len(self._losses), self._trained_until - self._started
        self._listener.step(TrainingProgress(step, epochs * batches, epoch, epochs, loss, seconds))
        self._stop_if_asked()

    def on_train_epoch_end(self) -> None:
        """Write down what the epoch came to."""
        figures = self._figures()
        self.epochs.append(figures)
        if self._plateau is not None:
            self._plateau.step(-figures.score if figures.val_loss is None else figures.val_loss)
        self.log(SCORE, figures.score)
        for logger in self.loggers:
            logger.log_metrics(_scalars(figures), step=figures.epoch)
        self._listener.epoch(figures)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule, as Lightning takes them."""
        optimizer = make_optimizer(self.network, self.region_loss.parameters(), self._options)
        if self._options.schedule == "plateau":
            losses = [-epoch.score if epoch.val_loss is None else epoch.val_loss for epoch in self.epochs]
            self._plateau = make_plateau(optimizer, losses)
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": make_schedule(optimizer, self._options, steps)}

    # ------------------------------------------------------------------ validation

    def validation_step(self, batch: ImageBatch, _index: int) -> None:
        """Score validation images, at their full size and as they are."""
        network = self.kept_network
        logits = network(batch.pixels.contiguous(memory_format=torch.channels_last)).logits.float()
        self._validated.append((logits, batch.targets))

    def on_validation_batch_end(self, *_: Any) -> None:
        """Stop here too: only this epoch is lost, and validation may take long."""
        self._stop_if_asked()

    def on_validation_epoch_end(self) -> None:
        """Measure the loss and every label's AUROC over all validation images."""
        logits, targets = (torch.cat(parts) for parts in zip(*self._validated, strict=True))
        self._validated.clear()
        self._val_loss = self._require_number(float(self._loss(logits, targets)))
        # Between classes an image's logits say nothing until they are set against each other.
        scores = logits.softmax(dim=1) if self.network.task == "multiclass" else logits
        self._aurocs = measure_aurocs(targets.cpu().numpy(), scores.cpu().numpy())

    # ------------------------------------------------------------------ interruption

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epochs so far in the state, as JSON: a state holds no objects."""
        checkpoint[_EPOCHS_KEY] = msgspec.json.encode(self.epochs).decode()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the epochs so far out of the state."""
        self.epochs = msgspec.json.decode(checkpoint[_EPOCHS_KEY], type=list[EpochFigures])

    # ------------------------------------------------------------------ parts

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.label_loss(logits.float(), targets, classes=self.network.task == "multiclass")
        return loss

    def _require_number(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise Diverged(self.current_epoch + 1)
        return loss

    def _stop_if_asked(self) -> None:
        stop_together(self.trainer)

    def _freeze(self) -> None:
        """Hold the first stages still, normalisation included, until they may learn too."""
        options = self._options
        frozen = options.freeze > 0 and not 0 < options.unfreeze_after <= self.current_epoch
        for module in (module for stage in self.network.stages()[: options.freeze] for module in stage):
            module.requires_grad_(not frozen).train(not frozen)

    def _side(self) -> int:
        """Return the side at which images are seen in this epoch."""
        options, side = self._options, int(self._data.pixels.shape[-1])
        return round(side * options.small_scale) if self.current_epoch < options.small_epochs else side

    def _figures(self) -> EpochFigures:
        images = len(self._losses) * self._options.batch_size * self.trainer.world_size
        training_s = self._trained_until - self._epoch_started
        return EpochFigures(
            epoch=self.current_epoch + 1,
            seconds=round(time.monotonic() - self._epoch_started, 3),
            size_px=self._side(),
            learning_rate=self._rate,
            loss=sum(self._losses) / len(self._losses),
            images_per_s=round(images / training_s, 2),
            val_loss=self._val_loss,
            val_auroc=average_over_labels(list(self._aurocs)),
            label_auroc=self._aurocs,
        )


def stop_together(trainer: lightning.Trainer) -> None:
    """Stop if asked; of several processes all in the same place, or the others would wait for ever.

    Raises:
        Stopped: a signal asked for it, here or in another process.
    """
    if trainer.world_size == 1:
        stop_if_asked()
    elif trainer.strategy.reduce_boolean_decision(stop_was_asked(), all=False):
        stop_if_asked()
        raise Stopped(signal.SIGTERM)


def _averaging(network: ChestNetwork, decay: float) -> AveragedModel:
    """Return the moving average of a network's weights and normalisation; the first steps soon count no more."""

    def average(averaged: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        return averaged.lerp(now, share) if averaged.is_floating_point() else now

    return AveragedModel(network, avg_fn=average, use_buffers=True).requires_grad_(False)


def _scalars(figures: EpochFigures) -> dict[str, float]:
    names = ("loss", "val_loss", "val_auroc", "learning_rate", "images_per_s")
    return {name: getattr(figures, name) for name in names if getattr(figures, name) is not None}
