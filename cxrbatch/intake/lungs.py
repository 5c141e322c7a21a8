"""Where the lungs roughly lie in a frontal display image; start at `find_lungs`, then ask `Lungs.place`.

A plan of the chest is laid over the image, shifted and stretched in a few hundred ways, and the way that fits best is
taken: dark lungs, bright between them, below them and beside them. Both lungs lie alike about the midline, so that one
which is white with disease is found by the other. It is as coarse as words are (a third of a lung's height), and no
segmentation. Where no way fits well, nothing is known. What it finds on phantoms, whose lungs are known, and on real
radiographs is in docs/measurements/places.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import cv2
import numpy as np

from cxrbatch.intake.anatomy import GRID
from cxrbatch.records import Float32, Gray8

Zone = Literal["upper", "mid", "lower"]
Half = Literal["image_left", "image_right"]

FITS_FROM = 0.6
"""A plan that correlates less with the image says nothing."""

_MIDLINES = np.linspace(0.38, 0.62, 9)
_HALF_WIDTHS = np.linspace(0.26, 0.46, 6)
_TOPS = np.linspace(0.0, 0.28, 6)
_HEIGHTS = np.linspace(0.38, 0.83, 7)
_ELSEWHERE = 0.02

# So far from the midline, in half widths, nothing lies in either lung; and so far beside, above and below them, in half
# widths and lung heights, what is found belongs to the nearest zone.
_BETWEEN_LUNGS = 0.14
_BESIDE_LUNGS = 0.3
_ABOVE_LUNGS, _BELOW_LUNGS = 0.25, 0.4


@dataclass(frozen=True, slots=True)
class Lungs:
    """Where both lungs lie: midline, the chest wall's distance from it, apices and domes, as shares of the sides."""

    midline: float
    half_width: float
    top: float
    bottom: float
    fit: float

    def place(self, across: float, down: float) -> tuple[Half, Zone] | Literal["between", "outside"]:
        """Return where a point lies; both coordinates are shares, 0..1, of the image's sides.

        A zone is a third of the lungs' height; what lies a little beside, above or below them belongs to the nearest.
        """
        from_midline = (across - self.midline) / self.half_width
        height = (down - self.top) / (self.bottom - self.top)
        beside = max(abs(from_midline) - 1, 0) / _BESIDE_LUNGS
        beyond = max(-height / _ABOVE_LUNGS, (height - 1) / _BELOW_LUNGS, 0)
        # In a corner, what is far off both ways is outside before it is far off in either.
        if beside + beyond > 1:
            return "outside"
        if abs(from_midline) < _BETWEEN_LUNGS:
            return "between"
        zone: Zone = "upper" if height < 1 / 3 else "mid" if height < 2 / 3 else "lower"
        return ("image_left" if from_midline < 0 else "image_right", zone)


def find_lungs(display: Gray8) -> Lungs | None:
    """Find the lungs in a display image, uint8 [H,W], 0..255, air black; None where no plan of a chest fits."""
    # The mean of each cell needs no blur before.
    levels = _levels(np.asarray(cv2.resize(display, (GRID, GRID), interpolation=cv2.INTER_AREA), np.uint8))
    plans, weights, ways = _plans()
    mean, squares = (weights @ np.stack([levels, levels**2], axis=1)).T
    # Weights add up to 1, and plans have mean 0 and deviation 1 under them: the product is the weighted correlation.
    fits = (plans @ levels) / np.sqrt(np.maximum(squares - mean**2, 1e-6))
    best = int(np.argmax(fits))
    if fits[best] < FITS_FROM:
        return None
    midline, half_width, top, height = ways[best].tolist()
    return Lungs(midline, half_width, top, top + height, float(fits[best]))


def _levels(cells: Gray8) -> Float32:
    """Return the ranks of all cells, 0..1, flat: they do not depend on window and contrast."""
    ranks = np.empty(cells.size, np.float32)
    ranks[np.argsort(cells, axis=None, kind="stable")] = np.linspace(0, 1, cells.size, dtype=np.float32)
    return ranks


@cache
def _plans() -> tuple[Float32, Float32, Float32]:
    """Return each way's plan times its weights, its weights, both [ways, cells], and the ways, [ways, 4]."""
    ways = np.array(
        [
            way
            for way in product(_MIDLINES, _HALF_WIDTHS, _TOPS, _HEIGHTS)
            if 0.6 <= way[2] + way[3] <= 1.0 and way[0] - way[1] > -0.04 and way[0] + way[1] < 1.04
        ],
        np.float32,
    )
    values, weights = _draw(ways)
    weights /= weights.sum(axis=1, keepdims=True)
    values -= (values * weights).sum(axis=1, keepdims=True)
    values /= np.sqrt((values**2 * weights).sum(axis=1, keepdims=True))
    return values * weights, weights, ways


def _draw(ways: Float32) -> tuple[Float32, Float32]:
    """Draw the plans: how bright each cell is, and how much it counts, float32 [ways, cells]."""
    midline, half_width, top, height = (each[:, np.newaxis, np.newaxis] for each in ways.T)
    middles = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    across = np.abs((middles[np.newaxis, np.newaxis] - midline) / half_width)
    down = (middles[np.newaxis, :, np.newaxis] - top) / height
    values = 0.55 - 0.8 * _lung(across, down) + 0.35 * _falls(across, 0.2, 0.05) + 0.3 * _falls(-down, -1.08, 0.05)
    weights = np.where((across <= 1.25) & (down >= -0.15) & (down <= 1.4), 1, _ELSEWHERE)
    # Over the shoulders it may be bright or dark: the corners say nothing.
    weights = np.where((across > 0.55) & (down < 0.12), _ELSEWHERE, weights)
    cells = len(ways), GRID * GRID
    return values.astype(np.float32).reshape(cells), weights.astype(np.float32).reshape(cells)


def _lung(across: Float32, down: Float32) -> Float32:
    """Return how much of each cell is lung, 0..1: narrow at the apex, reaching lower at the side than at the middle."""
    outer = (0.5 + 0.45 * np.sqrt(np.clip(down, 0, 1))).astype(np.float32)
    inner = 0.22 + 0.14 * np.clip(down - 0.35, 0, 1)
    dome = 0.93 + 0.12 * np.clip(across, 0, 1)
    inside = _falls(across - outer, 0, 0.05) * _falls(inner - across, 0, 0.04)
    return inside * _falls(down - dome, 0, 0.03) * _falls(-down, 0, 0.03)


def _falls(values: Float32, middle: float, width: float) -> Float32:
    steps: Float32 = 1 / (1 + np.exp(np.clip((values - middle) / width, -60, 60)))
    return steps
