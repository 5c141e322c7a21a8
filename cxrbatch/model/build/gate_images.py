"""The images that the gate of a build looks at: labelled data where there are any, else phantoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cxrbatch.intake.preprocess import fit_image
from cxrbatch.model.network.checkpoint import CheckpointFacts
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.dataset import load_data, prepare_pixels
from cxrbatch.model.data.image_pixels import ReportProgress
from cxrbatch.model.data.labelled import spread
from cxrbatch.model.build.parity import MIN_IMAGES, ParityImages
from cxrbatch.phantom import draw_phantom, windowed
from cxrbatch.records import Gray8, InputSpec

GATE_IMAGES = 128
"""The most images that a gate looks at: an FP16 graph runs slowly on a CPU."""

_SEED = 640_000_000


def draw_gate_images(facts: CheckpointFacts) -> ParityImages:
    """Draw phantoms: images that any checkpoint can be asked about, the same each time."""
    return ParityImages(_draw(MIN_IMAGES, facts.input), "phantoms")


def read_gate_images(
    data: Path, options: DataOptions, facts: CheckpointFacts, *, report: ReportProgress | None = None
) -> ParityImages:
    """Take images of the part val of labelled data, spread over all; phantoms fill up what is missing to 64.

    Raises:
        UsageError: the data cannot be used.
    """
    images = load_data(data, options)
    judging = spread(images.part("val"), GATE_IMAGES)
    pixels, source = prepare_pixels(judging, facts.input, report=report).pixels, f"validation images of {images.root.name}"
    if missing := max(0, MIN_IMAGES - len(judging)):
        pixels = np.concatenate([pixels, _draw(missing, facts.input)])
        source = f"images ({len(judging)} {source}, {missing} phantoms)"
    return ParityImages(pixels, source)


def _draw(count: int, spec: InputSpec) -> Gray8:
    images = (windowed(draw_phantom(_SEED + number, rows=max(128, spec.size_px))) for number in range(count))
    return np.stack([fit_image(image, spec, *image.shape)[0] for image in images])
