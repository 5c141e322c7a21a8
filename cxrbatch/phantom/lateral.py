"""A side view of an invented chest: what a batch of frontal radiographs must recognise and refuse."""

from __future__ import annotations

import math

import cv2
import numpy as np

from cxrbatch.phantom.anatomy import draw_patient
from cxrbatch.phantom.attenuation import TISSUE_PER_CM, bulge
from cxrbatch.phantom.draw import Phantom, store
from cxrbatch.phantom.frame import Frame, Points, smooth_closed, smooth_open, tube_outline
from cxrbatch.phantom.streams import Stream, open_stream
from cxrbatch.records import Float32

# Outlines in cm on a side view: x forwards from the front of the spine, y downwards from the lung apices.
_BODY = np.array(
    [
        [-9, -12], [2, -12], [3, -4], [10, 0], [15, 7], [17, 16], [16, 40], [-9, 40], [-11, 18], [-11, 6], [-9, 0],
    ],
    float,
)  # fmt: skip
_LUNG = np.array(
    [
        [-2, 0], [2, 1], [8, 4], [12, 9], [13.5, 16], [12.5, 20], [6, 19.5], [0, 22], [-5, 27], [-7, 22], [-7.5, 12],
        [-6, 4],
    ],
    float,
)  # fmt: skip
_HEART = np.array([[3, 11], [8, 10.5], [12.5, 13.5], [13.4, 18], [11, 21], [5, 21], [2.4, 17]], float)
_HILUM = np.array([[2.0, 9.0], [4.6, 8.6], [5.6, 10.4], [4.0, 12.6], [2.2, 11.4]], float)
_SPINE = np.array([[-2, -10], [-2.6, 0], [-5, 8], [-5.2, 16], [-3.2, 25], [-1, 36]], float)
_STERNUM = np.array([[9, 2.5], [12.2, 6], [14.4, 12], [14.8, 17]], float)
_TRACHEA = np.array([[1, -10], [1.4, 0], [1.0, 9]], float)


def draw_lateral(seed: int, *, rows: int = 1024, columns: int | None = None) -> Phantom:
    """Draw a left lateral view of the patient `seed`, without any finding."""
    patient = draw_patient(open_stream(seed, Stream.PATIENT))
    columns = columns or rows
    size = patient.thorax_half_width / 13.9
    frame = Frame(rows, columns, 40.0 * size / float(np.sqrt(rows * columns)), 2.0, 13.0, 0.0)
    detail = frame.with_long_side(min(max(rows, columns), 1024))
    attenuation = _attenuate(detail, size)
    density = -np.log(np.exp(-attenuation) + np.float32(0.03))
    shown = frame.resample(np.asarray(density, np.float32))
    low, high = np.percentile(density[density > 0.3], [2, 98])
    grain = open_stream(seed, Stream.NOISE, take=1).standard_normal(shown.shape, dtype=np.float32)
    shown = 0.12 + 0.8 * (shown + np.float32(0.015) * grain - low) / (high - low)
    return store(np.asarray(shown, np.float32), frame, gain=0.7, masks={}, seed=seed, patient=patient)


def _attenuate(frame: Frame, size: float) -> Float32:
    def depth(corners: Points) -> Float32:
        return frame.depth_inside([smooth_closed(corners * size)])

    tissue = 34.0 * bulge(depth(_BODY), 9.0)
    lung = 21.0 * bulge(depth(_LUNG), 6.0) * (1.0 - 0.6 * bulge(depth(_HEART), 4.0))
    airway = frame.depth_inside([tube_outline(_line(_TRACHEA, size), 0.9)])
    hilum = 3.0 * bulge(depth(_HILUM), 2.2)
    tissue = tissue - 0.7 * lung - 1.4 * bulge(airway, 0.9) + hilum
    sternum = frame.depth_inside([tube_outline(_line(_STERNUM, size), 0.6)])
    bone = 0.30 * _vertebrae(frame, size) + 0.22 * bulge(sternum, 0.6) + 0.11 * _ribs(frame, size)
    return np.asarray(TISSUE_PER_CM * 0.8 * np.maximum(tissue, 0.0) + bone, np.float32)


def _vertebrae(frame: Frame, size: float) -> Float32:
    """Return 0..1: a column of bodies, parted by discs."""
    line = _line(_SPINE, size)
    column = bulge(frame.depth_inside([tube_outline(line, 1.5)]), 0.6)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    discs: list[Points] = []
    for place in np.arange(1.0, along[-1], 2.4):
        centre = np.array([np.interp(place, along, line[:, 0]), np.interp(place, along, line[:, 1])])
        discs.append(centre + np.array([[-1.6, -0.2], [1.6, -0.2], [1.6, 0.2], [-1.6, 0.2]]))
    return np.asarray(column * (1.0 - 0.6 * (frame.fill(discs) > 0)), np.float32)


def _ribs(frame: Frame, size: float) -> Float32:
    """Return 0..1: ribs that run from the spine forwards and down, those of both sides on each other."""
    tubes = []
    for number in range(10):
        back, top = -6.0 - 0.9 * math.sin(number / 3.2), 1.0 + 2.2 * number
        reach = 9.0 + 8.0 * math.sin(min(number + 2, 9) / 9 * math.pi / 2)
        for nearer in (0.0, 0.7):
            arc = [[back, top + nearer], [back + 0.35 * reach, top + 1.6 + nearer], [back + reach, top + 5.5 + nearer]]
            tubes.append(tube_outline(_line(np.array(arc), size), 0.55))
    overlaid = np.add.reduce([frame.fill([tube]).astype(np.float32) for tube in tubes]) * np.float32(1 / 255)
    # Forwards they turn into cartilage, and below the diaphragm the liver hides them.
    x, y = frame.coordinates()
    visible = np.clip((11.0 * size - x) / 6.0, 0.0, 1.0) * np.clip((27.0 * size - y) / 9.0, 0.0, 1.0)
    return np.asarray(visible * cv2.GaussianBlur(overlaid, (0, 0), 0.12 / frame.cm_per_px), np.float32)


def _line(corners: Points, size: float) -> Points:
    return smooth_open(corners * size)
