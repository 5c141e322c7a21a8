"""From a patient to what a beam loses on its way: attenuation along every ray.

Every organ adds how much it weakens the beam (Beer-Lambert); lungs take away the tissue they are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.phantom.anatomy import SIDES, Patient, Side
from cxrbatch.phantom.grid import SUBPIXEL_BITS, Grid, Points
from cxrbatch.phantom.lesions import Lesions, Nodule
from cxrbatch.phantom.shapes import Shapes
from cxrbatch.phantom.skeleton import ribs, shoulder_girdle, spine
from cxrbatch.records import Float32

# Effective attenuation of soft tissue at 110-125 kVp behind a grid, per cm.
TISSUE_PER_CM = np.float32(0.165)
# Calibre and length in cm of each generation, from the hilum outwards.
_CALIBRE = (0.95, 0.62, 0.42, 0.29, 0.20)
_LENGTH = (2.6, 3.0, 2.8, 2.6, 2.3)
_N_TRUNKS = 9


@dataclass(frozen=True, slots=True)
class _Lung:
    """What a lesion meets: lung along each ray in cm, vessels and texture in cm of water, unevenness as drawn."""

    air: Float32
    structure: Float32
    unevenness: Float32


def attenuate(
    grid: Grid, patient: Patient, shapes: Shapes, lesions: Lesions, branches: list[Points], unevenness: Float32
) -> Float32:
    """Return the attenuation of everything along each ray, natural log units, float32 on `grid`."""
    air = air_filled(patient, shapes, grid)
    tissue = soft_tissue(patient, shapes, grid, air)
    vessels = np.float32(patient.vessels) * vessel_thickness(branches, grid)
    vessels *= np.clip((air - 1.0) / 7.0, 0.0, 1.0)
    texture = unevenness * np.float32(0.017) * air
    structure = vessels + texture
    tissue += _lesion_tissue(grid, patient, shapes, lesions, _Lung(air, structure, unevenness))
    tissue += structure
    bones = ribs(patient, shapes, grid) + spine(patient, shapes, grid) + shoulder_girdle(patient, grid)
    return np.asarray(TISSUE_PER_CM * tissue + bones * _inside_skin(shapes, grid), np.float32)


def soft_tissue(patient: Patient, shapes: Shapes, grid: Grid, air: Float32) -> Float32:
    """Return how much tissue a ray crosses, in cm of water, float32 on `grid`; bones and vessels aside."""
    y = grid.resample(shapes.y)
    trunk = np.clip((y + 7.0) / 12.0, 0.0, 1.0)
    thickness = np.float32(patient.body_depth) * (0.58 + 0.42 * trunk * trunk * (3 - 2 * trunk))
    beside = np.clip((np.abs(grid.resample(shapes.x)) - np.float32(patient.thorax_half_width - 3)) / 6.0, 0.0, 1.0)
    thickness *= 1.0 - 0.35 * beside * np.clip((16.0 - y) / 8.0, 0.0, 1.0)
    tissue = thickness * bulge(grid.resample(shapes.body), 6.0)
    tissue -= np.float32(1.0 - patient.lung_density) * air
    covered = np.clip(0.25 + grid.resample(shapes.mediastinum) / 0.8, 0.0, 1.0)
    tissue -= np.float32(1.2) * covered * bulge(grid.resample(shapes.airway), 0.8)
    if shapes.breast is not None:
        tissue += np.float32(patient.breast) * bulge(grid.resample(shapes.breast), 4.5)
    if shapes.gas is not None:
        tissue -= np.float32(2.5 + 2.0 * patient.gas_bubble) * bulge(grid.resample(shapes.gas), 2.0)
    return np.asarray(np.maximum(tissue, 0.0), np.float32)


def air_filled(patient: Patient, shapes: Shapes, grid: Grid) -> Float32:
    """Return how much lung a ray crosses, in cm, float32 on `grid`; heart and great vessels take its room."""
    lung = np.float32(1.08 * patient.thorax_half_width) * bulge(grid.resample(shapes.lung), 6.0)
    heart = 1.0 - np.float32(0.80) * bulge(grid.resample(shapes.heart), 3.6)
    # Below the great vessels only aorta and gullet are left of the mediastinum, faint behind the heart.
    low = np.clip((np.float32(0.62 * patient.right_dome) - grid.resample(shapes.y)) / 4.0, 0.3, 1.0)
    vessels = 1.0 - np.float32(0.95) * low * bulge(grid.resample(shapes.mediastinum), 1.3)
    return np.asarray(lung * heart * vessels, np.float32)


def uneven_lung(rng: np.random.Generator, grid: Grid) -> Float32:
    """Return the fine structure of lung: noise in octaves from 3 cm to 3 mm, float32 on `grid`, deviation about 1."""
    x, y = grid.coordinates()
    total = np.zeros_like(x)
    for cells, share in ((24, 0.25), (80, 0.4), (200, 0.6)):
        noise = rng.standard_normal((cells, cells), dtype=np.float32)
        to_cell = np.float32(cells / 64.0)
        total += share * cv2.remap(
            noise, (x + 32) * to_cell, (y + 20) * to_cell, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
    return total


def draw_branches(rng: np.random.Generator, patient: Patient) -> list[Points]:
    """Grow the vessel trees of both lungs: per generation an array [n, 4, 2] of bent segments in patient cm."""
    trees = [_grow(rng, patient, side) for side in SIDES]
    return [np.concatenate(pair) for pair in zip(*trees, strict=True)]


def vessel_thickness(generations: list[Points], grid: Grid) -> Float32:
    """Return how much vessel a ray meets, in cm: float32 on `grid`."""
    total = np.zeros((grid.rows, grid.columns), np.float32)
    for calibre, segments in zip(_CALIBRE, generations, strict=True):
        canvas = np.zeros((grid.rows, grid.columns), np.uint8)
        lines: NDArray[np.int32] = grid.to_fixed_point(segments)
        # A blurred line keeps its sum across, so its calibre is right on an image of any size.
        cv2.polylines(canvas, list(lines), False, 160, 1, cv2.LINE_AA, SUBPIXEL_BITS)
        sigma = max(0.34 * calibre / grid.cm_per_px, 0.4)
        # A round vessel's thickness, summed across it, is pi / 4 times its calibre squared.
        section = np.float32(0.785 * calibre * calibre / grid.cm_per_px / 160)
        total += cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), sigma) * section
    return total


def bulge(depth: Float32, reach: float) -> Float32:
    """Return 0..1: how thick a rounded body is at `depth` inside its outline, full from `reach` on."""
    inward = np.clip(depth * np.float32(1 / reach), 0.0, 1.0)
    return np.asarray(np.sqrt(inward * (2.0 - inward)), np.float32)


def _inside_skin(shapes: Shapes, grid: Grid) -> Float32:
    """Return 1 inside the skin and 0 outside, soft by two millimetres, float32 on `grid`."""
    return np.asarray(np.clip(grid.resample(shapes.body) / 0.4, 0.0, 1.0), np.float32)


def _lesion_tissue(grid: Grid, patient: Patient, shapes: Shapes, lesions: Lesions, lung: _Lung) -> Float32:
    """Return what the lesions add to the tissue along each ray, in cm of water (negative: air)."""
    air, structure = lung.air, lung.structure
    added = np.zeros_like(air)
    water = np.float32(1.0 - patient.lung_density)
    if lesions.collapsed is not None:
        depth = grid.resample(lesions.collapsed)
        gone = np.clip(0.5 - depth / np.float32(0.12), 0.0, 1.0) * np.clip(grid.resample(shapes.lung) / 0.15, 0.0, 1.0)
        added -= gone * (np.float32(0.85 * patient.lung_density) * air + structure)
        added += _pleural_line(depth, grid) * np.clip(air / 3.0, 0.0, 1.0)
    if lesions.consolidation is not None:
        filled = np.clip(grid.resample(lesions.consolidation) / 2.0, 0.0, 1.0) * np.float32(lesions.strength)
        patchy = 0.74 + np.float32(0.09) * lung.unevenness
        # Vessels drown in it and the bronchi beside them show as dark branches instead: air bronchograms.
        added += filled * (patchy * water * air - np.float32(1.8) * structure)
    if lesions.fluid is not None:
        depth = grid.resample(lesions.fluid)
        filled = np.clip(depth / 2.2 + 0.25, 0.0, 1.0) * np.clip(depth / 0.25 + 0.5, 0.0, 1.0)
        added += filled * (np.float32(0.93) * water * air - structure)
    if lesions.nodules:
        x, y = grid.coordinates()
        for nodule in lesions.nodules:
            added += _lump(nodule, x, y)
    return added


def _pleural_line(depth: Float32, grid: Grid) -> Float32:
    """Return the thin line of the visceral pleura, seen edge-on; at least about a pixel wide."""
    half = max(0.05, 0.6 * grid.cm_per_px)
    return np.asarray(np.float32(0.5 * 0.05 / half + 0.25) * np.exp(-((depth / np.float32(half)) ** 2)), np.float32)


def _lump(nodule: Nodule, x: Float32, y: Float32) -> Float32:
    """Return the chord through a nearly round nodule, in cm of water."""
    depth = np.clip(nodule.depth(x, y), 0.0, nodule.radius)
    return np.asarray(np.float32(2 * nodule.density) * np.sqrt(depth * (2 * nodule.radius - depth)), np.float32)


def _grow(rng: np.random.Generator, patient: Patient, side: Side) -> list[Points]:
    start = np.tile(np.array(patient.hilum(side)), (_N_TRUNKS, 1)) + rng.normal(0, [0.35, 1.1], (_N_TRUNKS, 2))
    # From straight up to down along the heart; 0 points outwards. The lower lobes have more and larger vessels.
    heading = np.linspace(-1.35, 1.45, _N_TRUNKS) + rng.normal(0, 0.12, _N_TRUNKS)
    generations: list[Points] = []
    for length in _LENGTH:
        reach = length * (0.75 + 0.5 * rng.random(len(start))) * patient.right_dome / 21.0
        segments, bend = _bent(start, heading, reach, rng.normal(0, 0.14, len(start)), side)
        generations.append(segments)
        spread = rng.uniform(0.18, 0.52, len(start))
        start = np.repeat(segments[:, -1], 2, axis=0)
        heading = np.stack([bend - spread, bend + 0.8 * spread], axis=1).ravel()
        heading = heading + rng.normal(0, 0.10, len(heading))
    return generations


def _bent(
    start: Points, heading: NDArray[np.float64], reach: NDArray[np.float64], turn: NDArray[np.float64], side: Side
) -> tuple[Points, NDArray[np.float64]]:
    """Return three-piece curves [n, 4, 2] and the heading [n] in which they end."""
    points, angle = [start], heading
    for _ in range(3):
        step = np.stack([side * np.cos(angle), np.sin(angle)], axis=1) * (reach / 3)[:, None]
        points.append(points[-1] + step)
        angle = angle + turn
    return np.stack(points, axis=1), angle
