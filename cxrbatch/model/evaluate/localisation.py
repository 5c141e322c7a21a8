"""How often a map's peak hits radiologists' boxes, and how well the boxes agree.

The boxes come from tables that `cxrbatch.model.data.boxes` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.model.data.boxes import Box, Boxes, boxes_of
from cxrbatch.model.evaluate.scoring import ImageMap, ScoredImages
from cxrbatch.model.figures.bootstrap import Estimate, Weights, estimate, resample_mean
from cxrbatch.model.figures.figures import number_patients
from cxrbatch.model.figures.intervals import Patients, estimate_share
from cxrbatch.model.figures.metrics import Mask
from cxrbatch.output.report.heatmap import CONTOUR_SHARE, activation_on_display, find_peak, is_faint
from cxrbatch.records import Float32, MapCheck

MAP_SHARE = CONTOUR_SHARE
"""The heatmap's box encloses the region around its peak that reaches this share of it: the line in the reports."""

_LONG_SIDE_PX = 256
"""Maps are spread over a grid of at most this size: finer than any cell of theirs, coarser than the image."""


@dataclass(frozen=True, slots=True)
class PointingFigures:
    """How the heatmaps of one label agree with its boxes.

    `images` have a box. `hits` is the share of them whose peak lies in one (the pointing game, Zhang et al.
    2018); `chance` is what a peak thrown anywhere would reach, the mean share of the image that boxes cover.
    `box_iou` is the mean intersection over union of the heatmap's box with the best-fitting true one.
    `called_hits` is `hits` among those images whose finding is called; None where none is. `check` says whether the
    maps are validated; None where nobody looked, as in evaluations of earlier versions.
    """

    label: str
    images: int
    hits: Estimate
    chance: float
    box_iou: Estimate
    called: int
    called_hits: float | None
    check: MapCheck | None = None


def measure_pointing(
    scored: ScoredImages, columns: Mapping[str, int], boxes: Boxes, calls: Mapping[str, Mask | None], weights: Weights
) -> tuple[PointingFigures, ...]:
    """Compare the maps of every label with its boxes; labels without any box are left out.

    Args:
        scored: the images, with the maps of those that have boxes.
        columns: which of the engine's outputs each label is.
        boxes: the boxes.
        calls: per label bool [N], who is called positive; None where the label has no operating point.
        weights: uint8 [B,N], resamples over patients.
    """
    patients = number_patients([sample.patient for sample in scored.samples])
    measured = (
        _measure_label(label, _compare_images(scored, label, column, boxes), calls[label], patients, weights)
        for label, column in columns.items()
    )
    return tuple(figures for figures in measured if figures is not None)


@dataclass(frozen=True, slots=True)
class _Agreement:
    """How one map agrees with its boxes: the image's place, hit or not, IoU, share of the image in boxes."""

    image: int
    hit: bool
    iou: float
    covered: float


def _compare_images(scored: ScoredImages, label: str, column: int, boxes: Boxes) -> list[_Agreement]:
    found = []
    for image, image_map in scored.maps.items():
        if true_boxes := boxes_of(boxes, scored.samples[image].path.as_posix(), label):
            geometry = image_map.geometry
            in_parts = [box.in_parts(geometry.rows, geometry.columns) for box in true_boxes]
            found.append(_compare(image, spread_map(image_map, column), in_parts))
    return found


def spread_map(image_map: ImageMap, column: int) -> Float32:
    """Return one label's positive evidence over the image, float32 [H,W] of its proportions, in logits."""
    geometry = image_map.geometry
    reduction = max(1.0, max(geometry.rows, geometry.columns) / _LONG_SIDE_PX)
    shape = round(geometry.rows / reduction), round(geometry.columns / reduction)
    return activation_on_display(image_map.cams[column], geometry, shape, image_map.cells)


def _compare(image: int, activation: Float32, boxes: Sequence[Box]) -> _Agreement:
    covered = cover(boxes, activation.shape)
    if is_faint(activation):
        # No part of the image speaks for the finding: nothing is coloured, so nothing is pointed at.
        return _Agreement(image, hit=False, iou=0.0, covered=float(covered.mean()))
    row, column = find_peak(activation)
    drawn = heatmap_box(activation)
    return _Agreement(
        image, bool(covered[row, column]), max(box_iou(drawn, box) for box in boxes), float(covered.mean())
    )


def cover(boxes: Sequence[Box], shape: tuple[int, ...]) -> Mask:
    """Return which places of a grid [H,W] over the image are in one of the boxes."""
    height, width = shape
    covered = np.zeros((height, width), bool)
    for box in boxes:
        covered |= _box_mask(box, height, width)
    return covered


def heatmap_box(activation: Float32) -> Box:
    """Return the tight box around the connected region that holds the peak and reaches MAP_SHARE of it."""
    height, width = activation.shape
    row, column = find_peak(activation)
    reached = (activation >= MAP_SHARE * activation[row, column]).astype(np.uint8)
    _, regions, statistics, _ = cv2.connectedComponentsWithStats(reached, connectivity=8)
    left, top, across, down, _ = statistics[regions[row, column]].tolist()
    return Box(left / width, top / height, across / width, down / height)


def box_iou(one: Box, other: Box) -> float:
    """Return the intersection of two boxes over their union, 0..1."""
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, across) * max(0.0, down)
    union = one.width * one.height + other.width * other.height - shared
    return shared / union if union > 0 else 0.0


def _box_mask(box: Box, height: int, width: int) -> Mask:
    """Return which cells of a grid have their centre in the box."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    inside_x = (x >= box.x) & (x <= box.x + box.width)
    inside_y = (y >= box.y) & (y <= box.y + box.height)
    return inside_y[:, np.newaxis] & inside_x[np.newaxis, :]


def _measure_label(
    label: str, agreements: Sequence[_Agreement], calls: Mask | None, patients: Patients, weights: Weights
) -> PointingFigures | None:
    if not agreements:
        return None
    images = np.array([agreement.image for agreement in agreements])
    hits = np.array([agreement.hit for agreement in agreements], np.bool_)
    ious = np.array([agreement.iou for agreement in agreements], np.float64)
    called = np.zeros(len(images), bool) if calls is None else calls[images]
    return PointingFigures(
        label=label,
        images=len(images),
        hits=estimate_share(hits, patients[images], resample_mean(hits.astype(np.float64), weights[:, images])),
        chance=float(np.mean([agreement.covered for agreement in agreements])),
        box_iou=_mean(ious, weights[:, images]),
        called=int(called.sum()),
        called_hits=float(hits[called].mean()) if called.any() else None,
    )


def _mean(values: NDArray[np.float64], weights: Weights) -> Estimate:
    return estimate(float(values.mean()), resample_mean(values, weights))
