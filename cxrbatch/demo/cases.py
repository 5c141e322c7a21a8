"""Phantoms as intake hands them on, each with what is true of it and where its lesions lie."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import Settings, available_cores
from cxrbatch.intake.preprocess import fit_image, prepare, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.phantom import FINDINGS, draw_phantom, write_phantom_png
from cxrbatch.records import Gray8, InputSpec, PreparedImage
from cxrbatch.system.workers import WorkerPool

# Regions are averaged to the heatmap's cells in training, 6 x 6 of them; this is fine enough for that.
REGION_CELLS = 24
_SECONDS_PER_IMAGE = 30.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """Which phantom to draw, `image_px` high and wide, and for which engine's input.

    `prevalence` is how often each finding is there, on its own; None leaves the mix to the phantom.
    """

    seed: int
    image_px: int
    spec: InputSpec
    prevalence: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A phantom as intake hands it on, its truths in the order of FINDINGS, and its lesions' masks, bool [H,W]."""

    image: PreparedImage
    truths: tuple[bool, ...]
    masks: dict[str, NDArray[np.bool_]]


def draw_cases(drawings: Sequence[Drawing]) -> Iterator[Case]:
    """Draw phantoms in parallel, in order; each goes through a file and intake, like any study."""
    with WorkerPool(available_cores(), memory_mb=Settings().decode_memory_mb) as pool:
        for outcome in pool.run_ahead(_draw_case, drawings, timeout_s=_SECONDS_PER_IMAGE):
            yield outcome.value()


def to_pixel_set(cases: Iterator[Case]) -> PixelSet:
    """Gather cases into what a network trains on, with the regions of their lesions."""
    rows = [(case.image.pixels, case.truths, _regions(case)) for case in cases]
    pixels, truths, regions = zip(*rows, strict=True)
    return PixelSet(np.stack(pixels), np.array(truths, np.float32), np.stack(regions))


def _draw_case(drawing: Drawing) -> Case:
    phantom = draw_phantom(drawing.seed, rows=drawing.image_px, findings=_findings(drawing))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.png"
        write_phantom_png(path, phantom)
        image = prepare(read_radiograph(path, Settings(), source_px=source_side(drawing.spec)), drawing.spec)
    return Case(image, tuple(name in phantom.findings for name in FINDINGS), phantom.masks)


def _findings(drawing: Drawing) -> list[str] | None:
    if drawing.prevalence is None:
        return None
    chances = np.random.default_rng(drawing.seed).random(len(FINDINGS))
    return [name for name, chance in zip(FINDINGS, chances, strict=True) if chance < drawing.prevalence]


def _regions(case: Case) -> Gray8:
    """Return how much of each cell of the input square each finding covers: uint8 [C,24,24], 0..255."""
    regions = np.zeros((len(FINDINGS), REGION_CELLS, REGION_CELLS), np.uint8)
    spec = InputSpec(case.image.geometry.size_px)
    for index, name in enumerate(FINDINGS):
        if name in case.masks:
            mask = np.where(case.masks[name], np.uint8(255), np.uint8(0))
            square, _ = fit_image(mask, spec, *mask.shape)
            regions[index] = cv2.resize(square[0], (REGION_CELLS, REGION_CELLS), interpolation=cv2.INTER_AREA)
    return regions
