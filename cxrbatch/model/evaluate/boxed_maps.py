"""Checking an engine's maps on scored images with boxes: every label that has any. Start at `check_boxed_maps`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from cxrbatch.model.data.boxes import Boxes, boxes_of
from cxrbatch.model.evaluate.localisation import cover, spread_map
from cxrbatch.model.evaluate.map_check import MarkedMap, check_maps, enough_marked
from cxrbatch.model.evaluate.scoring import ImageMap, ScoredImages
from cxrbatch.records import Float32, Gray8, MapCheck

DrawShuffled = Callable[[Gray8], Float32]
"""Takes what the engine saw, uint8 [N,1,S,S]; returns the maps of R copies with shuffled weights, [R,N,C,h,w]."""


def check_boxed_maps(
    scored: ScoredImages, columns: Mapping[str, int], boxes: Boxes, draw_shuffled: DrawShuffled, source: str
) -> dict[str, MapCheck]:
    """Check the maps of every label that has a box on any of the images.

    Args:
        scored: the images, with the maps of those that have boxes.
        columns: which of the engine's outputs each label is.
        boxes: by the images' paths.
        draw_shuffled: only asked where a label has boxes enough.
        source: which images these are, for people.
    """
    boxed = {
        label: [at for at in scored.maps if boxes_of(boxes, scored.samples[at].path.as_posix(), label)]
        for label in columns
    }
    boxed = {label: images for label, images in boxed.items() if images}
    patients = {at: scored.samples[at].patient for at in scored.maps}
    needed = {at for images in boxed.values() if enough_marked([patients[at] for at in images]) for at in images}
    shuffled = _draw(scored, sorted(needed), draw_shuffled)
    return {
        label: check_maps(
            [_marked(scored, at, label, columns[label], boxes, shuffled) for at in images],
            source,
        )
        for label, images in boxed.items()
    }


def _draw(scored: ScoredImages, images: list[int], draw_shuffled: DrawShuffled) -> dict[int, Float32]:
    """Return the maps of the copies by image, float32 [R,C,h,w]."""
    pixels = [scored.maps[at].pixels for at in images]
    if not images or any(each is None for each in pixels):
        return {}
    drawn = draw_shuffled(np.stack([each for each in pixels if each is not None]))
    return {at: drawn[:, place] for place, at in enumerate(images)}


def _marked(
    scored: ScoredImages, at: int, label: str, column: int, boxes: Boxes, shuffled: Mapping[int, Float32]
) -> MarkedMap:
    image, sample = scored.maps[at], scored.samples[at]
    geometry = image.geometry
    drawn = boxes_of(boxes, sample.path.as_posix(), label)
    shape = spread_map(image, column).shape
    return MarkedMap(
        patient=sample.patient,
        covered=cover([box.in_parts(geometry.rows, geometry.columns) for box in drawn], shape),
        cam=image.cams[column],
        shuffled=shuffled[at][:, column] if at in shuffled else np.zeros((0, *image.cams.shape[1:]), np.float32),
        spread=partial(_spread, image),
    )


def _spread(image: ImageMap, cam: Float32) -> Float32:
    return spread_map(replace(image, cams=cam[np.newaxis]), 0)
