"""Fitting a display image into the engine's square. The only copy of it: training uses it too."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from cxrbatch.config import Settings
from cxrbatch.intake.codecs.jpeg2000 import ENOUGH_OF_QUARTER
from cxrbatch.intake.display import SOURCE_PX
from cxrbatch.records import Fit, Geometry, Gray8, InputSpec, PreparedImage, Radiograph

# A strip that is so many times longer than wide is not enlarged as a whole before its middle is cut out: at 1:1000
# that would be 500 million pixels.
_LARGEST_CUT = 16


def source_side(spec: InputSpec) -> int:
    """Return the long side at which a radiograph is read for this input: the usual one, or that of a larger input."""
    return max(SOURCE_PX, spec.size_px)


def reading_for(settings: Settings, spec: InputSpec) -> Settings:
    """Return the settings that read for this input: a quarter of a JPEG 2000 radiograph may be less than it needs."""
    shows_less = spec.size_px > ENOUGH_OF_QUARTER * SOURCE_PX
    return replace(settings, jpeg2000="half") if shows_less else settings


def prepare(radiograph: Radiograph, spec: InputSpec) -> PreparedImage:
    """Return what an engine with this input spec eats of a radiograph, beside what is displayed of it."""
    pixels, geometry = fit_image(radiograph.judged, spec, radiograph.rows, radiograph.columns)
    return PreparedImage(
        radiograph if radiograph.source is None else replace(radiograph, source=None), pixels, geometry
    )


def fit_image(display: Gray8, spec: InputSpec, rows: int, columns: int) -> tuple[Gray8, Geometry]:
    """Fit a display image into the input square.

    `pad` shows all of it, centred on black; `crop` fills the square and loses what hangs over; `stretch`
    fills the square and gives up the proportions.

    Args:
        display: uint8 [H,W], 0..255, of the proportions of the stored pixels.
        spec: side of the square and fit.
        rows: height of the stored pixels.
        columns: width of the stored pixels.

    Returns:
        uint8 [1,S,S], 0..255, and the map from stored pixels to it.
    """
    height, width = fitted_size(rows, columns, spec.size_px, spec.fit)
    top, left = (spec.size_px - height) // 2, (spec.size_px - width) // 2
    if height * width > _LARGEST_CUT * spec.size_px**2:
        square = _middle(display, height, width, spec.size_px)
    else:
        square = _paste(_resize(display, height, width), spec.size_px, top, left)
    geometry = Geometry(
        rows=rows,
        columns=columns,
        size_px=spec.size_px,
        scale_x=width / columns,
        scale_y=height / rows,
        offset_x=float(left),
        offset_y=float(top),
    )
    return square[np.newaxis], geometry


def fitted_size(rows: int, columns: int, size_px: int, fit: Fit) -> tuple[int, int]:
    """Return the whole height and width that the image takes before the square cuts it off or pads it."""
    if fit == "stretch":
        return size_px, size_px
    side = max(rows, columns) if fit == "pad" else min(rows, columns)
    return max(1, round(rows * size_px / side)), max(1, round(columns * size_px / side))


def _resize(display: Gray8, height: int, width: int) -> Gray8:
    shrinks = height <= display.shape[0] and width <= display.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(display, (width, height), interpolation=method), dtype=np.uint8)


def _middle(display: Gray8, height: int, width: int, size_px: int) -> Gray8:
    """Return the square in the middle of what the display image would be at height x width, and no more of it."""
    down, across = display.shape[0] / height, display.shape[1] / width
    top, left = (size_px - height) // 2, (size_px - width) // 2
    # Pixels are compared by their middles.
    to_display = np.array([[across, 0, (0.5 - left) * across - 0.5], [0, down, (0.5 - top) * down - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = cv2.warpAffine(display, to_display, (size_px, size_px), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(square, np.uint8)


def _paste(image: Gray8, size_px: int, top: int, left: int) -> Gray8:
    """Lay the image on a black square at (top, left); negative offsets cut it off."""
    square = np.zeros((size_px, size_px), np.uint8)
    shown = image[max(0, -top) :, max(0, -left) :][:size_px, :size_px]
    row, column = max(0, top), max(0, left)
    square[row : row + shown.shape[0], column : column + shown.shape[1]] = shown
    return square
