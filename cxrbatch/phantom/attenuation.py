"""From a patient to what a beam loses on its way: attenuation along every ray.

Every organ adds how much it weakens the beam (Beer-Lambert); lungs take away the tissue they are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from cxrbatch.phantom.anatomy import Patient
from cxrbatch.phantom.frame import Frame, Points
from cxrbatch.phantom.lesions import Lesions, Nodule
from cxrbatch.phantom.shapes import Shapes
from cxrbatch.phantom.skeleton import ribs, shoulder_girdle, spine
from cxrbatch.phantom.vessels import vessel_thickness
from cxrbatch.records import Float32

# Effective attenuation of soft tissue at 110-125 kVp behind a grid, per cm.
TISSUE_PER_CM = np.float32(0.165)


@dataclass(frozen=True, slots=True)
class _Lung:
    """What a lesion meets: lung along each ray in cm, vessels and texture in cm of water, unevenness as drawn."""

    air: Float32
    structure: Float32
    unevenness: Float32


def attenuate(
    frame: Frame, patient: Patient, shapes: Shapes, lesions: Lesions, branches: list[Points], unevenness: Float32
) -> Float32:
    """Return the attenuation of everything along each ray, natural log units, float32 on `frame`."""
    air = air_filled(patient, shapes, frame)
    tissue = soft_tissue(patient, shapes, frame, air)
    vessels = np.float32(patient.vessels) * vessel_thickness(branches, frame)
    vessels *= np.clip((air - 1.0) / 7.0, 0.0, 1.0)
    texture = unevenness * np.float32(0.017) * air
    structure = vessels + texture
    tissue += _lesion_tissue(frame, patient, shapes, lesions, _Lung(air, structure, unevenness))
    tissue += structure
    bones = ribs(patient, shapes, frame) + spine(patient, shapes, frame) + shoulder_girdle(patient, frame)
    return np.asarray(TISSUE_PER_CM * tissue + bones * _inside_skin(shapes, frame), np.float32)


def soft_tissue(patient: Patient, shapes: Shapes, frame: Frame, air: Float32) -> Float32:
    """Return how much tissue a ray crosses, in cm of water, float32 on `frame`; bones and vessels aside."""
    y = frame.resample(shapes.y)
    trunk = np.clip((y + 7.0) / 12.0, 0.0, 1.0)
    thickness = np.float32(patient.body_depth) * (0.58 + 0.42 * trunk * trunk * (3 - 2 * trunk))
    beside = np.clip((np.abs(frame.resample(shapes.x)) - np.float32(patient.thorax_half_width - 3)) / 6.0, 0.0, 1.0)
    thickness *= 1.0 - 0.35 * beside * np.clip((16.0 - y) / 8.0, 0.0, 1.0)
    tissue = thickness * bulge(frame.resample(shapes.body), 6.0)
    tissue -= np.float32(1.0 - patient.lung_density) * air
    covered = np.clip(0.25 + frame.resample(shapes.mediastinum) / 0.8, 0.0, 1.0)
    tissue -= np.float32(1.2) * covered * bulge(frame.resample(shapes.airway), 0.8)
    if shapes.breast is not None:
        tissue += np.float32(patient.breast) * bulge(frame.resample(shapes.breast), 4.5)
    if shapes.gas is not None:
        tissue -= np.float32(2.5 + 2.0 * patient.gas_bubble) * bulge(frame.resample(shapes.gas), 2.0)
    return np.asarray(np.maximum(tissue, 0.0), np.float32)


def air_filled(patient: Patient, shapes: Shapes, frame: Frame) -> Float32:
    """Return how much lung a ray crosses, in cm, float32 on `frame`; heart and great vessels take its room."""
    lung = np.float32(1.08 * patient.thorax_half_width) * bulge(frame.resample(shapes.lung), 6.0)
    heart = 1.0 - np.float32(0.80) * bulge(frame.resample(shapes.heart), 3.6)
    # Below the great vessels only aorta and gullet are left of the mediastinum, faint behind the heart.
    low = np.clip((np.float32(0.62 * patient.right_dome) - frame.resample(shapes.y)) / 4.0, 0.3, 1.0)
    vessels = 1.0 - np.float32(0.95) * low * bulge(frame.resample(shapes.mediastinum), 1.3)
    return np.asarray(lung * heart * vessels, np.float32)


def uneven_lung(rng: np.random.Generator, frame: Frame) -> Float32:
    """Return the fine structure of lung: noise in octaves from 3 cm to 3 mm, float32 on `frame`, deviation about 1."""
    x, y = frame.coordinates()
    total = np.zeros_like(x)
    for cells, share in ((24, 0.25), (80, 0.4), (200, 0.6)):
        noise = rng.standard_normal((cells, cells), dtype=np.float32)
        to_cell = np.float32(cells / 64.0)
        total += share * cv2.remap(
            noise, (x + 32) * to_cell, (y + 20) * to_cell, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
    return total


def bulge(depth: Float32, reach: float) -> Float32:
    """Return 0..1: how thick a rounded body is at `depth` inside its outline, full from `reach` on."""
    inward = np.clip(depth * np.float32(1 / reach), 0.0, 1.0)
    return np.asarray(np.sqrt(inward * (2.0 - inward)), np.float32)


def _inside_skin(shapes: Shapes, frame: Frame) -> Float32:
    """Return 1 inside the skin and 0 outside, soft by two millimetres, float32 on `frame`."""
    return np.asarray(np.clip(frame.resample(shapes.body) / 0.4, 0.0, 1.0), np.float32)


def _lesion_tissue(frame: Frame, patient: Patient, shapes: Shapes, lesions: Lesions, lung: _Lung) -> Float32:
    """Return what the lesions add to the tissue along each ray, in cm of water (negative: air)."""
    air, structure = lung.air, lung.structure
    added = np.zeros_like(air)
    water = np.float32(1.0 - patient.lung_density)
    if lesions.collapsed is not None:
        depth = frame.resample(lesions.collapsed)
        gone = np.clip(0.5 - depth / np.float32(0.12), 0.0, 1.0) * np.clip(frame.resample(shapes.lung) / 0.15, 0.0, 1.0)
        added -= gone * (np.float32(0.85 * patient.lung_density) * air + structure)
        added += _pleural_line(depth, frame) * np.clip(air / 3.0, 0.0, 1.0)
    if lesions.consolidation is not None:
        filled = np.clip(frame.resample(lesions.consolidation) / 2.0, 0.0, 1.0) * np.float32(lesions.strength)
        patchy = 0.74 + np.float32(0.09) * lung.unevenness
        # Vessels drown in it and the bronchi beside them show as dark branches instead: air bronchograms.
        added += filled * (patchy * water * air - np.float32(1.8) * structure)
    if lesions.fluid is not None:
        depth = frame.resample(lesions.fluid)
        filled = np.clip(depth / 2.2 + 0.25, 0.0, 1.0) * np.clip(depth / 0.25 + 0.5, 0.0, 1.0)
        added += filled * (np.float32(0.93) * water * air - structure)
    if lesions.nodules:
        x, y = frame.coordinates()
        for nodule in lesions.nodules:
            added += _lump(nodule, x, y)
    return added


def _pleural_line(depth: Float32, frame: Frame) -> Float32:
    """Return the thin line of the visceral pleura, seen edge-on; at least about a pixel wide."""
    half = max(0.05, 0.6 * frame.cm_per_px)
    return np.asarray(np.float32(0.5 * 0.05 / half + 0.25) * np.exp(-((depth / np.float32(half)) ** 2)), np.float32)


def _lump(nodule: Nodule, x: Float32, y: Float32) -> Float32:
    """Return the chord through a nearly round nodule, in cm of water."""
    depth = np.clip(nodule.depth(x, y), 0.0, nodule.radius)
    return np.asarray(np.float32(2 * nodule.density) * np.sqrt(depth * (2 * nodule.radius - depth)), np.float32)
