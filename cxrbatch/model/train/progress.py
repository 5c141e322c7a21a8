"""The records of how a training goes, batch by batch and epoch by epoch, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cxrbatch.model.data.image_pixels import ReportProgress


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a training stands after a batch; `loss` is the mean over the epoch so far."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class EpochFigures:
    """What one epoch came to: a row of epochs.csv.

    `learning_rate` is that of its last step, `images_per_s` counts training only, `size_px` is the side at
    which images were seen. `val_loss`, `val_auroc` (macro) and `label_auroc` are None where not measured.
    """

    epoch: int
    seconds: float
    size_px: int
    learning_rate: float
    loss: float
    images_per_s: float
    val_loss: float | None = None
    val_auroc: float | None = None
    label_auroc: tuple[float | None, ...] = ()

    @property
    def score(self) -> float:
        """What epochs are compared by: the macro AUROC on validation images, or minus the loss where none is told."""
        minus_loss = -(self.loss if self.val_loss is None else self.val_loss)
        return minus_loss if self.val_auroc is None else self.val_auroc

    def in_words(self) -> str:
        """Say what came of the epoch in a line."""
        validated = "" if self.val_loss is None else f", validation loss {self.val_loss:.3f}"
        auroc = "" if self.val_auroc is None else f", AUROC {self.val_auroc:.3f}"
        return f"epoch {self.epoch}: loss {self.loss:.3f}{validated}{auroc}, {self.seconds:.0f} s at {self.size_px} px"


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens: sentences, images that are ready, every batch, every epoch."""

    say: Callable[[str], None] = lambda _: None
    images: ReportProgress = lambda _done, _all: None
    step: Callable[[TrainingProgress], None] = lambda _: None
    epoch: Callable[[EpochFigures], None] = lambda _: None


NOBODY = Listener()
