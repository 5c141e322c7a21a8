"""The five findings a phantom may have: where they lie and how far they reach, each from its own random stream."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.phantom.anatomy import LEFT, RIGHT, SIDES, Patient, Side, Stream, lung_outline, open_stream
from cxrbatch.phantom.grid import Grid, Points
from cxrbatch.phantom.shapes import Shapes
from cxrbatch.records import Float32

FINDINGS: tuple[str, ...] = ("Cardiomegaly", "Effusion", "Pneumothorax", "Nodule", "Consolidation")

CARDIOMEGALY, EFFUSION, PNEUMOTHORAX, NODULE, CONSOLIDATION = FINDINGS
# Far enough from any lesion; not so far that resampling a field would ring beside it.
_NOWHERE = np.float32(-3.0)
_N_CANDIDATES = 256


@dataclass(frozen=True, slots=True)
class Nodule:
    """A roundish solid lump, in patient cm; `lobes` are amplitude and phase of its outline's ripples."""

    x: float
    y: float
    radius: float
    density: float
    lobes: tuple[tuple[float, float], ...]

    def depth(self, x: Float32, y: Float32) -> Float32:
        """Return how deep points lie inside the outline, cm, negative outside."""
        dx, dy = x - np.float32(self.x), y - np.float32(self.y)
        angle = cv2.phase(dx, dy)
        ripple = sum(
            np.float32(amplitude) * np.cos(np.float32(order) * angle + np.float32(phase))
            for order, (amplitude, phase) in enumerate(self.lobes, start=2)
        )
        return np.asarray(np.float32(self.radius) * (1 + ripple) - cv2.magnitude(dx, dy), np.float32)


@dataclass(frozen=True, slots=True)
class Lesions:
    """What is wrong with this patient. Fields are float32 on the shape grid, cm inside the lesion, negative outside.

    `heart_ratio` replaces the patient's own; `collapsed` is the depth inside lungs that a pneumothorax
    has made smaller; `strength` says how much of the air a consolidation replaced, 0..1.
    """

    heart_ratio: float | None = None
    fluid: Float32 | None = None
    collapsed: Float32 | None = None
    consolidation: Float32 | None = None
    strength: float = 0.0
    nodules: tuple[Nodule, ...] = field(default=())


def choose_findings(seed: int) -> tuple[str, ...]:
    """Draw which findings a patient has: four in ten have none, the others one or, a third of them, two."""
    rng = open_stream(seed, Stream.FINDINGS)
    if rng.random() < 0.4:
        return ()
    chosen = rng.choice(len(FINDINGS), size=2 if rng.random() < 0.33 else 1, replace=False)
    return tuple(name for index, name in enumerate(FINDINGS) if index in chosen)


def draw_lesions(seed: int, findings: Collection[str], patient: Patient, shapes: Shapes) -> Lesions:
    """Draw the asked-for findings into this patient.

    Every finding has a stream of its own, so it looks the same whatever else the patient has; only
    nodules look for a place that no other lesion hides.
    """
    lesions = Lesions()
    if CARDIOMEGALY in findings:
        rng = open_stream(seed, Stream.CARDIOMEGALY)
        lesions = replace(lesions, heart_ratio=0.53 + 0.14 * float(rng.beta(1.4, 1.6)))
    if EFFUSION in findings:
        lesions = replace(lesions, fluid=_draw_fluid(open_stream(seed, Stream.EFFUSION), patient, shapes))
    if PNEUMOTHORAX in findings:
        lesions = replace(lesions, collapsed=_draw_collapse(open_stream(seed, Stream.PNEUMOTHORAX), patient, shapes))
    if CONSOLIDATION in findings:
        rng = open_stream(seed, Stream.CONSOLIDATION)
        consolidation = _draw_consolidation(rng, patient, shapes)
        lesions = replace(lesions, consolidation=consolidation, strength=float(rng.uniform(0.6, 1.0)))
    if NODULE in findings:
        rng = open_stream(seed, Stream.NODULE)
        lesions = replace(lesions, nodules=_draw_nodules(rng, patient, shapes, lesions))
    return lesions


def lesion_masks(lesions: Lesions, shapes: Shapes, grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """Return where each lesion lies on the image: bool [rows, columns] of `grid` for every finding present."""
    lung = grid.resample(shapes.lung) > 0
    masks: dict[str, NDArray[np.bool_]] = {}
    if lesions.heart_ratio is not None:
        masks[CARDIOMEGALY] = grid.resample(shapes.heart) > 0
    if lesions.fluid is not None:
        masks[EFFUSION] = lung & (grid.resample(lesions.fluid) > 0)
    if lesions.collapsed is not None:
        masks[PNEUMOTHORAX] = lung & (grid.resample(lesions.collapsed) < -0.1)
    if lesions.nodules:
        masks[NODULE] = nodules_depth(lesions.nodules, grid) > 0
    if lesions.consolidation is not None:
        masks[CONSOLIDATION] = lung & (grid.resample(lesions.consolidation) > 0)
    return masks


def nodules_depth(nodules: tuple[Nodule, ...], grid: Grid) -> Float32:
    """Return how deep each pixel lies inside the nearest nodule, cm, negative outside."""
    x, y = grid.coordinates()
    return np.asarray(np.maximum.reduce([nodule.depth(x, y) for nodule in nodules]), np.float32)


def _draw_sides(rng: np.random.Generator, *, both: float) -> tuple[Side, ...]:
    if rng.random() < both:
        return SIDES
    return (LEFT,) if rng.random() < 0.5 else (RIGHT,)


def _draw_fluid(rng: np.random.Generator, patient: Patient, shapes: Shapes) -> Float32:
    """Fluid that fills the costophrenic angle and climbs the side wall: the meniscus is concave upwards."""
    fluid = np.full_like(shapes.lung, _NOWHERE)
    for side in _draw_sides(rng, both=0.25):
        wall_x, angle_y = patient.costophrenic(side)
        height = float(patient.recess + 0.8 + 8.5 * rng.beta(1.2, 2.2))
        sag = float(rng.uniform(1.5, 3.0)) + 0.12 * height
        along = np.clip(side * shapes.x / abs(wall_x), 0.0, 1.1)
        surface = angle_y - height + sag * (1 - along**4)
        inside = np.minimum(shapes.y - surface, 0.4 * (side * shapes.x - 2.2))
        fluid = np.maximum(fluid, inside)
    return np.asarray(fluid, np.float32)


def _draw_collapse(rng: np.random.Generator, patient: Patient, shapes: Shapes) -> Float32:
    """Air between chest wall and lung: the lung shrinks towards its hilum, most at apex and side."""
    side = LEFT if rng.random() < 0.5 else RIGHT
    pull = 0.24 + 0.36 * float(rng.beta(1.2, 2.0))
    base_pull = float(rng.uniform(0.15, 0.7))
    outlines = [lung_outline(patient, each) for each in SIDES if each != side]
    outlines.append(_shrunken(lung_outline(patient, side), patient, side, pull, base_pull))
    return shapes.grid.depth_inside(outlines)


def _shrunken(outline: Points, patient: Patient, side: Side, pull: float, base_pull: float) -> Points:
    hilum = np.array(patient.hilum(side))
    lateral = np.clip((side * (outline[:, 0] - hilum[0]) + 1.5) / 4.0, 0.0, 1.0)
    height = np.clip(outline[:, 1] / patient.dome(side), 0.0, 1.0)
    apical = np.clip(1.0 - height / 0.25, 0.0, 1.0)
    weight = np.maximum(lateral * (1.0 + (base_pull - 1.0) * height**2), apical)
    weight = np.where(outline[:, 1] > patient.dome(side) - 0.5, np.minimum(weight, base_pull * lateral), weight)
    return np.asarray(outline + (hilum - outline) * (pull * weight)[:, None])


def _draw_consolidation(rng: np.random.Generator, patient: Patient, shapes: Shapes) -> Float32:
    """A cloud of filled air spaces: an ellipse with a ragged edge, sometimes cut off straight by a fissure."""
    place = _place_in_lung(rng, patient, shapes, margin=2.2, clear_of=np.full_like(shapes.lung, _NOWHERE))
    width, height = float(rng.uniform(2.4, 5.2)), float(rng.uniform(2.2, 4.6))
    turn = float(rng.uniform(-0.6, 0.6))
    dx, dy = shapes.x - place[0], shapes.y - place[1]
    across = (math.cos(turn) * dx + math.sin(turn) * dy) / width
    down = (math.cos(turn) * dy - math.sin(turn) * dx) / height
    depth = (1.0 - np.sqrt(across**2 + down**2)) * min(width, height)
    # The unevenness is laid over the patient, not over the pixels, so that every image size shows the same cloud.
    coarse, fine = (_uneven(rng, shapes, scale) for scale in (2.6, 1.1))
    depth = depth + (0.9 * coarse + 0.45 * fine) * np.clip(1.0 + depth / 1.5, 0.0, 1.0)
    if rng.random() < 0.35:
        fissure = place[1] + float(rng.uniform(0.2, 0.7)) * height
        depth = np.minimum(depth, (fissure - shapes.y - 0.06 * np.abs(shapes.x)) * 2.5)
    depth = np.minimum(depth, np.sign(place[0]) * shapes.x - 0.5)
    return np.asarray(np.maximum(depth, _NOWHERE), np.float32)


def _uneven(rng: np.random.Generator, shapes: Shapes, scale_cm: float) -> Float32:
    """Smooth noise of about unit deviation with bumps `scale_cm` wide, fixed to the patient."""
    cells = round(64 / scale_cm)
    noise = rng.standard_normal((cells, cells), dtype=np.float32)
    to_cell = np.float32(cells / 64.0)
    map_x, map_y = (shapes.x + 32.0) * to_cell, (shapes.y + 20.0) * to_cell
    return np.asarray(1.4 * cv2.remap(noise, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), np.float32)


def _draw_nodules(rng: np.random.Generator, patient: Patient, shapes: Shapes, others: Lesions) -> tuple[Nodule, ...]:
    nodules: list[Nodule] = []
    occupied = _hidden_by(others, shapes)
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.35, 0.3, 0.2, 0.15]))):
        radius = 1.05 + 0.5 * float(rng.beta(1.5, 1.8))
        x, y = _place_in_lung(rng, patient, shapes, margin=0.9 * radius, clear_of=occupied + np.float32(radius))
        lobes = tuple((float(rng.uniform(0.0, 0.06)), float(rng.uniform(0, 2 * np.pi))) for _ in range(3))
        nodules.append(Nodule(x, y, radius, float(rng.uniform(1.9, 2.9)), lobes))
        occupied = np.maximum(occupied, nodules[-1].depth(shapes.x, shapes.y) + np.float32(0.5))
    return tuple(nodules)


def _hidden_by(lesions: Lesions, shapes: Shapes) -> Float32:
    """Return the depth inside everything in which a nodule could not be seen."""
    hiding = [np.full_like(shapes.lung, _NOWHERE)]
    hiding += [each for each in (lesions.fluid, lesions.consolidation) if each is not None]
    if lesions.collapsed is not None:
        hiding.append(-lesions.collapsed)
    return np.asarray(np.maximum.reduce(hiding), np.float32)


def _place_in_lung(
    rng: np.random.Generator, patient: Patient, shapes: Shapes, *, margin: float, clear_of: Float32
) -> tuple[float, float]:
    """Draw a point in the visible lung, `margin` cm from its border, where `clear_of` is not positive.

    Candidates are drawn over the patient, not over the image, so another pose or image size moves nothing.
    Where all are taken, the one deepest in the lung will do.
    """
    reach = patient.thorax_half_width
    candidates = rng.uniform([-reach, 0.0], [reach, patient.right_dome + 3.0], (_N_CANDIDATES, 2))
    columns, rows = np.rint(shapes.grid.to_px(candidates)).astype(int).T
    columns, rows = columns.clip(0, shapes.grid.columns - 1), rows.clip(0, shapes.grid.rows - 1)
    free = np.minimum(shapes.visible_lung, 0.9 * shapes.lung_on_image)[rows, columns] - margin
    taken = clear_of[rows, columns]
    suited = np.flatnonzero((free > 0) & (taken <= 0))
    chosen = suited[0] if suited.size else np.argmax(free - 2 * np.maximum(taken, 0.0))
    return float(candidates[chosen, 0]), float(candidates[chosen, 1])
