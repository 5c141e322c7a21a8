"""Whether a display image shows a chest; `check_anatomy`, which decides what follows from it, is the place to start.

*Likeness* is the rank correlation between the image and a plan of the chest: a bright midline, two dark lungs,
dark air over the shoulders, a bright belly. It is -1 .. 1 and changes its sign when black and white are swapped.
*Valley* is how much darker a lung field is than the midline on one side of it and the chest wall on the other.
*Resemblance* is what a small network makes of these and of more (resemblance.py); it decides.
Ranks make likeness and valley independent of window and contrast. An image in a frame, black or white, is looked at
without it too. What they measure on real radiographs and on pictures that are none is in
docs/measurements/pixel-check.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.resemblance import measure_features, resemblance
from cxrbatch.records import Float32, Gray8, Radiograph

Levels = NDArray[np.float64]

GRID = 32
# Logarithms of odds; what they do to radiographs and pictures that nothing was learned from is in
# docs/measurements/pixel-check.md. In between it may be a chest, askew or cropped.
RESEMBLANCE_OF_A_CHEST = 1.0
RESEMBLANCE_IN_DOUBT = -2.0
# A red side marker or an arrow covers less. What is more in colour is a photograph, or a heatmap over a radiograph.
COLOURED_SHARE = 0.05
# No chest is so much longer one way than the other.
LONGEST_TO_SHORTEST = 3.0
_OUT_OF_THE_QUESTION = -99.0
# Everything is measured in images of at most this size; a strip of a frame varies by less than that many grey levels.
SMALL_PX = 256
FRAME_BELOW_LEVELS = 2.0
# Rows of the grid that lie in the lungs, columns of the midline, and how far from it a lung field may lie.
_LUNG_ROWS = slice(8, 19)
_MIDLINE = slice(13, 19)
_LUNG_COLUMNS = range(3, 12)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What was measured: `likeness` -1..1, negative where black and white are swapped; `valley` -1..1.

    `resemblance` is the logarithm of the odds that this is a chest.
    """

    likeness: float
    valley: float
    resemblance: float

    @property
    def is_chest(self) -> bool:
        """Whether this could be a frontal chest radiograph, in either polarity."""
        return self.resemblance >= RESEMBLANCE_OF_A_CHEST

    @property
    def is_doubtful(self) -> bool:
        """Whether it is too little like a chest to be called one, and too much to be refused."""
        return RESEMBLANCE_IN_DOUBT <= self.resemblance < RESEMBLANCE_OF_A_CHEST

    @property
    def is_swapped(self) -> bool:
        """Whether it looks like a chest whose lungs are bright."""
        return self.is_chest and self.likeness < 0


def measure_anatomy(display: Gray8) -> Anatomy:
    """Compare a display image, uint8 [H,W], 0..255, with a chest; without its frame if that fits better."""
    small = small_copy(display)
    whole = _measure(small)
    if whole.is_chest:
        return whole
    return max((whole, *map(_measure, views_inside(small))), key=lambda anatomy: anatomy.resemblance)


def small_copy(display: Gray8) -> Gray8:
    """Return an image of at most SMALL_PX: the blur of 1024 pixels takes 25 ms, and of these 1, and says the same."""
    scale = min(1.0, SMALL_PX / max(display.shape))
    size = [max(1, round(side * scale)) for side in display.shape]
    return np.asarray(cv2.resize(display, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def views_inside(small: Gray8) -> tuple[Gray8, ...]:
    """Return what is inside of a small image's frame, if it has one."""
    inside = small[_inside_of_frame(small)]
    return () if inside.shape == small.shape else (np.ascontiguousarray(inside),)


def describe(small: Gray8) -> tuple[float, float, Float32]:
    """Return likeness, valley and the features of a small image; swapped, if it seems to be, for the latter two."""
    blurred = cv2.GaussianBlur(small, (0, 0), max(small.shape) / 64)
    ranks = _ranks(cv2.resize(blurred, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float64))
    likeness = _correlation(ranks, _plan(), _weights())
    if likeness < 0:
        small, ranks = np.asarray(255 - small, np.uint8), 1 - ranks
    valley = _valley(ranks)
    return likeness, valley, measure_features(small, ranks, abs(likeness), valley)


def _measure(small: Gray8) -> Anatomy:
    likeness, valley, features = describe(small)
    too_long = max(small.shape) > LONGEST_TO_SHORTEST * min(small.shape)
    return Anatomy(likeness, valley, _OUT_OF_THE_QUESTION if too_long else resemblance(features))


def _inside_of_frame(image: Gray8) -> tuple[slice, slice]:
    """Return the rows and columns between the even strips at an image's sides: collimator, paper, padding."""
    rows, columns = slice(0, image.shape[0]), slice(0, image.shape[1])
    while min(rows.stop - rows.start, columns.stop - columns.start) > GRID:
        inside = image[rows, columns]
        height, width = max(1, inside.shape[0] // 64), max(1, inside.shape[1] // 64)
        if inside[:height].std() < FRAME_BELOW_LEVELS:
            rows = slice(rows.start + height, rows.stop)
        elif inside[-height:].std() < FRAME_BELOW_LEVELS:
            rows = slice(rows.start, rows.stop - height)
        elif inside[:, :width].std() < FRAME_BELOW_LEVELS:
            columns = slice(columns.start + width, columns.stop)
        elif inside[:, -width:].std() < FRAME_BELOW_LEVELS:
            columns = slice(columns.start, columns.stop - width)
        else:
            break
    return rows, columns


def check_anatomy(radiograph: Radiograph, settings: Settings) -> Radiograph:
    """Refuse or flag a radiograph that does not look like what it is taken for.

    Where the header says chest, the header is believed and the image flagged; where nothing says what it is, the
    pixels decide, and a doubtful image is flagged. Polarity is never changed here: the flag tells the reader.

    Raises:
        ImageRejected: nothing says that this is a chest, and it does not look like one.
    """
    if not settings.pixel_check:
        return radiograph
    anatomy = measure_anatomy(radiograph.judged)
    in_colour = radiograph.coloured_share >= COLOURED_SHARE
    if anatomy.is_chest and not in_colour:
        return _flagged(radiograph, Flag.POLARITY_SUSPECT) if anatomy.is_swapped else radiograph
    # Colour is no proof by itself (a heatmap over a chest), but leaves no room for doubt.
    may_be_chest = anatomy.is_chest or (anatomy.is_doubtful and not in_colour)
    if Flag.NO_BODY_PART in radiograph.flags and not may_be_chest:
        raise ImageRejected(
            Reason.NOT_CHEST,
            f"does not look like an upright frontal chest radiograph (resemblance {anatomy.resemblance:.1f}, likeness "
            f"{anatomy.likeness:.2f}, lung valley {anatomy.valley:.2f}, {radiograph.coloured_share:.0%} in colour), "
            "and nothing says that it is one; pixel_check = false scores it",
        )
    return _flagged(radiograph, Flag.ANATOMY_SUSPECT)


def _flagged(radiograph: Radiograph, flag: Flag) -> Radiograph:
    return replace(radiograph, flags=(*radiograph.flags, flag))


@cache
def _plan() -> Levels:
    """Return the ranks of the plan, [GRID,GRID]; `across` is the distance from the midline, `down` from the top."""
    middles = (np.arange(GRID) + 0.5) / GRID
    across, down = np.abs(middles - 0.5)[np.newaxis], middles[:, np.newaxis]
    midline = 0.45 * np.exp(-((across / 0.13) ** 2))
    belly = 0.75 * _rises(down, 0.72, 0.06) * np.exp(-((across / 0.36) ** 4))
    chest_wall = 0.30 * np.exp(-(((across - 0.37) / 0.09) ** 2)) * _rises(down, 0.2, 0.05)
    lungs = -0.40 * np.exp(-(((across - 0.18) / 0.09) ** 2) - ((down - 0.38) / 0.22) ** 2)
    air = -0.45 * np.clip((across - 0.1) / 0.2, 0, 1) * (1 - _rises(down, 0.12, 0.03))
    margins = -0.15 * np.clip((across - 0.42) / 0.06, 0, 1)
    return _ranks(midline + belly + chest_wall + lungs + air + margins)


@cache
def _weights() -> Levels:
    """Return how much each place counts, [GRID,GRID]: the corners, where collimators and labels are, little."""
    from_middle = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    weights: Levels = np.exp(-(from_middle[:, np.newaxis] ** 4 + from_middle[np.newaxis] ** 4))
    return weights


def _rises(values: Levels, middle: float, width: float) -> Levels:
    return 1 / (1 + np.exp(-(values - middle) / width))


def _ranks(values: Levels) -> Levels:
    """Return the rank of each value, 0..1; equal values, such as a black background, share their middle rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle_ranks = (np.cumsum(counts) - (counts + 1) / 2) / (values.size - 1)
    ranks: Levels = middle_ranks[place].reshape(values.shape)
    return ranks


def _correlation(one: Levels, other: Levels, weights: Levels) -> float:
    one = one - np.average(one, weights=weights)
    other = other - np.average(other, weights=weights)
    norm = np.sqrt((weights * one**2).sum() * (weights * other**2).sum())
    return float((weights * one * other).sum() / max(norm, 1e-12))


def _valley(ranks: Levels) -> float:
    """Return the depth of the deeper lung field: the other one may be white with disease."""
    profile = cv2.GaussianBlur(ranks[_LUNG_ROWS].mean(axis=0)[np.newaxis], (0, 0), 0.7)[0]
    midline = profile[_MIDLINE].max()
    sides = (profile[: GRID // 2][::-1], profile[GRID // 2 :])
    return float(max(min(midline, side[at + 1 :].max()) - side[at] for side in sides for at in _LUNG_COLUMNS))
