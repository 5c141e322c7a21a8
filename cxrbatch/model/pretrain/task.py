"""One pretraining of a feature extractor, as Lightning runs it."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning
import msgspec
import torch
from torch import Tensor

from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.pretrain.record import PretrainingEpoch
from cxrbatch.model.pretrain.simsiam import SimSiam
from cxrbatch.model.pretrain.views import draw_views
from cxrbatch.model.train.image_batches import AUGMENTATION, ImageBatch, ShuffledBatches, epoch_seed
from cxrbatch.model.train.optimisation import make_optimizer, make_schedule
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.record import NOBODY, Listener, TrainingProgress
from cxrbatch.model.train.task import Diverged, stop_together

_EPOCHS_KEY = "cxrbatch_pretraining_epochs"


class PretrainingTask(lightning.LightningModule):
    """One optimisation of the network's features; its head stays as it is.

    All chance is drawn from the seed and the number of the epoch, as in `TrainingTask`.
    """

    def __init__(
        self, network: ChestNetwork, data: PixelSet, options: TrainingOptions, *, listener: Listener = NOBODY
    ) -> None:
        super().__init__()
        self.network = network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.method = SimSiam(network.head.in_features)
        self.epochs: list[PretrainingEpoch] = []
        self._data, self._options, self._listener = data, options, listener
        self._seen: list[tuple[float, float, float]] = []
        self._generator = torch.Generator()
        self._rate = options.learning_rate
        self._started = self._epoch_started = time.monotonic()

    # ------------------------------------------------------------------ data

    def train_dataloader(self) -> ShuffledBatches:
        """Return this process's share of the batches."""
        trainer, options = self.trainer, self._options
        return ShuffledBatches(
            self._data,
            options.batch_size,
            options.seed,
            lambda: self.current_epoch,
            trainer.global_rank,
            trainer.world_size,
        )

    def transfer_batch_to_device(self, batch: ImageBatch, device: torch.device, _loader: int) -> ImageBatch:
        """Move a batch, bytes as it is, where the network is."""
        return batch.to(device)

    # ------------------------------------------------------------------ learning

    def on_train_epoch_start(self) -> None:
        """Begin an epoch with its own chance."""
        self._generator = torch.Generator(self.device)
        process = self.trainer.global_rank
        self._generator.manual_seed(epoch_seed(self._options.seed, self.current_epoch, AUGMENTATION, process))
        self._seen.clear()
        self._epoch_started = time.monotonic()

    def training_step(self, batch: ImageBatch, _index: int) -> Tensor:
        """Return the loss of two views of a batch."""
        one, other = (self._pooled(view) for view in draw_views(batch.pixels, self._generator))
        agreement = self.method(one, other)
        loss, spread, recognised = (float(value.detach()) for value in agreement)
        if not (math.isfinite(loss) and math.isfinite(spread)):
            raise Diverged(self.current_epoch + 1)
        self._seen.append((loss, spread, recognised))
        self._rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        returned: Tensor = agreement.loss
        return returned

    def on_train_batch_end(self, *_: Any) -> None:
        """Say how far it is; between two batches is a safe point to stop."""
        batches = int(self.trainer.num_training_batches)
        epoch, epochs = self.current_epoch + 1, self._options.epochs
        step, seconds = self.current_epoch * batches + len(self._seen), time.monotonic() - self._started
        self._listener.step(TrainingProgress(step, epochs * batches, epoch, epochs, self._mean(0), seconds))
        stop_together(self.trainer)

    def on_train_epoch_end(self) -> None:
        """Write down what the epoch came to."""
        seconds = time.monotonic() - self._epoch_started
        images = len(self._seen) * self._options.batch_size * self.trainer.world_size
        figures = PretrainingEpoch(
            epoch=self.current_epoch + 1,
            seconds=round(seconds, 3),
            learning_rate=self._rate,
            loss=self._mean(0),
            spread=self._mean(1),
            recognised=self._mean(2),
            images_per_s=round(images / max(seconds, 1e-9), 2),
        )
        self.epochs.append(figures)
        if self.logger is not None:
            names = ("loss", "spread", "recognised", "learning_rate")
            self.logger.log_metrics({name: getattr(figures, name) for name in names}, step=figures.epoch)
        self._listener.say(figures.in_words())

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule, as Lightning takes them."""
        optimizer = make_optimizer(self, (), self._options)
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": make_schedule(optimizer, self._options, steps)}

    # ------------------------------------------------------------------ interruption

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epochs so far in the state, as JSON: a state holds no objects."""
        checkpoint[_EPOCHS_KEY] = msgspec.json.encode(self.epochs).decode()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the epochs so far out of the state."""
        self.epochs = msgspec.json.decode(checkpoint[_EPOCHS_KEY], type=list[PretrainingEpoch])

    # ------------------------------------------------------------------ parts

    def _pooled(self, view: Tensor) -> Tensor:
        features = self.network.feature_map(view.contiguous(memory_format=torch.channels_last))
        return self.network.pooled(features)

    def _mean(self, column: int) -> float:
        return sum(seen[column] for seen in self._seen) / max(1, len(self._seen))
