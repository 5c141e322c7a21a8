"""The bones of a patient as attenuation: ribs on the curved chest wall, spine, clavicles, shoulder blades."""

from __future__ import annotations

import cv2
import numpy as np

from cxrbatch.phantom.anatomy import SIDES, Patient, Side, mirrored
from cxrbatch.phantom.grid import Grid, Points, smooth_closed, smooth_open, tube_outline
from cxrbatch.phantom.shapes import Shapes
from cxrbatch.records import Float32

N_RIBS = 11


def ribs(patient: Patient, shapes: Shapes, grid: Grid) -> Float32:
    """Return the ribs' attenuation (natural log units), float32 on `grid`.

    A ray meets the chest wall, an ellipse in cross-section, twice: at angle t behind and at pi - t in
    front. A rib keeps its distance to its neighbours while it runs round that wall and downwards, so
    the height at which it left the spine tells which rib a point of the wall belongs to.
    """
    across = np.abs(shapes.x - _spine_line(patient, shapes.y)) / (patient.lung_half_width(shapes.y) + np.float32(0.45))
    round_wall = np.sqrt(np.clip(1.0 - across * across, 0.0, None))
    # The sheet of bone is seen edge-on at the side wall, where a ray stays in it for longest.
    edge_on = np.clip(0.55 / (round_wall + 0.18), 0.8, 1.7)
    on_wall = np.clip((1.0 - across) / 0.03, 0.0, 1.0)
    from_spine = np.clip((np.abs(shapes.x) - 1.2) / 1.2, 0.0, 1.0)
    back = _rib_sheet(patient, shapes, grid, turn=(1.0 - round_wall) / 2 + 0.10 * across, spread=1.0)
    front = _rib_sheet(patient, shapes, grid, turn=(1.0 + round_wall) / 2 + 0.10, spread=1.12)
    # In front, ribs end in cartilage, which shows no better than muscle; the lower the rib, the further out.
    end = 3.0 + 0.28 * np.clip(shapes.y - 4.0, 0.0, None)
    bony = np.clip((np.abs(shapes.x) - end) / 2.5, 0.0, 1.0) * np.clip((19.0 - shapes.y) / 5.0, 0.0, 1.0)
    weight_back = grid.resample(np.asarray(edge_on * on_wall * from_spine, np.float32))
    weight_front = grid.resample(np.asarray(edge_on * on_wall * bony, np.float32))
    return np.asarray(np.float32(patient.bone) * (0.24 * weight_back * back + 0.17 * weight_front * front), np.float32)


def spine(patient: Patient, shapes: Shapes, grid: Grid) -> Float32:
    """Return the spine's attenuation, float32 on `grid`: bodies, discs, pedicles, processes."""
    total = np.zeros((grid.rows, grid.columns), np.float32)
    x = grid.resample(np.asarray(shapes.x - _spine_line(patient, shapes.y), np.float32))
    near = np.flatnonzero((np.abs(x[:: max(1, len(x) // 16)]) < 4.2).any(axis=0))
    if near.size:
        strip = slice(int(near[0]), int(near[-1]) + 1)
        total[:, strip] = np.float32(patient.bone) * _vertebrae(x[:, strip], grid.resample(shapes.y)[:, strip])
    return total


def shoulder_girdle(patient: Patient, grid: Grid) -> Float32:
    """Return the attenuation of clavicles, shoulder blades and upper arms, float32 on `grid`."""
    total = np.zeros((grid.rows, grid.columns), np.float32)
    for side in SIDES:
        line, radius = _clavicle(patient, side)
        total += 0.42 * _shell(grid, [(tube_outline(line, radius * share), share) for share in (1.0, 0.84, 0.6)])
        blade, spine_of_scapula, head, shaft = _scapula(patient, side)
        total += 0.15 * _shell(grid, [(blade, 1.0), (_inset(blade, 0.3), 0.35)])
        total += 0.20 * _shell(grid, [(spine_of_scapula, 1.0), (_inset(spine_of_scapula, 0.25), 0.6)])
        total += 0.42 * _shell(grid, [(head, 1.0), (_inset(head, 0.3), 0.85)])
        total += 0.42 * _shell(grid, [(shaft, 1.0), (_inset(shaft, 0.5), 0.7)])
    blurred = cv2.GaussianBlur(total, (0, 0), max(0.07 / grid.cm_per_px, 0.3))
    return np.asarray(np.float32(patient.bone) * blurred, np.float32)


def _vertebrae(x: Float32, y: Float32) -> Float32:
    """Return the attenuation of vertebrae by distance from the spine's line and height, both in cm."""
    level = (y + np.float32(9.0)) * np.float32(1 / 2.05)
    level = level - np.float32(0.0042) * level * level
    phase = level - np.floor(level) - np.float32(0.5)
    beside, from_middle = np.abs(x), np.abs(phase)
    half = np.float32(1.35) + np.float32(0.032) * np.clip(y + 4.0, 0.0, 26.0)
    inside = np.clip((half * (1.0 + np.float32(0.45) * phase * phase) - beside) / np.float32(0.6), 0.0, 1.0)
    disc = _ridge(from_middle, 0.5, 0.12)
    plate = _ridge(from_middle, 0.37, 0.07)
    around = cv2.magnitude((beside - 0.62 * half) / np.float32(0.30), (phase + np.float32(0.12)) / np.float32(0.17))
    pedicle = _ridge(around, 1.0, 0.4)
    process = _ridge(beside, 0.0, 0.42) * _ridge(phase, 0.25, 0.28)
    transverse = _ridge(phase, -0.12, 0.22) * np.clip((half + 1.3 - beside) / np.float32(0.4), 0.0, 1.0)
    column = inside * (np.float32(0.17) - np.float32(0.08) * disc + np.float32(0.05) * plate)
    return np.asarray(column + 0.07 * pedicle + 0.09 * process + 0.06 * transverse, np.float32)


def _ridge(position: Float32, centre: float, reach: float) -> Float32:
    """Return a smooth ridge of height 1 at `centre` that is gone at a distance of `reach`."""
    off = (position - np.float32(centre)) * np.float32(1 / reach)
    return np.asarray(np.square(np.clip(1 - off * off, 0.0, None)), np.float32)


def _spine_line(patient: Patient, y: Float32) -> Float32:
    """Return the sideways course of the spine, cm: a slight S."""
    return np.asarray(np.float32(patient.spine_curve) * np.sin((y - 2.0) * np.float32(0.24)), np.float32)


def _rib_sheet(patient: Patient, shapes: Shapes, grid: Grid, *, turn: Float32, spread: float) -> Float32:
    """Return 0..1 how much rib there is on one side of the wall; `turn` is 0 at the spine, 1 at the sternum."""
    drop = patient.rib_drop * np.clip(0.42 + 0.05 * (shapes.y + 1.0), 0.3, 1.0)
    start = np.clip(shapes.y - drop * turn - patient.rib_head, -1.5, 40.0)
    spacing, growth = patient.rib_spacing * spread, 0.034
    number = (np.sqrt(spacing**2 + 4 * growth * np.clip(start, -1.0, None)) - spacing) / (2 * growth)
    number = np.asarray(number, np.float32)
    gradient_y, gradient_x = np.gradient(number, np.float32(shapes.grid.cm_per_px))
    per_cm = np.clip(np.sqrt(gradient_x**2 + gradient_y**2), 0.25, 1.4).astype(np.float32)
    number, per_cm = grid.resample(number), grid.resample(per_cm)
    index = np.rint(number)
    offset = np.abs(number - index) / (per_cm * np.float32(patient.rib_half_width))
    tube = np.sqrt(np.clip(1.0 - offset * offset, 0.0, None))
    cortex = np.clip(1.0 - np.abs(offset - 0.86) / 0.14, 0.0, 1.0)
    exists = (index >= 0) & (index <= N_RIBS)
    return np.asarray((0.50 * tube + 0.55 * cortex) * exists, np.float32)


def _shell(grid: Grid, nested: list[tuple[Points, float]]) -> Float32:
    """Return nested outlines as levels 0..1: dense cortex outside, marrow within."""
    canvas = np.zeros((grid.rows, grid.columns), np.uint8)
    for outline, level in nested:
        cv2.fillPoly(canvas, [grid.to_fixed_point(outline)], round(255 * level), cv2.LINE_AA, 4)
    return np.asarray(canvas, np.float32) * np.float32(1 / 255)


def _inset(outline: Points, by_cm: float) -> Points:
    """Return a closed outline moved inwards, for outlines that run either way round."""
    along = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None]
    x, y = outline[:, 0], outline[:, 1]
    turning = np.sign(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    return np.asarray(outline - turning * by_cm * normal)


def _clavicle(patient: Patient, side: Side) -> tuple[Points, Points]:
    """Return a clavicle's centre line [N, 2] and its radius [N], from the sternum to the shoulder."""
    drop, y = patient.clavicle_drop, patient.clavicle_height
    corners = np.array(
        [[1.9, y + 1.1], [4.2, y + 0.6], [7.4, y - 0.4 - 0.3 * drop], [11.0, y - 1.4 - 0.8 * drop],
         [14.0, y - 1.7 - drop], [17.2, y - 1.1 - drop]]
    )  # fmt: skip
    line = smooth_open(corners)
    along = np.linspace(0.0, 1.0, len(line))
    blunt = np.sqrt(np.clip(1.02 - along**10, 0.0, 1.0))
    radius = 0.60 + 0.40 * np.exp(-((along / 0.12) ** 2)) + 0.18 * np.exp(-(((along - 1.0) / 0.15) ** 2))
    return mirrored(line, side), radius * blunt


def _scapula(patient: Patient, side: Side) -> list[Points]:
    """Return the closed outlines of blade, spine with acromion, and the head of the humerus."""
    out = patient.thorax_half_width - 3.2 + patient.scapula_out
    up = patient.shoulder_height - 0.5
    blade = np.array(
        [[out + 0.4, 2.6 + up], [out + 0.2, 6.5], [out + 0.9, 11.0], [out + 2.2, 14.4], [out + 3.2, 13.6],
         [out + 4.3, 9.5], [out + 5.6, 6.2], [out + 6.0, 4.2 + up], [out + 4.6, 2.6 + up], [out + 2.4, 2.0 + up]]
    )  # fmt: skip
    spine = np.array(
        [[out + 0.6, 4.8 + up], [out + 3.4, 3.0 + up], [out + 6.4, 1.0 + up], [out + 8.0, 0.6 + up],
         [out + 8.2, 1.6 + up], [out + 6.6, 2.3 + up], [out + 3.8, 4.0 + up], [out + 1.0, 5.5 + up]]
    )  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    head = np.stack([out + 8.3 + 2.3 * np.cos(angle), 4.4 + up + 2.5 * np.sin(angle)], axis=1)
    shaft = np.array([[out + 7.2, 6.0 + up], [out + 10.4, 5.0 + up], [out + 15.0, 24.0], [out + 12.0, 25.0]])
    return [mirrored(smooth_closed(outline), side) for outline in (blade, spine, head, shaft)]
