"""What an engine wants to see, what it knows, what it says, and the verdict that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from cxrbatch.records.images import Float32, Gray8, Radiograph

Task = Literal["multilabel", "binary", "multiclass"]
Fit = Literal["pad", "crop", "stretch"]
Priority = Literal["urgent", "abnormal", "normal", "unscored"]


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
    """

    probabilities: Float32
    logits: Float32
    cams: Float32


@dataclass(frozen=True, slots=True)
class Label:
    """One finding that an engine scores.

    `operating_point` is the probability from which on the finding is called positive; None: no verdict.
    `normal` marks a class that means "nothing found" (binary and multi-class tasks).
    `metrics` holds what the evaluation measured, e.g. {"auroc": 0.91}.
    """

    name: str
    operating_point: float | None = 0.5
    urgent: bool = False
    normal: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    def is_positive(self, probability: float) -> bool:
        """Tell whether this probability calls the finding; never without an operating point."""
        return self.operating_point is not None and probability >= self.operating_point


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """Which engine scored, where it ran and what it knows; printed in every report.

    `cells` says where the maps' cells lie in the input square; None: they divide it evenly.
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
    cells: CellGrid | None = None


def positive_labels(labels: tuple[Label, ...], probabilities: tuple[float, ...]) -> tuple[Label, ...]:
    """Return the labels whose probability reaches their operating point, in the engine's order."""
    return tuple(
        label for label, probability in zip(labels, probabilities, strict=True) if label.is_positive(probability)
    )


def priority_of(labels: tuple[Label, ...], probabilities: tuple[float, ...]) -> Priority:
    """Return the priority that these probabilities give a scored study.

    An engine without any operating point gives no verdict, so nothing that it scores is called normal.
    """
    if all(label.operating_point is None for label in labels):
        return "unscored"
    findings = [label for label in positive_labels(labels, probabilities) if not label.normal]
    if any(label.urgent for label in findings):
        return "urgent"
    return "abnormal" if findings else "normal"
