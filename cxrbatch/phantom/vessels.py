"""The branching vessels of the lungs, drawn as thin lines and widened to their calibre."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.phantom.anatomy import SIDES, Patient, Side
from cxrbatch.phantom.frame import SUBPIXEL_BITS, Frame, Points
from cxrbatch.records import Float32

# Calibre and length in cm of each generation, from the hilum outwards.
_CALIBRE = (0.95, 0.62, 0.42, 0.29, 0.20)
_LENGTH = (2.6, 3.0, 2.8, 2.6, 2.3)
_N_TRUNKS = 9


def draw_branches(rng: np.random.Generator, patient: Patient) -> list[Points]:
    """Grow the vessel trees of both lungs: per generation an array [n, 4, 2] of bent segments in patient cm."""
    trees = [_grow(rng, patient, side) for side in SIDES]
    return [np.concatenate(pair) for pair in zip(*trees, strict=True)]


def vessel_thickness(generations: list[Points], frame: Frame) -> Float32:
    """Return how much vessel a ray meets, in cm: float32 on `frame`."""
    total = np.zeros((frame.rows, frame.columns), np.float32)
    for calibre, segments in zip(_CALIBRE, generations, strict=True):
        canvas = np.zeros((frame.rows, frame.columns), np.uint8)
        lines: NDArray[np.int32] = frame.to_fixed_point(segments)
        # A blurred line keeps its sum across, so its calibre is right on an image of any size.
        cv2.polylines(canvas, list(lines), False, 160, 1, cv2.LINE_AA, SUBPIXEL_BITS)
        sigma = max(0.34 * calibre / frame.cm_per_px, 0.4)
        # A round vessel's thickness, summed across it, is pi / 4 times its calibre squared.
        section = np.float32(0.785 * calibre * calibre / frame.cm_per_px / 160)
        total += cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), sigma) * section
    return total


def _grow(rng: np.random.Generator, patient: Patient, side: Side) -> list[Points]:
    start = np.tile(np.array(patient.hilum(side)), (_N_TRUNKS, 1)) + rng.normal(0, [0.35, 1.1], (_N_TRUNKS, 2))
    # From straight up to down along the heart; 0 points outwards. The lower lobes have more and larger vessels.
    heading = np.linspace(-1.35, 1.45, _N_TRUNKS) + rng.normal(0, 0.12, _N_TRUNKS)
    generations: list[Points] = []
    for length in _LENGTH:
        reach = length * (0.75 + 0.5 * rng.random(len(start))) * patient.right_dome / 21.0
        segments, bend = _bent(start, heading, reach, rng.normal(0, 0.14, len(start)), side)
        generations.append(segments)
        spread = rng.uniform(0.18, 0.52, len(start))
        start = np.repeat(segments[:, -1], 2, axis=0)
        heading = np.stack([bend - spread, bend + 0.8 * spread], axis=1).ravel()
        heading = heading + rng.normal(0, 0.10, len(heading))
    return generations


def _bent(
    start: Points, heading: NDArray[np.float64], reach: NDArray[np.float64], turn: NDArray[np.float64], side: Side
) -> tuple[Points, NDArray[np.float64]]:
    """Return three-piece curves [n, 4, 2] and the heading [n] in which they end."""
    points, angle = [start], heading
    for _ in range(3):
        step = np.stack([side * np.cos(angle), np.sin(angle)], axis=1) * (reach / 3)[:, None]
        points.append(points[-1] + step)
        angle = angle + turn
    return np.stack(points, axis=1), angle
