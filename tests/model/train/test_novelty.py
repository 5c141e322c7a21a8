"""The distance to the training images: what it measures, where its threshold lies, and that every graph tells it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import mahalanobis

from cxrbatch.engine.contract import output_names
from cxrbatch.engine.torch_graph import GraphNetwork
from cxrbatch.model.build.int8 import nodes_kept_in_float
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, encode_checkpoint, load_checkpoint
from cxrbatch.model.network.export import export_onnx, halve
from cxrbatch.model.network.network import ChestNetwork, ScoringNetwork
from cxrbatch.model.network.novelty import DIRECTIONS, TrainingDistance
from cxrbatch.model.train.novelty import (
    FEWEST_TRAINING,
    FEWEST_VALIDATION,
    describe_features,
    find_threshold,
    fit_novelty,
    measure_distances,
    pool_features,
)
from cxrbatch.records import CellGrid, Gray8, InputSpec, Label
from tests.factories.model import settle

SIZE = 32
FACTS = CheckpointFacts(
    created="",
    architecture="tiny",
    task="multilabel",
    labels=(Label("A"), Label("B")),
    input=InputSpec(SIZE),
    cells=CellGrid(8, 8, 16, 16),
)


def draw_images(count: int, seed: int) -> Gray8:
    """Draw images of one kind, uint8 [count,1,32,32]: discs of any place, size and brightness on dark grey."""
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    images = np.full((count, 1, SIZE, SIZE), 30, np.uint8)
    for image in images[:, 0]:
        x, y, radius = chance.uniform(8, 24), chance.uniform(8, 24), chance.uniform(4, 9)
        image[np.hypot(columns - x, rows - y) < radius] = int(chance.uniform(90, 230))
    return np.asarray(images + chance.integers(0, 20, images.shape, np.uint8), np.uint8)


def as_set(pixels: Gray8) -> PixelSet:
    return PixelSet(pixels, np.zeros((len(pixels), 2), np.float32))


@pytest.fixture(scope="module")
def images() -> Gray8:
    return draw_images(320, 1)


@pytest.fixture(scope="module")
def network(images: Gray8) -> ChestNetwork:
    fitted = settle(lambda: ChestNetwork("tiny", 2, spec=InputSpec(SIZE)), torch.from_numpy(images[:64]))
    facts = fit_novelty(fitted, as_set(images[:200]), as_set(images[200:]))
    assert facts is not None
    assert (facts.training_images, facts.validation_images, facts.directions, facts.rule) == (200, 120, 20, "quantile")
    return fitted


def distances(network: ScoringNetwork, pixels: Gray8) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with torch.no_grad():
        return np.asarray(network.answers(torch.from_numpy(pixels))["distance"].numpy())


def test_one_in_a_hundred_of_the_same_kind_is_flagged_and_images_of_another_kind_are(
    network: ChestNetwork, images: Gray8
) -> None:
    assert np.mean(distances(network, images[200:]) > 1) == pytest.approx(0.01, abs=0.01)
    assert np.mean(distances(network, draw_images(100, 2)) > 1) < 0.1
    inverted, black = 255 - images[:40], np.zeros_like(images[:1])
    stripes = np.zeros_like(images[:1]) + np.uint8(255) * (np.arange(SIZE, dtype=np.uint8) // 2 % 2)
    for other in (inverted, black, stripes):
        assert (distances(network, other) > 1).all()


def test_where_directions_span_everything_it_is_the_mahalanobis_distance() -> None:
    features = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32) @ np.diag([5, 3, 2, 1, 0.5, 0.1])
    features = np.asarray(features + np.arange(6), np.float32)
    distance = TrainingDistance(6)
    assert describe_features(distance, features)
    inverse = np.linalg.inv(np.cov(features.T))
    wanted = [mahalanobis(row, features.mean(axis=0), inverse) for row in features[:20]]
    np.testing.assert_allclose(measure_distances(distance, features[:20]), wanted, rtol=1e-3)
    assert float(distance.residual_gain) == 0


def test_what_leaves_the_space_of_the_training_images_counts() -> None:
    """Along none of the directions, and yet far away: the residual tells."""
    chance = np.random.default_rng(0)
    features = chance.normal(scale=0.01, size=(400, 64)).astype(np.float32)
    features[:, :4] += chance.normal(size=(400, 4)).astype(np.float32)
    distance = TrainingDistance(64)
    assert describe_features(distance, features)
    beyond = features[:1].copy()
    unused = np.linalg.svd(distance.directions.numpy())[2][-1]
    beyond += np.float32(3) * unused
    assert measure_distances(distance, beyond)[0] > 20 * measure_distances(distance, features).max()


@pytest.mark.parametrize("count", [99, 400])
def test_the_threshold_is_exceeded_by_one_in_a_hundred_further_images(count: int) -> None:
    chance = np.random.default_rng(0)
    drawn = [find_threshold(stats.chi(20).rvs(count, random_state=chance)) for _ in range(300)]
    assert {rule for _, rule in drawn} == {"quantile"}
    assert np.mean(stats.chi(20).sf([threshold for threshold, _ in drawn])) == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("count", [10, 40, 98])
def test_few_validation_images_get_a_threshold_that_flags_no_more_than_promised(count: int) -> None:
    chance = np.random.default_rng(0)
    drawn = [find_threshold(stats.chi(20).rvs(count, random_state=chance)) for _ in range(300)]
    assert {rule for _, rule in drawn} == {"log-normal"}
    assert 0.003 < np.mean(stats.chi(20).sf([threshold for threshold, _ in drawn])) < 0.011


def test_every_graph_tells_the_same_distance(network: ChestNetwork, images: Gray8, tmp_path: Path) -> None:
    import onnxruntime as ort

    path, pixels = tmp_path / "model.onnx", images[:9]
    export_onnx(network, path, size_px=SIZE)
    wanted = distances(network, pixels)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(output_names(("distance",)))
    np.testing.assert_allclose(session.run(["distance"], {"pixels": pixels})[0], wanted, rtol=1e-3)
    by_torch = GraphNetwork(path.read_bytes())
    with torch.no_grad():
        answered = dict(zip(by_torch.outputs, by_torch(torch.from_numpy(pixels)), strict=True))
    np.testing.assert_allclose(answered["distance"].numpy(), wanted, rtol=1e-3)


def test_half_precision_ends_before_the_distance(network: ChestNetwork, images: Gray8) -> None:
    half = halve(network)
    assert {buffer.dtype for buffer in half.novelty.buffers()} == {torch.float32}  # type: ignore[union-attr]
    answered, wanted = distances(half, images[:20]), distances(network, images[:20])
    assert answered.dtype == np.float32
    np.testing.assert_allclose(answered, wanted, atol=0.1)


def test_int8_keeps_the_distance_in_float(network: ChestNetwork, tmp_path: Path) -> None:
    export_onnx(network, tmp_path / "model.onnx", size_px=SIZE)
    model = onnx.load(tmp_path / "model.onnx")
    kept = set(nodes_kept_in_float(model))
    made_by = {name: node for node in model.graph.node for name in node.output}
    node = made_by["distance"]
    waiting, seen = [node], set()
    while waiting:  # back to the feature map, which is the last Relu
        node = waiting.pop()
        seen.add(node.name)
        assert node.name in kept
        waiting += [made_by[name] for name in node.input if name in made_by and made_by[name].op_type != "Relu"]
    assert len(seen) > 10
    assert not {node.name for node in model.graph.node if node.op_type == "Relu"} & kept


def test_a_checkpoint_keeps_the_distance(network: ChestNetwork, images: Gray8, tmp_path: Path) -> None:
    content = encode_checkpoint(Checkpoint(network, FACTS))
    loaded = load_checkpoint(tmp_path / "not-read.safetensors", content)
    assert loaded.facts.extra_outputs == ("distance",)
    np.testing.assert_array_equal(distances(loaded.network, images[:4]), distances(network, images[:4]))


def test_a_checkpoint_without_it_stays_without(tmp_path: Path) -> None:
    content = encode_checkpoint(Checkpoint(ChestNetwork("tiny", 2, spec=InputSpec(SIZE)), FACTS))
    loaded = load_checkpoint(tmp_path / "not-read.safetensors", content)
    assert loaded.facts.extra_outputs == ()
    assert len(loaded.network(torch.zeros(1, 1, SIZE, SIZE, dtype=torch.uint8))) == 3


def test_too_few_images_fit_nothing(images: Gray8) -> None:
    network = ChestNetwork("tiny", 2, spec=InputSpec(SIZE)).eval()
    assert fit_novelty(network, as_set(images[: FEWEST_TRAINING - 1]), as_set(images)) is None
    assert fit_novelty(network, as_set(images), as_set(images[: FEWEST_VALIDATION - 1])) is None
    assert network.extra_outputs == ()


def test_images_that_the_network_cannot_tell_apart_fit_nothing(images: Gray8) -> None:
    network = ChestNetwork("tiny", 2, spec=InputSpec(SIZE)).eval()
    assert fit_novelty(network, as_set(np.repeat(images[:1], 60, axis=0)), as_set(images)) is None
    assert network.extra_outputs == ()


def test_of_many_images_some_are_drawn_and_always_the_same(network: ChestNetwork, images: Gray8) -> None:
    first, second = (pool_features(network, as_set(images), "cpu", 50) for _ in range(2))
    assert first.shape == (50, DIRECTIONS)
    np.testing.assert_array_equal(first, second)
