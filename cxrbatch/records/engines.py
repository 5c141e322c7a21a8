"""What an engine wants to see, what it knows, what it says, and the verdict that follows."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cxrbatch.records.images import Float32, Gray8, Radiograph
from cxrbatch.records.maps import MapCheck

Task = Literal["multilabel", "binary", "multiclass"]
ExtraOutput = Literal["disagreement", "distance"]
FEWEST_IMAGES = 10
"""Fewer images than this with a finding, or without it, are too few to measure how well it is ranked.

One image that happens to lie above fourteen others is an AUROC of 0.93, and says next to nothing: with 10 against 10,
the standard error of an AUROC of 0.9 is still 0.07 (Hanley and McNeil 1982).
"""

Fit = Literal["pad", "crop", "stretch"]
FEWEST_PATIENTS = 5
"""Fewer patients with a finding, or without it, are too few to measure how well it is ranked at all.

As many as have to speak for an operating point.
"""

Priority = Literal["urgent", "abnormal", "incomplete", "normal", "unscored"]
VerdictRule = Literal["threshold", "argmax"]
Pooling = Literal["average", "attention"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What an engine wants to see: a square of `size_px`, and how a radiograph is fitted into it."""

    size_px: int
    fit: Fit = "pad"
    mean: float = 0.5
    std: float = 0.25
    preprocess_version: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """What one image is as an array: [1,S,S]."""
        return 1, self.size_px, self.size_px


@dataclass(frozen=True, slots=True)
class Geometry:
    """The affine map between stored pixels and the engine's square input.

    A point (x, y) in stored pixels, measured from the top left corner of the top left pixel, lies at
    (x * scale_x + offset_x, y * scale_y + offset_y) in the input square, also in pixels.
    """

    rows: int
    columns: int
    size_px: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float


@dataclass(frozen=True, slots=True)
class CellGrid:
    """Where the cells of a class activation map lie in the engine's input square, in its pixels.

    Cell (i, j) is centred at (origin_x + j * stride_x, origin_y + i * stride_y), measured from the top left corner of
    the top left pixel. Centres may leave a margin at the far side, or a rim all around.
    """

    origin_x: float
    origin_y: float
    stride_x: float
    stride_y: float

    def __post_init__(self) -> None:
        for name in ("origin_x", "origin_y", "stride_x", "stride_y"):
            # A whole number is written otherwise than the float that is read back: marks of results would differ.
            object.__setattr__(self, name, float(getattr(self, name)))
        numbers = (self.origin_x, self.origin_y, self.stride_x, self.stride_y)
        if not all(map(math.isfinite, numbers)) or min(self.stride_x, self.stride_y) <= 0:
            raise ValueError("cells must have finite origins, and strides greater than 0")


def even_cells(shape: tuple[int, ...], size_px: int) -> CellGrid:
    """Return the grid that divides the square evenly among the cells of a map [h,w]; for maps of unknown origin."""
    stride_y, stride_x = (size_px / cells for cells in shape)
    return CellGrid(stride_x / 2, stride_y / 2, stride_x, stride_y)


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A radiograph and what the engine eats of it: `pixels` is uint8 [1,S,S], 0..255, display polarity."""

    radiograph: Radiograph
    pixels: Gray8
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Scores:
    """What an engine says of N images (docs/design.md), all float32.

    `probabilities` [N,C] in 0..1, calibrated; `logits` [N,C] before calibration; `cams` [N,C,h,w],
    whose mean over h and w plus the head's bias equals the logits.
    Only of engines that name them among their `extra_outputs`: `disagreement` [N,C], the standard deviation of the
    probabilities that the members of an ensemble give, and `distance` [N], how far an image's features lie from those
    of the training images, 1 where the farthest hundredth of the validation images begins.
    """

    probabilities: Float32
    logits: Float32
    cams: Float32
    disagreement: Float32 | None = None
    distance: Float32 | None = None

    def one(self, image: int) -> Scores:
        """Return the scores of one image, as a batch of its own."""
        return Scores(*(None if part is None else part[image : image + 1] for part in self.parts()))  # type: ignore[arg-type]  # only the optional ones are None

    def parts(self) -> tuple[Float32 | None, ...]:
        """Return the arrays in the order of the fields; None for those that the engine does not give."""
        return self.probabilities, self.logits, self.cams, self.disagreement, self.distance


@dataclass(frozen=True, slots=True)
class Label:
    """One finding that an engine scores.

    `operating_point` is the probability from which on the finding is called positive (`verdicts`); None: no verdict.
    `normal` marks a class that means "nothing found" (binary and multi-class tasks).
    `metrics` holds what the evaluation measured, e.g. {"auroc": 0.91, "auroc_low": 0.85, "auroc_high": 0.95}, on
    `images_with` images that have the finding and `images_without` that have not; None where nobody wrote that down.
    `reference` are the engine's probabilities on the validation images: their quantiles from 0 to 1 in equal steps,
    rising; empty where not known. `maps` says whether anybody has checked its heatmaps, and what came of that; None:
    nobody has, so they are not validated.
    """

    name: str
    operating_point: float | None = 0.5
    urgent: bool = False
    normal: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    images_with: int | None = None
    images_without: int | None = None
    reference: tuple[float, ...] = ()
    maps: MapCheck | None = None

    @property
    def has_validated_maps(self) -> bool:
        """Tell whether a check found that its heatmaps point at the finding."""
        return self.maps is not None and self.maps.validated

    @property
    def has_too_few_images(self) -> bool:
        """Tell whether it is known that too few images stand behind its AUROC."""
        if self.images_with is None or self.images_without is None:
            return False
        return min(self.images_with, self.images_without) < FEWEST_IMAGES or "auroc" not in self.metrics

    def figure(self, name: str, rule: VerdictRule) -> float | None:
        """Return one of its metrics, such as "sensitivity_low"; None where it was not measured, or does not apply.

        An AUROC of too few images does not, nor what was measured at operating points before `argmax` decided.
        """
        is_ranking, is_old = name.startswith("auroc"), self.images_with is None
        if (is_ranking and self.has_too_few_images) or (not is_ranking and is_old and rule == "argmax"):
            return None
        return self.metrics.get(name)

    def rank(self, probability: float) -> float | None:
        """Return the share of the validation images, 0..1, that this probability lies above; None where not known.

        Between two quantiles it grows in a line; of images with the very same probability it counts none.
        """
        if not self.reference:
            return None
        steps = len(self.reference) - 1
        below = bisect_left(self.reference, probability)
        if below in {0, len(self.reference)}:
            return float(below > 0)
        low, high = self.reference[below - 1], self.reference[below]
        return (below - 1 + (probability - low) / (high - low)) / steps


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """Which engine scored, where it ran and what it knows; printed in every report.

    `cells` says where the maps' cells lie in the input square; None: they divide it evenly.
    `extra_outputs` are those of `Scores` that not every engine gives.
    `gate` says in words what the gate of an INT8 file measured; empty for other precisions, and in earlier versions.
    """

    name: str
    sha256: str
    backend: str
    precision: str
    architecture: str
    task: Task
    labels: tuple[Label, ...]
    input: InputSpec
    created: str = ""
    notice: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    verdict: VerdictRule | None = None
    cells: CellGrid | None = None
    extra_outputs: tuple[ExtraOutput, ...] = ()
    gate: str = ""

    @property
    def verdict_rule(self) -> VerdictRule:
        """How its probabilities become findings."""
        return self.verdict or usual_rule(self.task, self.labels)


def usual_rule(task: Task, labels: Sequence[Label]) -> VerdictRule:
    """Return the rule of verdict of a task: classes that exclude each other are told apart by the likeliest one.

    It is also the rule of engines and results that were written before they said which theirs is.
    """
    return "argmax" if task == "multiclass" and len(labels) > 1 else "threshold"
