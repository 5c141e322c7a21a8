"""What is kept of a training: in the checkpoint that came of it, and in engine.json of every engine made of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CHOOSING_PART = "val"
"""The part of the data whose images measure a training, and choose what no other part is kept aside for."""
CALIBRATION_PART = "calibration"
"""The part that may be kept aside for calibration and operating points."""
CHOICES = ("epoch", "calibration", "operating points")
"""What a training chooses on images that it did not learn from."""


@dataclass(frozen=True, slots=True)
class NoveltyFacts:
    """How the distance to the training images was fitted: on how many of them, along how many directions.

    Its threshold was set on `validation_images`, of which the share `validation_flagged` lies beyond it. `rule` is
    "quantile", or "log-normal" where these were too few for one in a hundred to be counted.
    """

    training_images: int
    validation_images: int
    directions: int
    rule: str
    validation_flagged: float


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the weights learned from, and how; kept in the checkpoint, copied to every bundle built of it.

    `images` counts per part of the data, e.g. {"train": 2000, "val": 400}. `recipe` identifies the data and
    the options: the same recipe gives the same weights. `options` are those of the training, by name.
    `figures` holds what was measured over all labels, e.g. {"macro_auroc": 0.97}, on the images that `measured_on`
    names, e.g. "val". `patients` identifies the patients of each part by a digest
    (`cxrbatch.model.data.labelled.patients_sha256`). `data_sha256` identifies the images, their labels and their
    parts. `init` says what the weights started from. `chosen_on` says which images made each of CHOICES, by the name of
    their part; a choice that nobody made is missing. Where it is empty, as earlier versions wrote it, the part val made
    all of them. `novelty` says how the distance to the training images was fitted; None where the
    engine tells none.
    """

    data: str = ""
    images: dict[str, int] = field(default_factory=dict)
    recipe: str = ""
    seed: int = 0
    seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    measured_on: str = ""
    data_sha256: str = ""
    init: str = ""
    novelty: NoveltyFacts | None = None
    chosen_on: dict[str, str] = field(default_factory=dict)

    @property
    def choosing_parts(self) -> tuple[str, ...]:
        """The parts whose images chose anything."""
        return tuple(dict.fromkeys(self.chosen_on.values())) or (CHOOSING_PART,)

    @property
    def chosen_by_the_measured(self) -> tuple[str, ...]:
        """Those of CHOICES that the images of the figures made."""
        made = self.chosen_on or dict.fromkeys(CHOICES, CHOOSING_PART)
        return tuple(choice for choice in CHOICES if made.get(choice) == self.measured_on and self.measured_on)

    @property
    def choices_in_words(self) -> str:
        """Name what the images of the figures chose, such as: the calibration and the operating points."""
        named = [f"the {choice}" for choice in self.chosen_by_the_measured]
        return " and ".join([*([", ".join(named[:-1])] if named[1:] else []), *named[-1:]])

    @property
    def figures_promise_too_much(self) -> bool:
        """Whether the images of the figures also chose the epoch, the calibration or the operating points."""
        return bool(self.figures and self.chosen_by_the_measured)
