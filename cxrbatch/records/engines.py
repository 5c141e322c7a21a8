"""What an engine wants to see, what it knows, what it says, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cxrbatch.records.images import Float32, Gray8, Radiograph

Task = Literal["multilabel", "binary", "multiclass"]
Fit = Literal["pad", "crop", "stretch"]
Priority = Literal["urgent", "abnormal", "incomplete", "normal", "unscored"]
VerdictRule = Literal["threshold", "argmax"]


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
    """Which engine scored, where it ran and what it knows; printed in every report."""

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

    @property
    def verdict_rule(self) -> VerdictRule:
        """How its probabilities become findings."""
        return self.verdict or usual_rule(self.task, self.labels)


def usual_rule(task: Task, labels: Sequence[Label]) -> VerdictRule:
    """Return the rule of verdict of a task: classes that exclude each other are told apart by the likeliest one.

    It is also the rule of engines and results that were written before they said which theirs is.
    """
    return "argmax" if task == "multiclass" and len(labels) > 1 else "threshold"
