"""Heatmaps: a class activation map's place on the radiograph, its peak, and a colour overlay.

Grad-CAM of a head that is global average pooling and one linear layer is ReLU(cam) up to a constant
(Selvaraju et al. 2017, section 3.1; docs/design.md), so the maps that the engine returns are all it takes.
A map shows where a score came from. It is no segmentation.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.records import CellGrid, Float32, Geometry, Gray8, even_cells

Rgb8 = NDArray[np.uint8]

FAINT_LOGITS = 0.1
"""A map whose peak is lower is not drawn. Even if all of the input had this value, the log-odds of the finding
would only move by 0.1, its probability by 2.5 points at most: colour would blow up noise."""

CONTOUR_SHARE = 0.5
"""The line encloses what reaches this share of the peak."""

# What rounding makes of one height in float32.
_SAME_HEIGHT = 1e-6

_TRANSPARENT_BELOW = 0.15
_OPAQUEST_FROM = 0.75
_MAX_OPACITY = 0.46
_DARKEST_SHADE, _BRIGHTEST_SHADE = 80, 238
_LINE = (255, 244, 214)
_LINE_WITHIN_PX = 0.5
_LINE_SHADOW = (24, 12, 8)
# The long side of a picture on which the line is 2 px wide; on others line and ring take the same share of it.
_MARKS_OF_PX = 1024


def activation_on_display(
    cam: Float32, geometry: Geometry, display_shape: tuple[int, ...], cells: CellGrid | None = None
) -> Float32:
    """Spread the positive evidence of a class activation map over the display image.

    The map covers the engine's input square; `cells` says where in it, `geometry` where the stored pixels lie in
    it, and the display image is the stored one, reduced. Between the centres of the map's cells the interpolation
    is cubic (Keys 1981, a = -1/2), beyond the outermost ones the nearest cell counts. The map is parallel to the
    axes, so two small matrix products do it without the 1/32 pixel steps of cv2.warpAffine, which are 5 pixels wide
    when 7 cells become 1024 pixels.

    Args:
        cam: float32 [h,w], logits; the mean over h and w is what the image adds to the logit.
        geometry: from stored pixels to the input square.
        display_shape: (H, W) of the display image.
        cells: where the cells are centred; None: they divide the square evenly.

    Returns:
        float32 [H,W], logits, >= 0; 0 where the engine did not look (outside the square of a centre crop).
    """
    height, width = display_shape
    grid = even_cells(cam.shape, geometry.size_px) if cells is None else cells
    y_in_square = _display_centres(height, geometry.rows) * geometry.scale_y + geometry.offset_y
    x_in_square = _display_centres(width, geometry.columns) * geometry.scale_x + geometry.offset_x
    down = _cubic_weights((y_in_square - grid.origin_y) / grid.stride_y, cam.shape[0])
    across = _cubic_weights((x_in_square - grid.origin_x) / grid.stride_x, cam.shape[1])
    # Outside of the square, of which a centre crop leaves a part of the image, nobody looked.
    down[(y_in_square < 0) | (y_in_square > geometry.size_px)] = 0
    across[(x_in_square < 0) | (x_in_square > geometry.size_px)] = 0
    evidence = np.maximum(cam, 0).astype(np.float32)
    # Cubic interpolation undershoots beside a steep flank: negative evidence that the map does not hold.
    spread = down @ evidence @ across.T
    return np.maximum(spread, 0, out=spread)


def peak_in_stored(activation: Float32, geometry: Geometry) -> tuple[float, float]:
    """Return the peak of an activation [H,W] on the display image as (x, y) in stored pixels.

    A map without any evidence has no peak; its answer is the middle of the radiograph.
    """
    height, width = activation.shape
    row, column = find_peak(activation)
    if activation[row, column] <= 0:
        return geometry.columns / 2, geometry.rows / 2
    return float((column + 0.5) * geometry.columns / width), float((row + 0.5) * geometry.rows / height)


def find_peak(activation: Float32) -> tuple[int, int]:
    """Return the place (row, column) of the highest value of float32 [H,W].

    Where several share it, as from an outermost cell's centre to the border, it is the one nearest to the middle:
    there the cell's centre is.
    """
    highest = activation >= (1 - _SAME_HEIGHT) * activation.max()
    # Of [H,W] by rows, as np.nonzero has it, in a tenth of its time.
    columns, rows = np.asarray(cv2.findNonZero(highest.view(np.uint8))).reshape(-1, 2).T
    height, width = activation.shape
    nearest = np.argmin(np.abs(rows - (height - 1) / 2) + np.abs(columns - (width - 1) / 2))
    return int(rows[nearest]), int(columns[nearest])


def is_faint(activation: Float32) -> bool:
    """Tell whether there is too little evidence to draw (see FAINT_LOGITS)."""
    return float(activation.max()) < FAINT_LOGITS


def draw_heatmap(display: Gray8, activation: Float32) -> Rgb8:
    """Lay an activation over the radiograph it belongs to.

    Colour and opacity follow the share of the map's own peak: nothing below 15 %, so that anatomy stays
    visible, a line around what reaches half, a ring at the peak. A faint map leaves the radiograph as it is.

    Args:
        display: uint8 [H,W], 0..255.
        activation: float32 [H,W], logits, >= 0.

    Returns:
        uint8 [H,W,3], RGB.
    """
    if is_faint(activation):
        return np.repeat(display[:, :, np.newaxis], 3, axis=2)
    share = np.asarray(cv2.convertScaleAbs(activation, alpha=255 / float(activation.max())), dtype=np.uint8)
    colour, transmission = _overlay_tables()
    # In 8 bits and by table, with as few large arrays as can be: 2 ms of one core for 1024 x 1024 pixels.
    dimmed = cv2.multiply(display, cv2.LUT(share, transmission), scale=1 / 255)
    overlay = np.asarray(cv2.applyColorMap(share, colour), dtype=np.uint8)
    cv2.add(overlay, cv2.cvtColor(dimmed, cv2.COLOR_GRAY2RGB), dst=overlay)
    _draw_marks(overlay, share, find_peak(activation))
    return overlay


def colour_scale(steps: int = 12) -> list[str]:
    """Return the colours of the overlay from 0 to the peak, as CSS colours over black."""
    colour, _ = _overlay_tables()
    shades = np.clip(colour[np.linspace(0, 255, steps).astype(int), 0] / _MAX_OPACITY, 0, 255).astype(int)
    return [f"rgb({red},{green},{blue})" for red, green, blue in shades.tolist()]


def _display_centres(n_display: int, n_stored: int) -> NDArray[np.float64]:
    """Return the centres of the display pixels of one axis, in stored pixels."""
    return (np.arange(n_display, dtype=np.float64) + 0.5) * (n_stored / n_display)


def _cubic_weights(position: NDArray[np.float64], n_cells: int) -> Float32:
    """Return how much each cell counts at each place: float32 [len(position), n_cells], rows add up to 1.

    `position` counts in cells from the centre of the first. Cells that the kernel would need beyond the outermost
    ones are copies of these, as everywhere where Grad-CAM is enlarged. Beyond their centres nothing rises or falls:
    the kernel would put a peak there, where no cell says anything.
    """
    inside = np.clip(position, 0, n_cells - 1)
    weights = np.zeros((len(inside), n_cells), dtype=np.float32)
    for step in (-1, 0, 1, 2):
        cell = np.floor(inside) + step
        column = np.clip(cell, 0, n_cells - 1).astype(int)
        weights[np.arange(len(inside)), column] += _keys_kernel(np.abs(inside - cell))
    return weights


def _keys_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of a cell at this distance, 0..2 cells (Keys 1981, equation 15)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, far)


@cache
def _overlay_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return, per share of the peak 0..255: colour times opacity, uint8 [256,1,3], and what shines through, [256].

    The colours are a stretch of matplotlib's inferno (perceptually uniform, readable in grey and by the colour
    blind), without its blackest end, which would darken the lungs, and its palest, which would look like bone.
    """
    shades = np.linspace(_DARKEST_SHADE, _BRIGHTEST_SHADE, 256).round().astype(np.uint8)
    inferno = cv2.applyColorMap(shades[np.newaxis], cv2.COLORMAP_INFERNO)[:, :, ::-1]
    ramp = np.clip((np.linspace(0, 1, 256) - _TRANSPARENT_BELOW) / (_OPAQUEST_FROM - _TRANSPARENT_BELOW), 0, 1)
    opacity = _MAX_OPACITY * ramp * ramp * (3 - 2 * ramp)
    colour = (inferno * opacity[np.newaxis, :, np.newaxis]).round().astype(np.uint8)
    return colour.reshape(256, 1, 3), (255 * (1 - opacity)).round().astype(np.uint8)


def _draw_marks(overlay: Rgb8, share: Gray8, peak: tuple[int, int]) -> None:
    """Draw the line at half of the peak and the ring at the peak, light on a dark edge, seen on bone and on air."""
    scale = max(share.shape) / _MARKS_OF_PX
    light = max(1, round(2 * scale))
    dark = max(light + 1, round(4 * scale))
    inside = (share >= round(255 * CONTOUR_SHARE)).astype(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # Every line costs, also one from pixel to pixel: a fifth of them is never further off than half a pixel.
    lines = [cv2.approxPolyDP(contour, _LINE_WITHIN_PX, closed=True) for contour in contours]
    row, column = peak
    for colour, thickness in ((_LINE_SHADOW, dark), (_LINE, light)):
        cv2.drawContours(overlay, lines, -1, colour, thickness, cv2.LINE_AA)
        cv2.circle(overlay, (column, row), max(4, round(9 * scale)), colour, thickness, cv2.LINE_AA)
