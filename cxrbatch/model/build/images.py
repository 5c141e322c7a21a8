"""The images that a build looks at, for its gate and for INT8: labelled data where there are any, else phantoms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.engine.manifest import Manifest
from cxrbatch.errors import UsageError
from cxrbatch.intake.preprocess import fit_image
from cxrbatch.model.build.gate import MIN_IMAGES, ParityImages
from cxrbatch.model.data.dataset import PixelSet, load_data, prepare_pixels
from cxrbatch.model.data.labelled import spread, take_targets
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.network.checkpoint import CheckpointFacts
from cxrbatch.phantom import FINDINGS, draw_phantom, windowed
from cxrbatch.records import Gray8, InputSpec

GATE_IMAGES = 128
"""The most images that a gate looks at: an FP16 graph runs slowly on a CPU."""

CALIBRATION_IMAGES = 128
VALIDATION_IMAGES = 2000
_PHANTOMS_JUDGED = 240

# Phantoms of their own for each use, and large enough for what is asked of them.
_GATE_SEED, _GATE_PX = 640_000_000, 128
_INT8_SEED, _INT8_PX = 650_000_000, 160


def draw_gate_images(facts: CheckpointFacts | Manifest) -> ParityImages:
    """Draw phantoms: images that any checkpoint can be asked about, the same each time."""
    return ParityImages(_draw_for_gate(MIN_IMAGES, facts.input), "phantoms")


def read_gate_images(
    data: Path, options: DataOptions, facts: CheckpointFacts, *, report: ReportProgress | None = None
) -> ParityImages:
    """Take images of the part val of labelled data, spread over all; phantoms fill up what is missing to 64.

    Raises:
        UsageError: the data cannot be used.
    """
    images = load_data(data, options)
    judging = spread(images.part("val"), GATE_IMAGES)
    pixels = prepare_pixels(judging, facts.input, report=report).pixels
    source = f"validation images of {images.root.name}"
    if missing := max(0, MIN_IMAGES - len(judging)):
        pixels = np.concatenate([pixels, _draw_for_gate(missing, facts.input)])
        source = f"images ({len(judging)} {source}, {missing} phantoms)"
    return ParityImages(pixels, source)


@dataclass(frozen=True, slots=True)
class Int8Images:
    """What an INT8 engine is made with: `calibration` uint8 [N,1,S,S], and `judged`, which the gate looks at.

    `judged.targets` float32 [N,C] follow the checkpoint's labels; nan where nobody knows, so that images without
    any label still tell how far probabilities move. `source` says in words what they are.
    """

    calibration: Gray8
    judged: PixelSet
    source: str


def read_int8_images(
    data: Path, options: DataOptions, facts: CheckpointFacts, *, report: ReportProgress | None = None
) -> Int8Images:
    """Take images of labelled data: its part train calibrates, its part val judges.

    Raises:
        UsageError: the data cannot be used, or knows none of the checkpoint's labels.
    """
    images = load_data(data, options)
    names = [label.name for label in facts.labels]
    if not set(names) & set(images.labels):
        raise UsageError(
            f"{data}: has none of the checkpoint's labels. It knows {', '.join(images.labels)}; the checkpoint "
            f"{', '.join(names)}. Name them alike, or make one label with --binary."
        )
    calibration = spread(images.part("train"), CALIBRATION_IMAGES)
    judged = spread(images.part("val"), VALIDATION_IMAGES)
    pixels = prepare_pixels((*calibration, *judged), facts.input, report=report).pixels
    return Int8Images(
        pixels[: len(calibration)],
        PixelSet(pixels[len(calibration) :], take_targets(judged, images.labels, names, missing=np.nan)),
        f"validation images of {images.root.name}",
    )


def draw_int8_images(facts: CheckpointFacts | Manifest) -> Int8Images:
    """Draw phantoms; they judge what a checkpoint knows only where it learned from phantoms itself."""
    calibration, _ = _draw(_INT8_SEED, CALIBRATION_IMAGES, facts.input, smallest_px=_INT8_PX)
    pixels, found = _draw(_INT8_SEED + CALIBRATION_IMAGES, _PHANTOMS_JUDGED, facts.input, smallest_px=_INT8_PX)
    targets = np.full((len(pixels), len(facts.labels)), np.nan, np.float32)
    if facts.training.data.startswith("phantoms"):
        for column, label in enumerate(facts.labels):
            if label.name in FINDINGS:
                targets[:, column] = [label.name in findings for findings in found]
    return Int8Images(calibration, PixelSet(pixels, targets), "phantoms")


def _draw_for_gate(count: int, spec: InputSpec) -> Gray8:
    return _draw(_GATE_SEED, count, spec, smallest_px=_GATE_PX)[0]


def _draw(first_seed: int, count: int, spec: InputSpec, *, smallest_px: int) -> tuple[Gray8, list[tuple[str, ...]]]:
    """Draw phantoms, at least `smallest_px` high and wide: pixels uint8 [N,1,S,S], and what each of them shows."""
    rows = max(smallest_px, spec.size_px)
    phantoms = [draw_phantom(seed, rows=rows) for seed in range(first_seed, first_seed + count)]
    images = (windowed(phantom) for phantom in phantoms)
    pixels = np.stack([fit_image(image, spec, *image.shape)[0] for image in images])
    return pixels, [phantom.findings for phantom in phantoms]
