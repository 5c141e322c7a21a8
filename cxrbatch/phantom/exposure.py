"""From attenuation to an image: scattered light, the detector's logarithm, processing, grain, shutters, marker."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from cxrbatch.phantom.anatomy import Patient
from cxrbatch.phantom.attenuation import TISSUE_PER_CM, air_filled, soft_tissue
from cxrbatch.phantom.grid import Grid
from cxrbatch.phantom.shapes import Shapes
from cxrbatch.records import Float32


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the image was taken and developed; nothing here knows what the patient has.

    `scatter` is the share of unsharp light on the detector, `equalisation` how much of the large-area
    contrast processing removes, `noise` the grain's deviation on an image 1024 px wide, in log units. `dark`
    and `bright` are where the darkest lung and the abdomen come to lie, 0..1 of the window; `shoulder`
    bends the curve between them, and `gain` is the window's share of the stored range. `collimation` is
    what the shutters leave of the image's half sides (left, top, right, bottom).
    """

    scatter: float
    equalisation: float
    noise: float
    blur_cm: float
    dark: float
    bright: float
    shoulder: float
    gain: float
    collimation: tuple[float, float, float, float] | None
    shutter_black: bool
    marker: str
    marker_at: tuple[float, float]


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Draw how the image was taken."""
    uniform = rng.uniform
    sides = tuple(float(each) for each in uniform(0.87, 1.0, 4))
    return Exposure(
        scatter=float(uniform(0.35, 0.75)),
        equalisation=float(uniform(0.08, 0.30)),
        noise=float(uniform(0.010, 0.028)),
        blur_cm=float(uniform(0.015, 0.05)),
        dark=float(uniform(0.16, 0.34)),
        bright=float(uniform(0.80, 0.94)),
        shoulder=float(uniform(0.7, 1.8)),
        gain=float(uniform(0.5, 0.8)),
        collimation=(sides[0], sides[1], sides[2], sides[3]) if rng.random() < 0.35 else None,
        shutter_black=bool(rng.random() < 0.6),
        marker=str(rng.choice(["L", "R", ""], p=[0.6, 0.2, 0.2])),
        marker_at=(float(uniform(0.72, 0.86)), float(uniform(-0.9, -0.72))),
    )


@dataclass(frozen=True, slots=True)
class Survey:
    """What the exposure control saw of the patient without any lesion, float32 on the shape grid.

    `haze` is scattered light (1 = no patient), `base` the large-area density that processing evens out;
    `low` and `high` are the log densities of the darkest lung and of the abdomen.
    """

    haze: Float32
    base: Float32
    low: float
    high: float


def survey_patient(patient: Patient, shapes: Shapes, exposure: Exposure) -> Survey:
    """Measure the patient's large-area densities before any lesion is drawn.

    That exposure and processing don't react to a lesion keeps everything outside it as it would be.
    """
    air = air_filled(patient, shapes, shapes.grid)
    tissue = TISSUE_PER_CM * soft_tissue(patient, shapes, shapes.grid, air)
    light = cv2.resize(np.exp(-tissue), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    wide = 4.0 / (shapes.grid.cm_per_px * 4)
    haze = cv2.GaussianBlur(np.minimum(light, 0.45), (0, 0), wide) * np.float32(exposure.scatter)
    density = -np.log(light + haze)
    # Air around the body counts as thin tissue, or processing would brighten everything near the skin.
    base = cv2.GaussianBlur(np.maximum(density, np.float32(np.percentile(density, 30))), (0, 0), wide)
    shown = density - np.float32(exposure.equalisation) * base
    inside = cv2.resize(shapes.body, (light.shape[1], light.shape[0]), interpolation=cv2.INTER_AREA) > 2
    low, high = np.percentile(shown[inside], [3.0, 96.0])
    return Survey(shapes.grid.resample(haze), shapes.grid.resample(base), float(low), float(high))


def develop(
    attenuation: Float32, grid: Grid, survey: Survey, exposure: Exposure, noise: np.random.Generator
) -> Float32:
    """Turn attenuation into display density, 0 dark .. 1 bright, float32 [rows, columns] of `grid`.

    `attenuation` may come from another grid over the same image; grain is that of the image's own pixels.
    """
    detail = grid.with_long_side(max(attenuation.shape))
    light = np.exp(-attenuation) + detail.resample(survey.haze)
    density = -np.log(light) - np.float32(exposure.equalisation) * detail.resample(survey.base)
    sigma = exposure.blur_cm / detail.cm_per_px
    if sigma > 0.3:
        density = cv2.GaussianBlur(density, (0, 0), sigma)
    shown = grid.resample(np.asarray(density, np.float32)) + _grain(grid, exposure, noise)
    level = (shown - np.float32(survey.low)) * np.float32(1 / (survey.high - survey.low))
    # Below the darkest lung there is only thin skin and air: they may fade, but not at once.
    level = np.maximum(level, np.float32(0.45) * level)
    shoulder = (1 - np.exp(-level * np.float32(exposure.shoulder))) * np.float32(1 / (1 - math.exp(-exposure.shoulder)))
    shown = shoulder * np.float32(exposure.bright - exposure.dark) + np.float32(exposure.dark)
    return np.asarray(np.maximum(shown, 0.0), np.float32)


def mark_side(shown: Float32, grid: Grid, exposure: Exposure) -> Float32:
    """Return the image with a lead letter beside the shoulder it names: L on the right of the image."""
    if not exposure.marker:
        return shown
    side = 1.0 if exposure.marker == "L" else -1.0
    height_px = 1.7 / grid.cm_per_px
    x = (0.5 + 0.5 * side * exposure.marker_at[0]) * grid.columns
    y = (0.5 + 0.5 * exposure.marker_at[1]) * grid.rows
    letter = np.zeros((grid.rows, grid.columns), np.uint8)
    origin = (round(x - 0.4 * height_px), round(y + 0.5 * height_px))
    thickness = max(1, round(0.15 * height_px))
    # Hershey capitals are 21 units high at scale 1.
    cv2.putText(letter, exposure.marker, origin, cv2.FONT_HERSHEY_SIMPLEX, height_px / 21, 255, thickness, cv2.LINE_AA)
    cover = letter.astype(np.float32) * np.float32(0.9 / 255)
    return np.asarray(shown + cover * (np.float32(1.02) - shown), np.float32)


def shutter(shown: Float32, grid: Grid, exposure: Exposure) -> Float32:
    """Return the image with its collimation border: unexposed and so white, or blackened by the workstation."""
    if exposure.collimation is None:
        return shown
    left, top, right, bottom = exposure.collimation
    bordered = np.full_like(shown, 0.0 if exposure.shutter_black else 1.15)
    rows = slice(math.ceil((1 - top) / 2 * grid.rows), math.floor((1 + bottom) / 2 * grid.rows))
    columns = slice(math.ceil((1 - left) / 2 * grid.columns), math.floor((1 + right) / 2 * grid.columns))
    bordered[rows, columns] = shown[rows, columns]
    return bordered


def _grain(grid: Grid, exposure: Exposure, rng: np.random.Generator) -> Float32:
    """Return quantum noise, slightly correlated by the detector; larger pixels catch more light and have less."""
    deviation = exposure.noise * max(grid.rows, grid.columns) / 1024
    white = rng.standard_normal((grid.rows, grid.columns), dtype=np.float32) * np.float32(deviation)
    return np.asarray(cv2.GaussianBlur(white, (3, 3), 0.5), np.float32)
