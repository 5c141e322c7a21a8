"""The records of a pretraining: what was asked for, what an epoch came to, what pretraining.json holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from cxrbatch.model.network.pretraining_file import PretrainingFacts
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.records import Fit

# From scratch a small archive has to be seen often: what 600 steps teach with labels takes more without.
MIN_STEPS, MIN_EPOCHS, USUAL_BATCH = 2000, 10, 32
# Chen and He 2021, section 4: the rate of SGD for a batch of 256, in proportion for others.
RATE_OF_256, WEIGHT_DECAY = 0.05, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingPlan:
    """What `cxrbatch pretrain` is asked for.

    `training` says how steps are taken; epochs, batch size of 0 are settled by how many images there are, and
    `learning_rate` None by the batch size. `init`, `resume`, `workers` and `patient_pattern` are as for `train`.
    """

    training: TrainingOptions = field(default_factory=lambda: TrainingOptions(epochs=0, batch_size=0))
    learning_rate: float | None = None
    architecture: str = "resnet50"
    init: str = "none"
    size_px: int = 224
    fit: Fit = "pad"
    patient_pattern: str = ""
    resume: bool = False
    workers: int = 0


@dataclass(frozen=True, slots=True)
class PretrainingEpoch:
    """What one epoch came to: a row of epochs.csv.

    `loss`, `spread` and `recognised` are means over its batches (`cxrbatch.model.pretrain.simsiam.Agreement`).
    """

    epoch: int
    seconds: float
    learning_rate: float
    loss: float
    spread: float
    recognised: float
    images_per_s: float

    def in_words(self) -> str:
        """Say what came of the epoch in a line."""
        return (
            f"epoch {self.epoch}: loss {self.loss:.3f}, recognised {self.recognised:.0%}, spread of embeddings "
            f"{self.spread:.2f}, {self.seconds:.0f} s"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingRun:
    """Everything that pretraining.json holds: the weights' facts, and every epoch."""

    weights: str
    folder: str
    files: int
    facts: PretrainingFacts
    epochs: tuple[PretrainingEpoch, ...]
    cxrbatch_version: str
