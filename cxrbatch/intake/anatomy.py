"""A display image in, how much it looks like a chest out: two plain measures, and what follows from them.

*Likeness* is the rank correlation between the image and a plan of the chest: a bright midline, two dark lungs,
dark air over the shoulders, a bright belly. It is -1 .. 1 and changes its sign when black and white are swapped.
*Valley* is how much darker a lung field is than the midline on one side of it and the chest wall on the other.
Ranks make both independent of window and contrast. A film in a frame, black or white, is looked at without it too.
What they measure on real films, and the films they fail on,
is in docs/measurements/pixel-check.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.records import Gray8, Radiograph

Levels = NDArray[np.float64]

GRID = 32
# Measured on 1217 upright public films (docs/measurements/pixel-check.md): 5 are less like the plan, 3 have no valley.
LIKENESS_OF_A_CHEST = 0.22
VALLEY_OF_A_CHEST = 0.002
# Between these and those above it may be a chest, askew or cropped: half of what varied films (film_variations.py in
# scripts/) lose otherwise lies there, and of 63 images that are no chest one.
LIKENESS_IN_DOUBT = 0.14
VALLEY_IN_DOUBT = 0.1
# Everything is measured in images of at most this size; a strip of a frame varies by less than that many grey levels.
SMALL_PX = 256
FRAME_BELOW_LEVELS = 2.0
# Rows of the grid that lie in the lungs, columns of the midline, and how far from it a lung field may lie.
_LUNG_ROWS = slice(8, 19)
_MIDLINE = slice(13, 19)
_LUNG_COLUMNS = range(3, 12)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What was measured: `likeness` -1..1, negative where black and white are swapped; `valley` -1..1."""

    likeness: float
    valley: float

    @property
    def is_chest(self) -> bool:
        """Whether this could be a frontal chest film, in either polarity."""
        return abs(self.likeness) >= LIKENESS_OF_A_CHEST and self.valley >= VALLEY_OF_A_CHEST

    @property
    def is_doubtful(self) -> bool:
        """Whether it is too little like a chest to be called one, and too much to be refused."""
        in_doubt = self.likeness >= LIKENESS_IN_DOUBT and self.valley >= VALLEY_IN_DOUBT
        return in_doubt and not self.is_chest

    @property
    def is_swapped(self) -> bool:
        """Whether it looks like a chest whose lungs are bright."""
        return self.is_chest and self.likeness < 0


def measure_anatomy(display: Gray8) -> Anatomy:
    """Compare a display image, uint8 [H,W], 0..255, with the plan of a chest; without its frame if that fits."""
    # The blur below takes 25 ms on a display image of 1024 pixels and 1 ms on this, and says the same.
    scale = min(1.0, SMALL_PX / max(display.shape))
    small = display
    # A strip one pixel wide stays one pixel wide.
    if min(display.shape) * scale > 1:
        small = np.asarray(cv2.resize(display, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    whole = _measure(small)
    if whole.is_chest:
        return whole
    inside = _inside_of_frame(small)
    # Black is what air looks like: a film that is off the middle of its frame fits better with it than without.
    blackened = np.zeros_like(small)
    blackened[inside] = small[inside]
    candidates = (whole, _measure(np.ascontiguousarray(small[inside])), _measure(blackened))
    return max(candidates, key=lambda anatomy: (anatomy.is_chest, anatomy.is_doubtful, anatomy.likeness))


def _measure(display: Gray8) -> Anatomy:
    blurred = cv2.GaussianBlur(display, (0, 0), max(display.shape) / 64)
    ranks = _ranks(cv2.resize(blurred, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float64))
    likeness = _correlation(ranks, _plan(), _weights())
    return Anatomy(likeness, _valley(ranks if likeness >= 0 else 1 - ranks))


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

    Where the header says chest, the header is believed and the film flagged; where nothing says what it is, the
    pixels decide, and a doubtful film is flagged. Polarity is never changed here: the flag tells the reader.

    Raises:
        ImageRejected: nothing says that this is a chest, and it does not look like one.
    """
    if not settings.pixel_check:
        return radiograph
    anatomy = measure_anatomy(radiograph.display)
    if not anatomy.is_chest:
        if Flag.NO_BODY_PART in radiograph.flags and not anatomy.is_doubtful:
            raise ImageRejected(
                Reason.NOT_CHEST,
                f"does not look like an upright frontal chest film (likeness {anatomy.likeness:.2f}, lung valley "
                f"{anatomy.valley:.2f}), and nothing says that it is one; pixel_check = false scores it",
            )
        return _flagged(radiograph, Flag.ANATOMY_SUSPECT)
    return _flagged(radiograph, Flag.POLARITY_SUSPECT) if anatomy.is_swapped else radiograph


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
