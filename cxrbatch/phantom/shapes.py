"""A patient's organs on the shape grid: how deep every point lies inside each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrbatch.phantom.anatomy import (
    SIDES,
    Patient,
    body_outlines,
    breast_outlines,
    gas_bubble_outline,
    heart_outline,
    lung_outline,
    mediastinum_outline,
)
from cxrbatch.phantom.grid import SHAPE_GRID_PX, Grid, smooth_open, tube_outline
from cxrbatch.records import Float32


@dataclass(frozen=True, slots=True)
class Shapes:
    """Depth inside each organ in cm, negative outside: float32 [h,w] on `grid`, the shape grid.

    `x`, `y` are patient coordinates; `breast` and `gas` are None where there is nothing to see.
    """

    grid: Grid
    x: Float32
    y: Float32
    body: Float32
    lung: Float32
    heart: Float32
    mediastinum: Float32
    airway: Float32
    breast: Float32 | None
    gas: Float32 | None

    @property
    def visible_lung(self) -> Float32:
        """Depth inside the part of the lungs that neither heart nor mediastinum covers."""
        return np.asarray(np.minimum.reduce([self.lung, -self.heart, -self.mediastinum]), np.float32)

    @property
    def lung_on_image(self) -> Float32:
        """Depth inside the lungs, but no more than the distance to the image's edge."""
        rows, columns = self.lung.shape
        down = np.minimum(np.arange(rows), np.arange(rows)[::-1])[:, None]
        along = np.minimum(np.arange(columns), np.arange(columns)[::-1])[None, :]
        edge = np.minimum(down, along) * np.float32(self.grid.cm_per_px)
        return np.asarray(np.minimum(self.lung, edge), np.float32)


def lay_out(patient: Patient, image: Grid, heart_ratio: float | None = None) -> Shapes:
    """Lay the patient's organs over an image; `heart_ratio` replaces the patient's own."""
    grid = image.with_long_side(SHAPE_GRID_PX)
    x, y = grid.coordinates()
    hila = [np.array(patient.hilum(side)) + np.array([0.0, 1.0]) for side in SIDES]
    carina = np.array([0.2 + patient.mediastinum_shift, 0.33 * patient.right_dome])
    trachea = smooth_open(
        np.array([[patient.mediastinum_shift, -12.0], [0.1 + patient.mediastinum_shift, 0.0], carina])
    )
    bronchi = [smooth_open(np.array([carina, 0.55 * carina + 0.45 * hilum, hilum])) for hilum in hila]
    airways = [tube_outline(trachea, 0.9), *(tube_outline(bronchus, 0.45) for bronchus in bronchi)]
    return Shapes(
        grid=grid,
        x=x,
        y=y,
        body=grid.depth_inside(body_outlines(patient)),
        lung=grid.depth_inside([lung_outline(patient, side) for side in SIDES]),
        heart=grid.depth_inside([heart_outline(patient, heart_ratio or patient.heart_ratio)]),
        mediastinum=grid.depth_inside([mediastinum_outline(patient)]),
        airway=grid.depth_inside(airways),
        breast=grid.depth_inside(breast_outlines(patient)) if patient.breast > 0.25 else None,
        gas=grid.depth_inside([gas_bubble_outline(patient)]) if patient.gas_bubble else None,
    )
