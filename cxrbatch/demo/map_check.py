"""Checking the demo engine's maps on the lesions of phantoms that it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.demo.cases import Case
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.model.evaluate.map_check import MarkedMap, check_maps
from cxrbatch.model.network.shuffled import shuffled_maps_of_bundle
from cxrbatch.output.report.heatmap import activation_on_display
from cxrbatch.pages.retelling import kept
from cxrbatch.records import CellGrid, Float32, Geometry, Gray8, MapCheck

POINTING_TOLERANCE = 0.03
"""A peak this close to a lesion still shows it, as a part of the phantom's width: a seventh of the width of a lung."""

_GRID_PX = 192
NO_LESION = kept("no phantom with such a lesion was among those that it was checked on")


@dataclass(frozen=True, slots=True)
class Lesions:
    """One phantom with lesions: what the engine saw, uint8 [1,S,S], its maps, float32 [C,h,w], and what is marked.

    `covered` is bool [H,W] by finding: the lesion and what lies within the tolerance of it.
    """

    pixels: Gray8
    cams: Float32
    covered: dict[str, NDArray[np.bool_]]
    geometry: Geometry


def lesions_of(case: Case, cams: Float32) -> Lesions:
    """Return what is kept of a case for the check."""
    covered = {name: widen(_reduced(mask), POINTING_TOLERANCE) for name, mask in case.masks.items() if mask.any()}
    return Lesions(case.image.pixels, cams, covered, case.image.geometry)


def widen(mask: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    """Return a mask, bool [H,W], with all that is within `tolerance` of it, a part of its longer side."""
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= tolerance * max(mask.shape), np.bool_)


def check_demo_maps(bundle: EngineBundle, found: Sequence[Lesions], cells: CellGrid | None) -> dict[str, MapCheck]:
    """Check the maps of every label on the phantoms with its lesions; each phantom is a patient."""
    shuffled = shuffled_maps_of_bundle(bundle, np.stack([each.pixels for each in found])) if found else None
    checks = {}
    for column, label in enumerate(bundle.labels):
        marked = [
            MarkedMap(
                patient=str(number),
                covered=each.covered[label.name],
                cam=each.cams[column],
                shuffled=shuffled[:, number, column],
                spread=partial(_spread, each, each.covered[label.name].shape, cells),
            )
            for number, each in enumerate(found)
            if label.name in each.covered and shuffled is not None
        ]
        source = "phantoms never seen; a peak within 3 % of their width counts"
        checks[label.name] = check_maps(marked, source) if marked else MapCheck(0, 0, 0.0, 0.0, reason=NO_LESION)
    return checks


def _reduced(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask on a grid that is fine enough; of a thin lesion nothing is lost."""
    scale = min(1.0, _GRID_PX / max(mask.shape))
    size = round(mask.shape[1] * scale), round(mask.shape[0] * scale)
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0, np.bool_)


def _spread(lesions: Lesions, shape: tuple[int, ...], cells: CellGrid | None, cam: Float32) -> Float32:
    return activation_on_display(cam, lesions.geometry, shape, cells)
