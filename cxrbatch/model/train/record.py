"""The records of a training: what was asked for, how it goes, and what training.json holds and its report shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.figures.alarms import Alarms
from cxrbatch.model.figures.figures import MeasuredLabels
from cxrbatch.model.figures.operating_points import OperatingPointRule
from cxrbatch.model.network.checkpoint import CheckpointFacts
from cxrbatch.model.train.calibration import Calibration
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.records import Fit, Pooling


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


SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What `cxrbatch train` is asked for.

    `architecture`: "" is what `init` holds, or what is usual for so many images (`find_init`, `usual_architecture`).
    `init`: none, imagenet, or a file with weights. `learning_rate`: None takes the optimiser's usual one, and
    `small_epochs`: None what is usual for so many images. `flip` mirrors every other image or none; None: what is usual
    for so many images, where they are augmented at all. `resume` goes on where an interrupted training of the same
    plan stopped. `workers` processes read images; 0 takes one per core. `urgent` names the labels whose finding makes a
    study urgent. `ensemble` makes one checkpoint of all folds. `output_stride`: None is 32, and training on large
    images says that there is 16. `boxes` and `masks` mark findings on training images (`cxrbatch.model.data.regions`).
    `log`: where figures go beside TensorBoard's files, mlflow or mlflow=URI.
    """

    data: DataOptions = field(default_factory=DataOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    learning_rate: float | None = None
    small_epochs: int | None = None
    flip: bool | None = None
    architecture: str = ""
    init: str = "none"
    size_px: int = 224
    fit: Fit = "pad"
    output_stride: int | None = None
    pooling: Pooling = "average"
    operating_point: OperatingPointRule = field(default_factory=OperatingPointRule)
    resume: bool = False
    ensemble: bool = False
    workers: int = 0
    urgent: tuple[str, ...] = ()
    boxes: Path | None = None
    masks: Path | None = None
    log: str = ""


@dataclass(frozen=True, slots=True)
class TrainingPart:
    """One part of the data as the training saw it; `positives` counts images with each label, in their order.

    `patients` counts those who are known, `of_unknown` the images of nobody knows whom.
    """

    name: str
    images: int
    patients: int
    positives: tuple[int, ...]
    unknown: tuple[int, ...]
    of_unknown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One trained network: everything that training.json holds.

    `facts` is what the checkpoint says of itself (labels with operating points, options, provenance). `kept` is
    the epoch whose weights it holds: the best on the validation images, or the last. `measured` are the figures on
    those images, which also chose the calibration, the operating points and perhaps the epoch: they promise a little
    too much. `alarms` is what operating points chosen for a rate of alarms come to; None where another rule chose them.
    `interrupted` tells that a signal ended the training before its last epoch. `fold` counts from 1; 0: no folds.
    """

    checkpoint: str
    data: str
    layout: str
    data_sha256: str
    parts: tuple[TrainingPart, ...]
    notes: tuple[str, ...]
    leaks: tuple[str, ...]
    facts: CheckpointFacts
    operating_point_rule: str
    calibration: Calibration
    epochs: tuple[EpochFigures, ...]
    kept: int
    measured: MeasuredLabels
    resamples: int
    interrupted: bool
    seconds: float
    fold: int = 0
    alarms: Alarms | None = None
    trained_at: str
    cxrbatch_version: str
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the folds: its mean and the standard deviation between folds (n - 1)."""

    mean: float
    deviation: float
    folds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """All networks that one command trained: one, or one per fold with the spread of their figures.

    `chosen` is the place of the run whose checkpoint is the command's: of folds, the one in the middle, so that
    its figures promise neither too much nor too little. `spread` is keyed by figure, as `TrainingFacts.figures`.
    `cross_fitted` is what the checkpoint of folds says of itself: the chosen network with the calibration and the
    operating points that the images of all folds chose. The runs beside it are judged by what other folds chose.
    Where the command's checkpoint is the `ensemble` of all folds, `chosen` only says which one lies in the middle.
    """

    runs: tuple[TrainingRun, ...]
    chosen: int
    spread: dict[str, Spread] = field(default_factory=dict)
    ensemble: bool = False
    cross_fitted: TrainingRun | None = None

    @property
    def shown(self) -> TrainingRun:
        """What the command's checkpoint says of itself."""
        return self.cross_fitted or self.runs[self.chosen]
