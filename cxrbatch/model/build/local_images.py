"""Local labelled images that an engine is adjusted to: where they are, and what the engine says of them.

Start at `score_locally`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from cxrbatch.config import Settings
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.model.data.labelled import Sample, take_targets
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.data.regions import read_boxes_of
from cxrbatch.model.evaluate.boxed_maps import check_boxed_maps
from cxrbatch.model.evaluate.doubts import find_overlap
from cxrbatch.model.evaluate.evaluate import (
    ALL_PARTS,
    EvaluationOptions,
    describe_part,
    match_labels,
    read_split_data,
    with_boxes,
)
from cxrbatch.model.evaluate.scoring import score_images
from cxrbatch.model.network.shuffled import shuffled_maps_of_bundle
from cxrbatch.records import Float32, MapCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalData:
    """Local labelled images: where, how they are read, which part of them is taken, and a table of boxes on them."""

    place: Path
    options: DataOptions = field(default_factory=DataOptions)
    split: str = ALL_PARTS
    settings: Settings = field(default_factory=Settings)
    boxes: Path | None = None


@dataclass(frozen=True, slots=True)
class LocalImages:
    """What an engine says of N local images beside the truth, both float32 [N,C] in the engine's order.

    `logits` are before calibration; `targets` 0, 1, or nan where unknown. `cautions` say, in sentences, why the
    figures may tell too much. `maps` says of the labels that have boxes what a check of their maps found.
    """

    name: str
    samples: tuple[Sample, ...]
    logits: Float32
    targets: Float32
    cautions: tuple[str, ...] = ()
    maps: dict[str, MapCheck] = field(default_factory=dict)

    @property
    def patients(self) -> tuple[str, ...]:
        """Who is on each image."""
        return tuple(sample.patient for sample in self.samples)

    def part(self, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> LocalImages:
        """Return some of the images, bool [N]."""
        kept = tuple(sample for sample, keep in zip(self.samples, rows.tolist(), strict=True) if keep)
        return LocalImages(self.name, kept, self.logits[rows], self.targets[rows], self.cautions)


def score_locally(bundle: EngineBundle, data: LocalData, report: ReportProgress) -> LocalImages:
    """Score local images with the engine's FP32 file.

    Raises:
        UsageError: they cannot be used, or know none of the engine's labels.
    """
    wanted = EvaluationOptions(split=data.split, data=data.options, resamples=0, settings=data.settings)
    found, _ = read_split_data(data.place, wanted)
    samples = found.samples if data.split == ALL_PARTS else found.part(data.split)
    boxes = read_boxes_of(found, data.boxes) if data.boxes is not None else {}
    engine = OnnxRuntimeEngine(bundle, threads=data.settings.threads)
    try:
        match_labels(engine.description, found)
        images = score_images(engine, samples, data.settings, keep_maps=with_boxes(boxes), report=report)
    finally:
        engine.close()
    exclusive = bundle.manifest.task == "multiclass"
    names = [label.name for label in bundle.labels]
    targets = take_targets(images.samples, found.labels, names, missing=0.0 if exclusive else np.nan)
    if exclusive:
        targets[np.nan_to_num(targets).sum(axis=1) != 1] = np.nan
    overlap = find_overlap(images.samples, found, bundle.manifest.training)
    refused = (f"{len(images.refused)} images could not be scored.",) if images.refused else ()
    draw_shuffled = partial(shuffled_maps_of_bundle, bundle, threads=data.settings.threads)
    places = {name: place for place, name in enumerate(names)}
    checks = check_boxed_maps(images, places, boxes, draw_shuffled, describe_part(found, data.split))
    cautions = (*overlap, *found.leaks, *refused)
    return LocalImages(found.root.name, images.samples, images.logits, targets, cautions, checks)
