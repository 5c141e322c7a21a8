"""Display images in, the same images as another department might have made them out: none was used to tune a check.

Each variation takes uint8 [H,W], 0..255, and a generator that decides how strong it is, and returns uint8.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from cxrbatch.records import Gray8

Variation = Callable[[Gray8, np.random.Generator], Gray8]


def shifted(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Move by up to a tenth of each side; air comes in."""
    height, width = display.shape
    across, down = dice.uniform(-0.1, 0.1, 2) * (width, height)
    return _warped(display, np.array([[1, 0, across], [0, 1, down]]))


def rotated(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Turn by up to 10 degrees either way; air comes in."""
    return _turned(display, float(dice.uniform(-10, 10)))


def rotated_by_10(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Turn by 10 degrees either way."""
    return _turned(display, float(dice.choice((-10, 10))))


def cropped(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Cut up to a tenth off each side."""
    return _cut(display, *dice.uniform(0, 0.1, 4))


def cropped_to_the_lungs(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Cut 12 to 15 per cent off each side: no shoulders, little belly."""
    return _cut(display, *dice.uniform(0.12, 0.15, 4))


def collimated(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Blacken up to 12 per cent at each side."""
    return _framed(display, dice, 0)


def collimated_white(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Whiten up to 12 per cent at each side, as digitised images have it."""
    return _framed(display, dice, 255)


def padded_around(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Lay the image on a black ground that is 5 to 15 per cent larger at each side."""
    height, width = display.shape
    top, bottom, left, right = (dice.uniform(0.05, 0.15, 4) * (height, height, width, width)).astype(int)
    return np.asarray(cv2.copyMakeBorder(display, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0), np.uint8)


def squared(display: Gray8, _: np.random.Generator) -> Gray8:
    """Pad to 1.25 times as wide as high, or as high as wide, as some archives do."""
    height, width = display.shape
    across, down = (int(0.125 * height), 0) if width >= height else (0, int(0.125 * width))
    return np.asarray(cv2.copyMakeBorder(display, down, down, across, across, cv2.BORDER_CONSTANT, value=0), np.uint8)


def stretched(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Make it up to 20 per cent wider or narrower."""
    width = round(display.shape[1] * float(dice.uniform(0.8, 1.2)))
    return np.asarray(cv2.resize(display, (width, display.shape[0])), np.uint8)


def low_contrast(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Leave 64 grey levels."""
    return _grey(dice.integers(20, 150) + display * 0.25)


def overexposed(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Let the dark tenth to third be black."""
    low = float(np.percentile(display, dice.uniform(10, 33)))
    return _grey((display - low) * (255 / max(1.0, 255 - low)))


def underexposed(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Let the bright tenth to third be white."""
    high = float(np.percentile(display, dice.uniform(67, 90)))
    return _grey(display * (255 / max(1.0, high)))


def noisy(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Add noise of 20 grey levels."""
    return _grey(display + dice.normal(0, 20, display.shape))


def edge_enhanced(display: Gray8, _: np.random.Generator) -> Gray8:
    """Subtract most of what is coarser than a thirtieth of the image, as some processing does."""
    coarse = np.asarray(cv2.GaussianBlur(display.astype(np.float32), (0, 0), max(display.shape) / 30), np.float32)
    return _grey(128 + 2 * (display - 0.7 * coarse - 0.3 * coarse.mean()))


def with_lines(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Draw cables, a tube and electrodes: seven bright or dark curves and four discs."""
    drawn = display.copy()
    size = np.array(display.shape[::-1])
    for _ in range(7):
        points = (dice.uniform(0.05, 0.95, (4, 2)) * size).astype(np.int32)
        grey = int(dice.choice((255, 230, 0)))
        cv2.polylines(drawn, [points], isClosed=False, color=grey, thickness=max(1, max(display.shape) // 100))
    for centre in (dice.uniform(0.2, 0.8, (4, 2)) * size).astype(int):
        cv2.circle(drawn, (int(centre[0]), int(centre[1])), max(display.shape) // 40, 255, -1)
    return drawn


def with_text(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Burn in a side marker and two labels, one of them in a black box."""
    drawn = display.copy()
    height, width = display.shape
    scale = max(display.shape) / 256
    cv2.rectangle(drawn, (0, 0), (int(0.35 * width), int(0.12 * height)), 0, -1)
    for text, x, y, size in (("PORTABLE 1", 0.02, 0.08, 0.35), ("L", 0.85, 0.2, 1.0), ("AP ERECT", 0.55, 0.97, 0.4)):
        at = (int(x * width + dice.uniform(-2, 2)), int(y * height))
        cv2.putText(drawn, text, at, cv2.FONT_HERSHEY_SIMPLEX, size * scale, 255, max(1, round(scale)))
    return drawn


def half_white(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Whiten one lung field, as an effusion or a collapse does."""
    height, width = display.shape
    centre = (int(width * float(dice.choice((0.3, 0.7)))), int(0.5 * height))
    veil = np.zeros(display.shape, np.float32)
    cv2.ellipse(veil, centre, (int(0.2 * width), int(0.38 * height)), 0, 0, 360, 1.0, -1)
    veil = np.asarray(cv2.GaussianBlur(veil, (0, 0), max(display.shape) / 40), np.float32)
    bright = float(np.percentile(display, 90))
    return _grey(display + veil * np.clip(bright - display, 0, 255) * 0.9)


def mirrored(display: Gray8, _: np.random.Generator) -> Gray8:
    """Exchange left and right."""
    return np.ascontiguousarray(display[:, ::-1])


def rotated_and_collimated(display: Gray8, dice: np.random.Generator) -> Gray8:
    """Turn by up to 10 degrees, then blacken up to 12 per cent at each side."""
    return collimated(rotated(display, dice), dice)


VARIATIONS: tuple[Variation, ...] = (
    *(shifted, rotated, rotated_by_10, cropped, cropped_to_the_lungs, collimated, collimated_white, padded_around),
    *(squared, stretched, low_contrast, overexposed, underexposed, noisy, edge_enhanced, with_lines, with_text),
    *(half_white, mirrored, rotated_and_collimated),
)


def _turned(display: Gray8, degrees: float) -> Gray8:
    height, width = display.shape
    return _warped(display, cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0))


def _warped(display: Gray8, matrix: np.ndarray) -> Gray8:
    return np.asarray(cv2.warpAffine(display, matrix, display.shape[::-1], flags=cv2.INTER_LINEAR), np.uint8)


def _cut(display: Gray8, top: float, bottom: float, left: float, right: float) -> Gray8:
    height, width = display.shape
    rows = slice(int(top * height), height - int(bottom * height))
    return np.ascontiguousarray(display[rows, int(left * width) : width - int(right * width)])


def _framed(display: Gray8, dice: np.random.Generator, grey: int) -> Gray8:
    height, width = display.shape
    top, bottom, left, right = dice.uniform(0, 0.12, 4)
    framed = np.full_like(display, grey)
    rows = slice(int(top * height), height - int(bottom * height))
    columns = slice(int(left * width), width - int(right * width))
    framed[rows, columns] = display[rows, columns]
    return framed


def _grey(levels: np.ndarray) -> Gray8:
    return np.asarray(np.clip(levels, 0, 255), np.uint8)
