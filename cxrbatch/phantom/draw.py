"""Drawing a phantom from a seed: the stored pixels of a radiograph, its window and the masks of its lesions.

`draw_phantom` draws the frontal radiograph, `draw_lateral` a side view.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.phantom.anatomy import Patient, Stream, draw_patient, open_stream
from cxrbatch.phantom.attenuation import TISSUE_PER_CM, attenuate, bulge, draw_branches, uneven_lung
from cxrbatch.phantom.exposure import develop, draw_exposure, mark_side, shutter, survey_patient
from cxrbatch.phantom.grid import Grid, Points, smooth_closed, smooth_open, tube_outline
from cxrbatch.phantom.lesions import FINDINGS, choose_findings, draw_lesions, lesion_masks
from cxrbatch.phantom.shapes import lay_out
from cxrbatch.records import Float32

FULL_SCALE = 4095
# Sharp structures are drawn on at most this many pixels; a larger image is an enlargement with its own grain,
# as a detector whose pixels are finer than the focal spot's shadow.
MAX_DETAIL_PX = 1024
# Outlines in cm on a side view: x forwards from the front of the spine, y downwards from the lung apices.
_LATERAL_BODY = np.array(
    [
        [-9, -12], [2, -12], [3, -4], [10, 0], [15, 7], [17, 16], [16, 40], [-9, 40], [-11, 18], [-11, 6], [-9, 0],
    ],
    float,
)  # fmt: skip
_LATERAL_LUNG = np.array(
    [
        [-2, 0], [2, 1], [8, 4], [12, 9], [13.5, 16], [12.5, 20], [6, 19.5], [0, 22], [-5, 27], [-7, 22], [-7.5, 12],
        [-6, 4],
    ],
    float,
)  # fmt: skip
_LATERAL_HEART = np.array([[3, 11], [8, 10.5], [12.5, 13.5], [13.4, 18], [11, 21], [5, 21], [2.4, 17]], float)
_HILUM = np.array([[2.0, 9.0], [4.6, 8.6], [5.6, 10.4], [4.0, 12.6], [2.2, 11.4]], float)
_SPINE = np.array([[-2, -10], [-2.6, 0], [-5, 8], [-5.2, 16], [-3.2, 25], [-1, 36]], float)
_STERNUM = np.array([[9, 2.5], [12.2, 6], [14.4, 12], [14.8, 17]], float)
_TRACHEA = np.array([[1, -10], [1.4, 0], [1.0, 9]], float)


@dataclass(frozen=True)
class Phantom:
    """A synthetic PA chest radiograph.

    `stored` is uint16 [H,W], 0..4095, air dark and bone bright (MONOCHROME2 sense); the window is in the
    same values. `masks` holds one bool [H,W] mask for each finding present; `spacing_mm` is a pixel's
    side at the detector.
    """

    stored: NDArray[np.uint16]
    window_center: float
    window_width: float
    masks: dict[str, NDArray[np.bool_]]
    seed: int
    spacing_mm: float
    age: int
    sex: str

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings present, in the order of FINDINGS."""
        return tuple(name for name in FINDINGS if name in self.masks)


def draw_phantom(
    seed: int, *, rows: int = 1024, columns: int | None = None, findings: Collection[str] | None = None, take: int = 0
) -> Phantom:
    """Draw the chest radiograph of an invented patient.

    The same seed gives the same patient, pose and exposure at any size and with any findings.

    Args:
        seed: any number from 0 on.
        rows: height in pixels.
        columns: width in pixels, `rows` by default.
        findings: names from FINDINGS; None draws a mix, about 40 % of it without any.
        take: another number gives another exposure of the same patient, in another pose.

    Raises:
        ValueError: a finding that is not in FINDINGS.
    """
    present = choose_findings(seed) if findings is None else findings
    if unknown := sorted(set(present) - set(FINDINGS)):
        message = f"no such finding: {', '.join(unknown)}; choose from {', '.join(FINDINGS)}"
        raise ValueError(message)
    patient = draw_patient(open_stream(seed, Stream.PATIENT))
    exposure = draw_exposure(open_stream(seed, Stream.EXPOSURE, take))
    grid = _pose(open_stream(seed, Stream.POSE, take), patient, rows, columns or rows)
    healthy = lay_out(patient, grid)
    lesions = draw_lesions(seed, present, patient, healthy)
    shapes = healthy if lesions.heart_ratio is None else lay_out(patient, grid, lesions.heart_ratio)

    detail = grid.with_long_side(min(round(1.5 * max(rows, grid.columns)), MAX_DETAIL_PX))
    branches = draw_branches(open_stream(seed, Stream.VESSELS), patient)
    unevenness = uneven_lung(open_stream(seed, Stream.TEXTURE), detail)
    attenuation = attenuate(detail, patient, shapes, lesions, branches, unevenness)
    survey = survey_patient(patient, healthy, exposure)
    shown = develop(attenuation, grid, survey, exposure, open_stream(seed, Stream.NOISE, take))
    shown = shutter(mark_side(shown, grid, exposure), grid, exposure)
    masks = lesion_masks(lesions, shapes, grid)
    return _store(shown, grid, gain=exposure.gain, masks=masks, seed=seed, patient=patient)


def draw_lateral(seed: int, *, rows: int = 1024, columns: int | None = None) -> Phantom:
    """Draw a left lateral view of the patient `seed`, without any finding."""
    patient = draw_patient(open_stream(seed, Stream.PATIENT))
    columns = columns or rows
    size = patient.thorax_half_width / 13.9
    grid = Grid(rows, columns, 40.0 * size / float(np.sqrt(rows * columns)), 2.0, 13.0, 0.0)
    detail = grid.with_long_side(min(max(rows, columns), 1024))
    attenuation = _attenuate_lateral(detail, size)
    density = -np.log(np.exp(-attenuation) + np.float32(0.03))
    shown = grid.resample(np.asarray(density, np.float32))
    low, high = np.percentile(density[density > 0.3], [2, 98])
    grain = open_stream(seed, Stream.NOISE, take=1).standard_normal(shown.shape, dtype=np.float32)
    shown = 0.12 + 0.8 * (shown + np.float32(0.015) * grain - low) / (high - low)
    return _store(np.asarray(shown, np.float32), grid, gain=0.7, masks={}, seed=seed, patient=patient)


def _store(
    shown: Float32, grid: Grid, *, gain: float, masks: dict[str, NDArray[np.bool_]], seed: int, patient: Patient
) -> Phantom:
    """Turn display density, float32 [H,W], 0..1 within the window, into 12-bit values; `gain` is the window's share."""
    low, width = 0.5 * (1 - gain) * FULL_SCALE, gain * FULL_SCALE
    stored = np.clip(np.rint(shown * np.float32(width) + np.float32(low)), 0, FULL_SCALE).astype(np.uint16)
    return Phantom(stored, low + width / 2, width, masks, seed, 10 * grid.cm_per_px, patient.age, patient.sex)


def _pose(rng: np.random.Generator, patient: Patient, rows: int, columns: int) -> Grid:
    field = float(rng.uniform(36.0, 42.0)) * patient.thorax_half_width / 13.9
    angle = float(rng.normal(0.0, 0.022))
    centre_x, centre_y = float(rng.normal(0.0, 0.9)), 0.58 * patient.right_dome + float(rng.normal(0.0, 1.1))
    return Grid(rows, columns, field / float(np.sqrt(rows * columns)), centre_x, centre_y, angle)


def _attenuate_lateral(grid: Grid, size: float) -> Float32:
    def depth(corners: Points) -> Float32:
        return grid.depth_inside([smooth_closed(corners * size)])

    tissue = 34.0 * bulge(depth(_LATERAL_BODY), 9.0)
    lung = 21.0 * bulge(depth(_LATERAL_LUNG), 6.0) * (1.0 - 0.6 * bulge(depth(_LATERAL_HEART), 4.0))
    airway = grid.depth_inside([tube_outline(_line(_TRACHEA, size), 0.9)])
    hilum = 3.0 * bulge(depth(_HILUM), 2.2)
    tissue = tissue - 0.7 * lung - 1.4 * bulge(airway, 0.9) + hilum
    sternum = grid.depth_inside([tube_outline(_line(_STERNUM, size), 0.6)])
    bone = 0.30 * _lateral_vertebrae(grid, size) + 0.22 * bulge(sternum, 0.6) + 0.11 * _lateral_ribs(grid, size)
    return np.asarray(TISSUE_PER_CM * 0.8 * np.maximum(tissue, 0.0) + bone, np.float32)


def _lateral_vertebrae(grid: Grid, size: float) -> Float32:
    """Return 0..1: a column of bodies, parted by discs."""
    line = _line(_SPINE, size)
    column = bulge(grid.depth_inside([tube_outline(line, 1.5)]), 0.6)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    discs: list[Points] = []
    for place in np.arange(1.0, along[-1], 2.4):
        centre = np.array([np.interp(place, along, line[:, 0]), np.interp(place, along, line[:, 1])])
        discs.append(centre + np.array([[-1.6, -0.2], [1.6, -0.2], [1.6, 0.2], [-1.6, 0.2]]))
    return np.asarray(column * (1.0 - 0.6 * (grid.fill(discs) > 0)), np.float32)


def _lateral_ribs(grid: Grid, size: float) -> Float32:
    """Return 0..1: ribs that run from the spine forwards and down, those of both sides on each other."""
    tubes = []
    for number in range(10):
        back, top = -6.0 - 0.9 * math.sin(number / 3.2), 1.0 + 2.2 * number
        reach = 9.0 + 8.0 * math.sin(min(number + 2, 9) / 9 * math.pi / 2)
        for nearer in (0.0, 0.7):
            arc = [[back, top + nearer], [back + 0.35 * reach, top + 1.6 + nearer], [back + reach, top + 5.5 + nearer]]
            tubes.append(tube_outline(_line(np.array(arc), size), 0.55))
    overlaid = np.add.reduce([grid.fill([tube]).astype(np.float32) for tube in tubes]) * np.float32(1 / 255)
    # Forwards they turn into cartilage, and below the diaphragm the liver hides them.
    x, y = grid.coordinates()
    visible = np.clip((11.0 * size - x) / 6.0, 0.0, 1.0) * np.clip((27.0 * size - y) / 9.0, 0.0, 1.0)
    return np.asarray(visible * cv2.GaussianBlur(overlaid, (0, 0), 0.12 / grid.cm_per_px), np.float32)


def _line(corners: Points, size: float) -> Points:
    return smooth_open(corners * size)
