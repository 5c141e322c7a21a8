"""Drawing a phantom from a seed: the stored pixels of a radiograph, its window and the masks of its lesions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbatch.phantom.anatomy import Patient, draw_patient
from cxrbatch.phantom.attenuation import attenuate, uneven_lung
from cxrbatch.phantom.exposure import develop, draw_exposure, mark_side, shutter, survey_patient
from cxrbatch.phantom.frame import Frame
from cxrbatch.phantom.lesions import FINDINGS, choose_findings, draw_lesions, lesion_masks
from cxrbatch.phantom.shapes import lay_out
from cxrbatch.phantom.streams import Stream, open_stream
from cxrbatch.phantom.vessels import draw_branches
from cxrbatch.records import Float32

FULL_SCALE = 4095
# Sharp structures are drawn on at most this many pixels; a larger image is an enlargement with its own grain,
# as a detector whose pixels are finer than the focal spot's shadow.
MAX_DETAIL_PX = 1024


@dataclass(frozen=True)
class Phantom:
    """A synthetic PA chest radiograph.

    `stored` is uint16 [H,W], 0..4095, air dark and bone bright (MONOCHROME2 sense); the window is in the
    same values. `masks` holds one bool [H,W] mask for each finding present; `spacing_mm` is a pixel's
    side at the detector.
    """

    stored: NDArray[np.uint16]
    window_center: float
    window_width: float
    masks: dict[str, NDArray[np.bool_]]
    seed: int
    spacing_mm: float
    age: int
    sex: str

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings present, in the order of FINDINGS."""
        return tuple(name for name in FINDINGS if name in self.masks)


def draw_phantom(
    seed: int, *, rows: int = 1024, columns: int | None = None, findings: Collection[str] | None = None, take: int = 0
) -> Phantom:
    """Draw the chest radiograph of an invented patient.

    The same seed gives the same patient, pose and exposure at any size and with any findings.

    Args:
        seed: any number from 0 on.
        rows: height in pixels.
        columns: width in pixels, `rows` by default.
        findings: names from FINDINGS; None draws a mix, about 40 % of it without any.
        take: another number gives another exposure of the same patient, in another pose.

    Raises:
        ValueError: a finding that is not in FINDINGS.
    """
    present = choose_findings(seed) if findings is None else findings
    if unknown := sorted(set(present) - set(FINDINGS)):
        message = f"no such finding: {', '.join(unknown)}; choose from {', '.join(FINDINGS)}"
        raise ValueError(message)
    patient = draw_patient(open_stream(seed, Stream.PATIENT))
    exposure = draw_exposure(open_stream(seed, Stream.EXPOSURE, take))
    frame = _pose(open_stream(seed, Stream.POSE, take), patient, rows, columns or rows)
    healthy = lay_out(patient, frame)
    lesions = draw_lesions(seed, present, patient, healthy)
    shapes = healthy if lesions.heart_ratio is None else lay_out(patient, frame, lesions.heart_ratio)

    detail = frame.with_long_side(min(round(1.5 * max(rows, frame.columns)), MAX_DETAIL_PX))
    branches = draw_branches(open_stream(seed, Stream.VESSELS), patient)
    unevenness = uneven_lung(open_stream(seed, Stream.TEXTURE), detail)
    attenuation = attenuate(detail, patient, shapes, lesions, branches, unevenness)
    survey = survey_patient(patient, healthy, exposure)
    shown = develop(attenuation, frame, survey, exposure, open_stream(seed, Stream.NOISE, take))
    shown = shutter(mark_side(shown, frame, exposure), frame, exposure)
    masks = lesion_masks(lesions, shapes, frame)
    return store(shown, frame, gain=exposure.gain, masks=masks, seed=seed, patient=patient)


def store(
    shown: Float32, frame: Frame, *, gain: float, masks: dict[str, NDArray[np.bool_]], seed: int, patient: Patient
) -> Phantom:
    """Turn display density, float32 [H,W], 0..1 within the window, into 12-bit values; `gain` is the window's share."""
    low, width = 0.5 * (1 - gain) * FULL_SCALE, gain * FULL_SCALE
    stored = np.clip(np.rint(shown * np.float32(width) + np.float32(low)), 0, FULL_SCALE).astype(np.uint16)
    return Phantom(stored, low + width / 2, width, masks, seed, 10 * frame.cm_per_px, patient.age, patient.sex)


def _pose(rng: np.random.Generator, patient: Patient, rows: int, columns: int) -> Frame:
    field = float(rng.uniform(36.0, 42.0)) * patient.thorax_half_width / 13.9
    angle = float(rng.normal(0.0, 0.022))
    centre_x, centre_y = float(rng.normal(0.0, 0.9)), 0.58 * patient.right_dome + float(rng.normal(0.0, 1.1))
    return Frame(rows, columns, field / float(np.sqrt(rows * columns)), centre_x, centre_y, angle)
