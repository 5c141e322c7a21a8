"""The images that an INT8 engine is calibrated and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.errors import UsageError
from cxrbatch.intake.preprocess import fit_image
from cxrbatch.model.network.checkpoint import CheckpointFacts
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.dataset import PixelSet, load_data, prepare_pixels
from cxrbatch.model.data.image_pixels import ReportProgress
from cxrbatch.model.data.labelled import LabelledImages, Sample, spread
from cxrbatch.phantom import FINDINGS, draw_phantom, windowed
from cxrbatch.records import Float32, Gray8, InputSpec

CALIBRATION_IMAGES = 128
VALIDATION_IMAGES = 2000
_PHANTOMS_JUDGED = 240
_PHANTOM_SEED = 650_000_000
_PHANTOM_PX = 160


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
        PixelSet(pixels[len(calibration) :], _targets(names, images, judged)),
        f"validation images of {images.root.name}",
    )


def draw_int8_images(facts: CheckpointFacts) -> Int8Images:
    """Draw phantoms; they judge what a checkpoint knows only where it learned from phantoms itself."""
    calibration, _ = _draw(_PHANTOM_SEED, CALIBRATION_IMAGES, facts.input)
    pixels, found = _draw(_PHANTOM_SEED + CALIBRATION_IMAGES, _PHANTOMS_JUDGED, facts.input)
    targets = np.full((len(pixels), len(facts.labels)), np.nan, np.float32)
    if facts.training.data.startswith("phantoms"):
        for column, label in enumerate(facts.labels):
            if label.name in FINDINGS:
                targets[:, column] = [label.name in findings for findings in found]
    return Int8Images(calibration, PixelSet(pixels, targets), "phantoms")


def _draw(first_seed: int, count: int, spec: InputSpec) -> tuple[Gray8, list[tuple[str, ...]]]:
    rows = max(_PHANTOM_PX, spec.size_px)
    phantoms = [draw_phantom(seed, rows=rows) for seed in range(first_seed, first_seed + count)]
    images = (windowed(phantom) for phantom in phantoms)
    pixels = np.stack([fit_image(image, spec, *image.shape)[0] for image in images])
    return pixels, [phantom.findings for phantom in phantoms]


def _targets(names: Sequence[str], images: LabelledImages, samples: Sequence[Sample]) -> Float32:
    given = np.array([sample.targets for sample in samples], np.float32)
    targets = np.full((len(samples), len(names)), np.nan, np.float32)
    for column, name in enumerate(names):
        if name in images.labels:
            targets[:, column] = given[:, images.labels.index(name)]
    return targets
