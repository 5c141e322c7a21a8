"""Checkpoints of folds become one installed engine, which answers as they do together, in every file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from cxrbatch.engine import cells as engine_cells
from cxrbatch.engine.agreement import FP16_LIMITS, compare_scores, refuse_disagreement
from cxrbatch.engine.bundle import EngineBundle, load_bundle
from cxrbatch.engine.deferred_gate import load_gate
from cxrbatch.engine.manifest import ParityFigures
from cxrbatch.engine.open import open_engine
from cxrbatch.engine.torch_graph import GraphNetwork
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError
from cxrbatch.model.build.build import BuildOptions, build_engine
from cxrbatch.model.build.gate import score_by_reference
from cxrbatch.model.build.int8 import nodes_kept_in_float
from cxrbatch.model.build.measure import measure_checkpoint
from cxrbatch.model.build.onnx_calibration import read_calibration, write_calibration
from cxrbatch.model.data.dataset import load_data, prepare_pixels
from cxrbatch.model.data.known_images import remember
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.splits import hash_pixels
from cxrbatch.model.network import architectures
from cxrbatch.model.network.checkpoint import (
    Checkpoint,
    CheckpointFacts,
    build_network,
    load_checkpoint,
    save_checkpoint,
)
from cxrbatch.model.network.combine import read_checkpoints
from cxrbatch.model.network.network import build_seeded
from cxrbatch.model.network.open_model import open_model
from cxrbatch.model.train.calibration import Calibration
from cxrbatch.records import Gray8, InputSpec, Label
from tests.factories.model import build_three_layers, draw_noise
from tests.factories.trainable import write_csv_data

SIZE_PX = 64
NAMES = ("Upper", "Lower")


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small = architectures._Architecture(build_three_layers, output_strides=(4,))
        patch.setitem(architectures._ARCHITECTURES, "tiny", small)
        patch.setitem(engine_cells._ORIGINS, "tiny", 0.5)
        yield


def write_member(path: Path, seed: int, learned: LabelledImages | None = None, pictures: tuple[str, ...] = ()) -> Path:
    facts = CheckpointFacts(
        created="2026-01-02T03:04:05+00:00", architecture="tiny", task="multilabel", input=InputSpec(SIZE_PX),
        labels=tuple(Label(name, 0.4 + seed / 10) for name in NAMES), output_stride=4,
        training=TrainingFacts(figures={"macro_auroc": 0.7 + seed / 100}, options={"operating_point": "youden"}),
    )  # fmt: skip
    network = build_seeded(lambda: build_network(facts), seed).eval()
    with torch.no_grad():
        network.head.weight.mul_(6)
        network.temperature.copy_(torch.tensor([0.5, 1.5]))
    known = () if learned is None else (remember(learned, pictures),)
    save_checkpoint(path, Checkpoint(network, facts, known))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> EngineBundle:
    folder = tmp_path_factory.mktemp("ensemble")
    members = [write_member(folder / f"fold-{seed}.safetensors", seed) for seed in (1, 2)]
    options = BuildOptions(backends=("tensorrt",), onnx_only=True, mirror=True, urgent=("Lower",))
    return build_engine(members, "both", engines_folder=folder / "engines", options=options)


@pytest.fixture(scope="module")
def noise() -> Gray8:
    return draw_noise(6, SIZE_PX)


def test_one_graph_answers_as_the_members_together(built: EngineBundle, noise: Gray8) -> None:
    manifest = load_bundle(built.folder).manifest
    assert (manifest.extra_outputs, manifest.mirror) == (("disagreement",), True)
    assert [(member.name, member.architecture) for member in manifest.members] == [
        ("fold-1", "tiny"),
        ("fold-2", "tiny"),
    ]
    assert [label.urgent for label in manifest.labels] == [False, True]
    checkpoint = load_checkpoint(built.verified_file("checkpoint"))
    expected = score_by_reference(checkpoint.network, noise)
    assert manifest.cells == checkpoint.network.cells
    given = expected.parts()[:4]
    for answered in (
        open_engine(built).infer(noise).parts()[:4],
        open_model(str(built.verified_file("checkpoint"))).infer(noise).parts()[:4],
        [part.numpy() for part in GraphNetwork(built.read_verified("onnx"))(torch.from_numpy(noise))],
    ):
        for part, wanted in zip(answered, given, strict=True):
            assert part is not None
            assert wanted is not None
            np.testing.assert_allclose(part, wanted, atol=1e-5)
    assert float(given[3].min()) > 1e-5  # type: ignore[union-attr]


def test_the_gate_looks_at_the_disagreement_too(built: EngineBundle, noise: Gray8) -> None:
    for role in ("onnx", "onnx_fp16"):
        figures = built.manifest.parity[role]
        assert isinstance(figures, ParityFigures)
        assert figures.max_disagreement_change is not None
        assert figures.max_disagreement_change < figures.limit
    assert load_gate(built).reference.disagreement is not None
    reference = score_by_reference(load_checkpoint(built.verified_file("checkpoint")).network, noise)
    assert reference.disagreement is not None
    wrong = replace(reference, disagreement=np.asarray(reference.disagreement + 0.01, np.float32))
    comparison = compare_scores(wrong, reference, built.labels, built.verdict_rule)
    with pytest.raises(EngineError, match=r"members' disagreement differs .* by up to 0\.01 "):
        refuse_disagreement(comparison, comparison.figures("images", FP16_LIMITS), "engine", "no")
    with pytest.raises(EngineError, match="gives no disagreement"):
        compare_scores(replace(reference, disagreement=None), reference, built.labels, built.verdict_rule)


def test_the_model_card_says_what_it_is_made_of_and_what_nobody_measured(built: EngineBundle) -> None:
    card = (built.folder / "MODEL_CARD.md").read_text()
    assert "An ensemble of 2 networks" in card
    assert "Nobody measured it as a whole." in card
    assert "fold-2: tiny" in card
    assert "macro_auroc 0.720" in card
    assert "mirror image" in card


@pytest.mark.parametrize("times", [1, 2])
def test_a_calibration_of_the_whole_moves_its_members_alike(built: EngineBundle, noise: Gray8, times: int) -> None:
    calibration = Calibration((0.6, 2.0), (0.5, -1.0))
    model = built.read_verified("onnx")
    for place in range(times):
        model = write_calibration(model, calibration if place == times - 1 else Calibration((3.0, 3.0), (1.0, 1.0)))
    found = read_calibration(model, len(NAMES))
    np.testing.assert_allclose(
        [found.temperature, found.offset], [calibration.temperature, calibration.offset], rtol=1e-6
    )
    checkpoint = load_checkpoint(built.verified_file("checkpoint"))
    before = score_by_reference(checkpoint.network, noise)
    calibration.apply_to(checkpoint.network)
    expected = score_by_reference(checkpoint.network, noise)
    session = onnxruntime.InferenceSession(model)
    probabilities, disagreement = session.run(["probabilities", "disagreement"], {"pixels": noise})
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5)
    assert expected.disagreement is not None
    np.testing.assert_allclose(disagreement, expected.disagreement, atol=1e-5)
    assert np.abs(disagreement - before.disagreement).max() > 1e-3


def test_int8_leaves_every_members_first_convolution_and_head_in_float(built: EngineBundle) -> None:
    model = onnx.load(built.verified_file("onnx"))
    for number, node in enumerate(model.graph.node):
        node.name = f"{number}"
    kept = set(nodes_kept_in_float(model))
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    # Two members, each run on the image and on its mirror image: four first ones, four heads.
    assert sum(node.name in kept for node in convolutions) == 8
    assert {
        node.name for node in model.graph.node if node.op_type in {"Sigmoid", "Sqrt", "ReduceMean", "Slice"}
    } <= kept


# --------------------------------------------------------------------------- measured on labelled images


def test_points_and_figures_come_from_images_that_no_member_learned_from(tmp_path: Path) -> None:
    data = write_csv_data(tmp_path / "data", images=64)
    images = load_data(data, DataOptions())
    pictures = tuple(hash_pixels(prepare_pixels(images.samples, InputSpec(SIZE_PX)).pixels))
    # The first member learned from the first 20 images, the second from the next 20; two images show one patient.
    paths = [
        write_member(tmp_path / f"{n}.safetensors", n, _as_learned(images, learned), pictures)
        for n, learned in ((1, range(20)), (2, range(20, 40)))
    ]
    said: list[str] = []
    measured = measure_checkpoint(data, DataOptions(), read_checkpoints(paths), say=said.append)
    assert said == ["operating points are chosen, and figures measured, on 24 images that no member saw"]
    facts = measured.facts
    assert facts.training.images["val"] == 24
    assert facts.training.figures_promise_too_much
    assert set(facts.training.figures) >= {"macro_auroc", "macro_sensitivity"}
    label = facts.labels[0]
    assert (label.images_with, label.images_without) == (12, 12)
    assert label.reference
    unseen = [sample for sample in images.samples if int(sample.path.stem) >= 40]
    scores = score_by_reference(measured.network, prepare_pixels(unseen, InputSpec(SIZE_PX)).pixels).probabilities
    assert label.reference[-1] == pytest.approx(float(scores[:, 0].max()), abs=1e-4)
    assert label.operating_point != pytest.approx(0.55, abs=1e-3), "the mean of the members'"


def test_nothing_is_measured_where_every_image_taught_a_member(tmp_path: Path) -> None:
    data = write_csv_data(tmp_path / "data", images=32)
    images = load_data(data, DataOptions())
    everybody = _as_learned(images, range(32))
    paths = [write_member(tmp_path / f"{n}.safetensors", n, everybody) for n in (1, 2)]
    combined, said = read_checkpoints(paths), list[str]()
    assert measure_checkpoint(data, DataOptions(), combined, say=said.append) is combined
    assert "every image was learned from by a member" in said[0]


def _as_learned(images: LabelledImages, numbers: range) -> LabelledImages:
    samples = [
        replace(sample, split="train" if int(sample.path.stem) in numbers else "test") for sample in images.samples
    ]
    return replace(images, samples=tuple(samples))
