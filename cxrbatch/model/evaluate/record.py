"""The record of one evaluation: what metrics.json holds and the report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrbatch.model.evaluate.doubts import Shortcut
from cxrbatch.model.evaluate.localisation import PointingFigures
from cxrbatch.model.evaluate.worklist import WorklistFigures
from cxrbatch.model.figures.figures import MeasuredLabels, SubgroupFigures
from cxrbatch.records import EngineDescription

SCHEMA = 1

Severity = Literal["void", "doubtful", "note"]


@dataclass(frozen=True, slots=True)
class Caution:
    """Why the figures may say less than they seem to.

    "void": they say nothing about new patients. "doubtful": a shortcut explains them as well. "note": a limit.
    """

    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class EvaluatedData:
    """Which images were evaluated: `split` is a part of the data, or "all"; `refused` counts them by reason.

    `patients` counts those who are known, `of_unknown` the images of which nobody knows whose they are. `chosen_by`
    tells that some of these images also chose the model's epoch, calibration and operating points.
    """

    root: str
    layout: str
    sha256: str
    split: str
    images: int
    patients: int
    refused: dict[str, int]
    of_unknown: int = 0
    chosen_by: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured. Intervals are 95 %, from `resamples` over patients drawn with `seed`.

    `model_place` is where the model lay: a checkpoint, or an engine's folder. `worklist` is what a run would make of
    these studies; None where nothing is known of a whole study, or an earlier version evaluated.
    """

    model: EngineDescription
    data: EvaluatedData
    measured: MeasuredLabels
    subgroups: tuple[SubgroupFigures, ...]
    shortcuts: tuple[Shortcut, ...]
    pointing: tuple[PointingFigures, ...]
    cautions: tuple[Caution, ...]
    resamples: int
    seed: int
    evaluated_at: str
    cxrbatch_version: str
    schema: int = SCHEMA
    model_place: str = ""
    worklist: WorklistFigures | None = None
