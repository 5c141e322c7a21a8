"""Maps are validated only where they point better than chance, than one fixed place, and than shuffled weights do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from cxrbatch.engine.bundle import load_bundle
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.model.evaluate.map_check import (
    HIGHEST_LIMIT,
    LEAST_LIMIT,
    MIN_IMAGES,
    MIN_PATIENTS,
    MarkedMap,
    check_maps,
    rank_correlation,
)
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.shuffled import shuffle_graph, shuffle_network, shuffled_maps_of_bundle
from cxrbatch.records import Float32, InputSpec, MapCheck
from tests.factories.engine import tiny_graph, write_tiny_bundle
from tests.factories.model import tiny_architecture

CELLS = 8
Place = tuple[int, int]
Choose = Callable[[int, Place], Place]


def spread(cam: Float32) -> Float32:
    return cam.repeat(4, axis=0).repeat(4, axis=1)


def bump(place: Place, generator: np.random.Generator, height: float = 9.0) -> Float32:
    cam = generator.normal(0, 0.3, (CELLS, CELLS)).astype(np.float32)
    cam[place] += height
    return cam


def marked(
    count: int = 30,
    *,
    patients: int = 30,
    marks: Callable[[np.random.Generator], Place] = lambda draw: tuple(draw.integers(0, CELLS, 2)),
    points: Choose = lambda _, mark: mark,
    shuffled: Choose = lambda number, mark: (number % CELLS, 0),
) -> list[MarkedMap]:
    """Images whose one marked cell is drawn at random; `points` and `shuffled` choose where maps peak."""
    draw, made = np.random.default_rng(3), []
    for number in range(count):
        mark = marks(draw)
        covered = np.zeros((4 * CELLS, 4 * CELLS), bool)
        covered[4 * mark[0] : 4 * mark[0] + 4, 4 * mark[1] : 4 * mark[1] + 4] = True
        copies = np.stack([bump(shuffled(number + 5 * copy, mark), draw) for copy in range(3)])
        made.append(MarkedMap(f"p{number % patients}", covered, bump(points(number, mark), draw), copies, spread))
    return made


def test_maps_that_point_at_what_is_marked_are_validated() -> None:
    found = check_maps(marked(), "made up")
    assert (found.validated, found.reason, found.source) == (True, "", "made up")
    assert (found.images, found.patients, found.hits) == (30, 30, 1.0)
    assert found.chance == pytest.approx(1 / CELLS**2, abs=1e-4)
    assert found.over_chance == pytest.approx(1 - 1 / CELLS**2, abs=1e-3)
    assert found.same_place is not None and found.same_place < 0.2
    assert found.likeness is not None and abs(found.likeness) < 0.15
    assert found.likeness_limit == LEAST_LIMIT


@pytest.mark.parametrize(("count", "patients"), [(MIN_IMAGES - 1, 19), (60, MIN_PATIENTS - 1)])
def test_few_images_or_patients_validate_nothing_however_well_they_are_hit(count: int, patients: int) -> None:
    found = check_maps(marked(count, patients=patients))
    assert (found.validated, found.hits) == (False, 1.0)
    assert f"too few marked images, {count} of {patients} patients; it takes 20 of 10" in found.reason
    assert found.over_chance is None


def test_as_many_images_as_it_takes_are_enough() -> None:
    assert check_maps(marked(MIN_IMAGES, patients=MIN_PATIENTS)).validated


def test_pointing_at_random_is_no_more_than_chance() -> None:
    found = check_maps(marked(points=lambda number, _: (number % CELLS, number * 3 % CELLS)))
    assert not found.validated
    assert "no more than chance may hit (2%)" in found.reason


def test_always_pointing_where_the_finding_mostly_is_is_no_pointing() -> None:
    # Of 40 marks 30 lie in one cell, and the maps always peak there: far more than chance, and worth nothing.
    seen = iter(range(40))
    found = check_maps(
        marked(
            40,
            patients=40,
            marks=lambda draw: (5, 2) if next(seen) % 4 else tuple(draw.integers(0, CELLS, 2)),
            points=lambda *_: (5, 2),
        )
    )
    assert (found.hits, found.same_place) == (0.75, 0.75)
    assert found.over_chance is not None and found.over_chance > 0.4
    assert not found.validated
    assert "their peaks lie in what is marked on 75% of the images, no more than always pointing" in found.reason


def test_a_patient_does_not_tell_where_its_own_marks_lie() -> None:
    # Each patient has two images marked in one cell of its own; its own marks must not be the fixed place.
    places = [(number // 8, number % 8) for number in range(0, 60, 4)]
    seen = iter([place for place in places for _ in range(2)])
    images = marked(30, marks=lambda _: next(seen))
    paired = [replace(image, patient=f"p{number // 2}") for number, image in enumerate(images)]
    assert check_maps(paired).same_place == 0.0


def test_few_wins_over_the_same_place_are_not_enough() -> None:
    # The finding lies in one cell on 36 of 40; the maps find the other four as well. Resamples alone would be sure.
    seen = iter(range(40))
    found = check_maps(marked(40, patients=40, marks=lambda _: (number, 7) if (number := next(seen)) < 4 else (5, 2)))
    assert (found.hits, found.same_place) == (1.0, 0.9)
    assert found.over_same_place is not None and found.over_same_place > 0
    assert not found.validated
    assert "no more than always pointing at the same place" in found.reason


def test_maps_that_shuffled_weights_draw_as_well_are_not_validated() -> None:
    alike = [replace(image, shuffled=np.stack([image.cam + 0.05] * 3)) for image in marked()]
    found = check_maps(alike)
    assert found.likeness == pytest.approx(1.0)
    assert not found.validated
    assert "draws much the same (rank correlation 1.00, where 0.25 is the limit)" in found.reason


def test_maps_unlike_those_of_shuffled_weights_that_point_as_well_are_not_validated() -> None:
    found = check_maps(marked(shuffled=lambda _, mark: mark))
    assert found.likeness is not None and found.likeness < LEAST_LIMIT
    assert found.shuffled_hits == 1.0
    assert not found.validated
    assert "no more than a copy of the network with shuffled weights may (100%)" in found.reason


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_copies_that_draw_nothing_check_nothing(value: float) -> None:
    flat = [replace(image, shuffled=np.full_like(image.shuffled, value)) for image in marked()]
    found = check_maps(flat)
    assert (found.validated, found.likeness) == (False, None)
    assert "draws nothing that they could be compared with" in found.reason


def test_what_maps_of_other_patients_share_is_no_likeness_but_never_more_than_the_limit() -> None:
    base = np.random.default_rng(0).normal(0, 4, (CELLS, CELLS)).astype(np.float32)
    same = [replace(image, cam=image.cam + base) for image in marked()]
    assert check_maps(same).likeness_limit == HIGHEST_LIMIT


def test_a_map_too_faint_to_be_drawn_points_at_nothing() -> None:
    faint = [replace(image, cam=(image.cam / 200).astype(np.float32)) for image in marked()]
    assert check_maps(faint).hits == 0.0


def test_rank_correlation_of_maps() -> None:
    rising = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    assert rank_correlation(rising, np.zeros_like(rising)) is None


def test_every_figure_is_among_the_numbers_that_are_checked() -> None:
    found = check_maps(marked())
    assert all(getattr(found, name) in found.numbers for name in MapCheck.__slots__ if name not in TEXTS)


TEXTS = {"images", "patients", "validated", "reason", "source"}


# --------------------------------------------------------------------------- shuffling


def test_a_shuffled_graph_keeps_every_tensors_values_and_moves_those_of_weights() -> None:
    model = tiny_graph(4, 32)
    before = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    shuffled = onnx.load_model_from_string(shuffle_graph(model.SerializeToString(), seed=1))
    after = {each.name: numpy_helper.to_array(each) for each in shuffled.graph.initializer}
    assert sorted(before["mask"].ravel()) == sorted(after["mask"].ravel())
    assert not np.array_equal(before["mask"], after["mask"])
    assert all(np.array_equal(before[name], after[name]) for name in before if name != "mask")
    assert shuffle_graph(model.SerializeToString(), seed=1) == shuffle_graph(model.SerializeToString(), seed=1)
    assert shuffle_graph(model.SerializeToString(), seed=2) != shuffle_graph(model.SerializeToString(), seed=1)


def test_the_maps_of_a_bundle_with_shuffled_weights_are_others_and_the_bundle_stays(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    content = (bundle.folder / "model.onnx").read_bytes()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 32, 32), dtype=np.uint8)
    shuffled = shuffled_maps_of_bundle(bundle, pixels)
    own = OnnxRuntimeEngine(bundle).infer(pixels).cams
    assert shuffled.shape == (3, *own.shape)
    assert all(not np.array_equal(copy, own) for copy in shuffled)
    assert not np.array_equal(shuffled[0], shuffled[1])
    assert (bundle.folder / "model.onnx").read_bytes() == content


def test_a_network_is_shuffled_in_a_copy_and_its_norms_stay() -> None:
    with tiny_architecture():
        network = ChestNetwork("tiny", 2, spec=InputSpec(64))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    copy = shuffle_network(network, seed=0)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        shuffled = copy.state_dict()[name]
        assert torch.equal(shuffled.flatten().sort().values, tensor.flatten().sort().values)
        assert torch.equal(shuffled, tensor) == (tensor.ndim < 2)
