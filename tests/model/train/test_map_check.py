"""What a training says of its network's maps, on validation images that are marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrbatch.model.data.dataset import PreparedImages
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.regions import REGION_CELLS, MarkedRegions
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.train import map_check
from cxrbatch.model.train.map_check import with_checked_maps
from cxrbatch.records import Float32, Gray8, InputSpec, Label

SIZE_PX = 128
LABELS = (Label("Mass"), Label("Nodule"))


def prepare(network: ChestNetwork, places: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> PreparedImages:
    """As many validation images as places, Mass marked around the cell there, and a training image before them."""
    samples = [
        Sample(Path(f"/data/{at}.png"), "val" if at else "train", (1.0, 0.0), patient_id=f"p{at}")
        for at in range(len(places) + 1)
    ]
    coverage = np.zeros((len(samples), 2, REGION_CELLS, REGION_CELLS), np.uint8)
    per_px = REGION_CELLS / SIZE_PX
    for at, (row, column) in enumerate(places.tolist(), start=1):
        y = int((network.cells.origin_y + row * network.cells.stride_y) * per_px)
        x = int((network.cells.origin_x + column * network.cells.stride_x) * per_px)
        coverage[at, 0, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 255
    marked = MarkedRegions(coverage, np.ones((len(samples), 2), bool), np.arange(len(samples)))
    images = LabelledImages(Path("/data"), ("Mass", "Nodule"), tuple(samples))
    return PreparedImages(images, np.zeros((len(samples), 1, SIZE_PX, SIZE_PX), np.uint8), marked=marked)


def peaks(places: np.ndarray[tuple[int, int], np.dtype[np.int64]], cells: int, seed: int = 1) -> Float32:
    maps = np.random.default_rng(seed).normal(0, 0.1, (len(places), 2, cells, cells)).astype(np.float32)
    maps[np.arange(len(places)), :, places[:, 0], places[:, 1]] = 5.0
    return maps


@pytest.mark.parametrize(("shift", "hits"), [(0, 1.0), (10, 0.0)])
def test_maps_are_checked_where_validation_images_are_marked(
    shift: int, hits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ChestNetwork("tiny", 2, spec=InputSpec(SIZE_PX))
    cells, generator = round(SIZE_PX / network.cells.stride_x), np.random.default_rng(0)
    places, others = (generator.integers(0, cells, (30, 2)) for _ in range(2))
    drawn: list[int] = []

    def draw_shuffled(_: ChestNetwork, pixels: Gray8) -> Float32:
        drawn.append(len(pixels))
        return np.stack([peaks(others, cells, seed) for seed in (2, 3, 4)])

    monkeypatch.setattr(map_check, "maps_of_network", lambda *_: peaks((places + shift) % cells, cells))
    monkeypatch.setattr(map_check, "shuffled_maps_of_network", draw_shuffled)
    mass, nodule = with_checked_maps(LABELS, prepare(network, places), network)
    assert drawn == [30], "the training image is not asked"
    assert nodule.maps is None, "it is marked nowhere"
    assert mass.maps is not None
    assert (mass.maps.images, mass.maps.patients, mass.maps.hits) == (30, 30, hits)
    assert mass.has_validated_maps == (shift == 0)
    assert mass.maps.source == "validation images of data"


def test_without_marks_nothing_is_checked() -> None:
    network = ChestNetwork("tiny", 2, spec=InputSpec(SIZE_PX))
    prepared = prepare(network, np.zeros((3, 2), np.int64))
    unmarked = PreparedImages(prepared.images, prepared.pixels)
    assert with_checked_maps(LABELS, unmarked, network) == LABELS
