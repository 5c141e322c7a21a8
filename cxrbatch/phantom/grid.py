"""Where the patient lies in the image: patient centimetres to pixels and back, and outlines to distance fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.records import Float32

Points = NDArray[np.float64]

# Shapes are drawn on a grid of this size, whatever the image's: their distance fields are smooth, so they
# can be resampled to any size, and the same patient has the same outlines on a small and on a large image.
SHAPE_GRID_PX = 192
SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class Grid:
    """A pixel grid laid over the patient.

    Patient coordinates are centimetres: x from the midline towards the patient's left (the right of the
    image), y downwards from the level of the lung apices. The image's centre lies over (`centre_x`,
    `centre_y`), and the patient is turned clockwise by `angle` radians.
    """

    rows: int
    columns: int
    cm_per_px: float
    centre_x: float
    centre_y: float
    angle: float

    def with_long_side(self, size_px: int) -> Grid:
        """Return a grid over the same image whose longer side has about `size_px` pixels."""
        factor = size_px / max(self.rows, self.columns)
        rows, columns = max(1, round(self.rows * factor)), max(1, round(self.columns * factor))
        return Grid(rows, columns, self.cm_per_px / factor, self.centre_x, self.centre_y, self.angle)

    def coordinates(self) -> tuple[Float32, Float32]:
        """Return x and y of every pixel centre in patient centimetres, both float32 [rows, columns]."""
        along = (np.arange(self.columns, dtype=np.float32) + 0.5 - self.columns / 2) * np.float32(self.cm_per_px)
        down = ((np.arange(self.rows, dtype=np.float32) + 0.5 - self.rows / 2) * np.float32(self.cm_per_px))[:, None]
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        x = cos * along + sin * down + np.float32(self.centre_x)
        y = cos * down - sin * along + np.float32(self.centre_y)
        return x, y

    def to_px(self, points: Points) -> Points:
        """Map patient centimetres [..., 2] to pixels [..., 2]; (0, 0) is the centre of the top left pixel."""
        x, y = points[..., 0] - self.centre_x, points[..., 1] - self.centre_y
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        px = np.empty(points.shape)
        px[..., 0] = (cos * x - sin * y) / self.cm_per_px + (self.columns / 2 - 0.5)
        px[..., 1] = (cos * y + sin * x) / self.cm_per_px + (self.rows / 2 - 0.5)
        return px

    def to_fixed_point(self, points: Points) -> NDArray[np.int32]:
        """Map patient centimetres to pixels in the fixed-point form that OpenCV draws with `SUBPIXEL_BITS`."""
        return np.rint(self.to_px(points) * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def fill(self, outlines: Sequence[Points]) -> NDArray[np.uint8]:
        """Return uint8 [rows, columns], 255 inside any of the closed outlines."""
        canvas = np.zeros((self.rows, self.columns), np.uint8)
        for outline in outlines:
            cv2.fillPoly(canvas, [self.to_fixed_point(outline)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        return canvas

    def depth_inside(self, outlines: Sequence[Points]) -> Float32:
        """Return how deep each pixel lies inside the outlines in cm: float32 [rows, columns], negative outside."""
        covered = self.fill(outlines)
        inside = cv2.distanceTransform((covered >= 128).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        outside = cv2.distanceTransform((covered < 128).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        signed = cv2.GaussianBlur(inside - outside, (0, 0), 1.3)
        return np.asarray(signed * np.float32(self.cm_per_px), np.float32)

    def resample(self, field: Float32) -> Float32:
        """Resample a field of another grid over the same image onto this one: smoothly up, by area means down."""
        if field.shape == (self.rows, self.columns):
            return field
        way = cv2.INTER_AREA if field.shape[0] > self.rows else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(field, (self.columns, self.rows), interpolation=way), np.float32)


def smooth_closed(corners: Points, *, points_per_edge: int = 8) -> Points:
    """Return a closed Catmull-Rom curve through `corners` [N, 2], as [N * points_per_edge, 2]."""
    count = len(corners)
    ring = corners[np.arange(-1, count + 2) % count]
    return _catmull_rom(ring, points_per_edge)


def smooth_open(corners: Points, *, points_per_edge: int = 8) -> Points:
    """Return an open Catmull-Rom curve from the first to the last of `corners` [N, 2]."""
    padded = np.concatenate([2 * corners[:1] - corners[1:2], corners, 2 * corners[-1:] - corners[-2:-1]])
    return np.concatenate([_catmull_rom(padded, points_per_edge), corners[-1:]])


def tube_outline(centre_line: Points, radius: NDArray[np.float64] | float) -> Points:
    """Return the closed outline of a tube around `centre_line` [N, 2]; `radius` in cm, one or one per point."""
    direction = np.gradient(centre_line, axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1) / np.linalg.norm(direction, axis=1, keepdims=True)
    offset = normal * np.broadcast_to(radius, len(centre_line))[:, None]
    return np.concatenate([centre_line + offset, (centre_line - offset)[::-1]])


def _catmull_rom(corners: Points, points_per_edge: int) -> Points:
    """Return the curve through all `corners` [N, 2] but the first and the last two, which give it direction."""
    t = (np.arange(points_per_edge) / points_per_edge)[:, None]
    powers = np.concatenate([np.ones_like(t), t, t**2, t**3], axis=1)
    weights = 0.5 * powers @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]])
    windows = np.lib.stride_tricks.sliding_window_view(corners, 4, axis=0)  # [N - 3, 2, 4]
    return np.asarray(np.einsum("tk,nck->ntc", weights, windows).reshape(-1, 2))
