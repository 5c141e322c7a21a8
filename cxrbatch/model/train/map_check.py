"""Checking a trained network's maps on the validation images that are marked, in the square that it sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cxrbatch.engine.training_facts import CHOOSING_PART
from cxrbatch.model.data.dataset import PreparedImages
from cxrbatch.model.data.regions import REGION_CELLS
from cxrbatch.model.evaluate.map_check import MarkedMap, check_maps, enough_marked
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.shuffled import maps_of_network, shuffled_maps_of_network
from cxrbatch.output.report.heatmap import activation_on_display
from cxrbatch.records import Float32, Geometry, Gray8, Label, MapCheck

_COVERED = 128
_FINER = 4
"""Maps are laid over a grid so many times finer than that of the regions."""


def with_checked_maps(labels: tuple[Label, ...], prepared: PreparedImages, network: ChestNetwork) -> tuple[Label, ...]:
    """Return the labels with what a check of their maps found, those that are marked on validation images."""
    checks = check_validation_maps(prepared, network)
    return tuple(replace(label, maps=checks.get(label.name)) for label in labels)


def check_validation_maps(prepared: PreparedImages, network: ChestNetwork) -> dict[str, MapCheck]:
    """Check every label that is marked on validation images; the network stays as it is."""
    validation, samples = prepared.part(CHOOSING_PART), prepared.images.part(CHOOSING_PART)
    if validation.regions is None:
        return {}
    marked = np.arange(len(samples))
    regions, located = validation.regions_of(marked)
    marked = np.flatnonzero((located & (regions.reshape(*located.shape, -1).max(axis=2) > 0)).any(axis=1))
    if not len(marked):
        return {}
    patients = [samples[at].patient for at in marked]
    pixels = validation.pixels_of(marked)
    enough = enough_marked(patients)
    drawn = maps_of_network(network, pixels)
    shuffled = shuffled_maps_of_network(network, pixels) if enough else np.zeros((0, *drawn.shape), np.float32)
    source = f"validation images of {prepared.images.root.name}"
    spread = _Spread(network)
    found = {}
    for column, label in enumerate(prepared.images.labels):
        on_it = [
            MarkedMap(patients[row], covered, drawn[row, column], shuffled[:, row, column], spread)
            for row, covered in _covered(regions[marked, column])
        ]
        if on_it:
            found[label] = check_maps(on_it, source)
    return found


def _covered(regions: Gray8) -> Iterator[tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]]:
    """Yield the row and, bool [H,W], what is marked, of uint8 [n,r,r], where anything is.

    A place counts from half of it on; of what is smaller than that everywhere, the most covered places do.
    """
    for row, region in enumerate(regions):
        if highest := int(region.max()):
            covered = region >= min(_COVERED, highest)
            yield row, covered.repeat(_FINER, axis=0).repeat(_FINER, axis=1)


class _Spread:
    """Lays a map, float32 [h,w], over the network's square: float32 [H,W], as a report would over an image."""

    def __init__(self, network: ChestNetwork) -> None:
        size = network.spec.size_px
        self._geometry = Geometry(size, size, size, 1.0, 1.0, 0.0, 0.0)
        self._shape = (_FINER * REGION_CELLS, _FINER * REGION_CELLS)
        self._cells = network.cells

    def __call__(self, cam: Float32) -> Float32:
        return activation_on_display(cam, self._geometry, self._shape, self._cells)
