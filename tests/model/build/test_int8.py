"""INT8: the same answers but for rounding, judged on labelled images, and refused where they are too far off."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.engine.bundle import EngineBundle, load_bundle
from cxrbatch.engine.manifest import ParityFigures
from cxrbatch.engine.open import open_engine, plan_engine
from cxrbatch.errors import EngineError, ExitCode, UsageError
from cxrbatch.model.build import int8
from cxrbatch.model.build.build import BuildOptions, build_engine
from cxrbatch.model.build.gate import score_by_reference
from cxrbatch.model.build.images import Int8Images, draw_gate_images, draw_int8_images, read_int8_images
from cxrbatch.model.build.int8 import add_int8_file, judge_int8, nodes_kept_in_float
from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, save_checkpoint
from cxrbatch.model.network.network import predict_probabilities
from cxrbatch.records import Gray8, Label, Scores
from tests.factories.engine import write_tiny_bundle
from tests.factories.labelled import write_table

N_JUDGED = 48


@pytest.fixture(scope="module")
def images(checkpoint: Checkpoint) -> Int8Images:
    """Smooth noise, and labels that the checkpoint gives itself where it is sure: its own AUROC on them is 1."""
    cells = np.random.default_rng(5).integers(0, 256, (N_JUDGED + 16, 1, 8, 8), dtype=np.uint8)
    pixels: Gray8 = cells.repeat(8, axis=2).repeat(8, axis=3)
    scores = predict_probabilities(checkpoint.network, pixels)
    low, high = np.quantile(scores, [0.25, 0.75], axis=0)
    targets = np.where(scores > high, 1.0, np.where(scores < low, 0.0, np.nan)).astype(np.float32)
    targets[:, 1] = np.nan
    return Int8Images(pixels[:16], PixelSet(pixels[16:], targets[16:]), "noise")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, images: Int8Images) -> EngineBundle:
    folder = tmp_path_factory.mktemp("int8")
    save_checkpoint(folder / "small.safetensors", checkpoint)
    options = BuildOptions(precision="int8", choose_int8_images=lambda _: images)
    return build_engine(folder / "small.safetensors", "small", engines_folder=folder / "engines", options=options)


def test_the_bundle_holds_both_files_and_runs_int8_unless_fp32_is_asked_for(built: EngineBundle, noise: Gray8) -> None:
    assert {role: file.precision for role, file in built.manifest.files.items()} == {
        "onnx": "fp32", "checkpoint": "fp32", "onnx_int8": "int8",
    }  # fmt: skip
    int8, fp32 = open_engine(built), open_engine(built, precision="fp32")
    assert (int8.description.precision, fp32.description.precision) == ("int8", "fp32")
    assert int8.description == plan_engine(built) == plan_engine(built, precision="int8")
    assert int8.description.sha256 != fp32.description.sha256
    assert int8.description.gate.startswith("passed: mean AUROC ")
    change = np.abs(int8.infer(noise).probabilities - fp32.infer(noise).probabilities)
    assert 0 < change.max() < 0.1


def test_convolutions_are_integers_but_for_the_first_and_the_head(built: EngineBundle) -> None:
    model = onnx.load(built.verified_file("onnx_int8"))
    made_by = {name: node for node in model.graph.node for name in node.output}
    sources = [made_by.get(node.input[0]) for node in model.graph.node if node.op_type == "Conv"]
    kinds = ["" if source is None else source.op_type for source in sources]
    assert len(kinds) == 14
    assert Counter(kinds[1:-1]) == {"DequantizeLinear": 12}
    assert kinds[0] == "Add"
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    # Seven bits, so that no processor's sums of products saturate.
    assert max(np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() for weight in weights) <= 64


def test_its_figures_are_measured_and_kept(built: EngineBundle, images: Int8Images, checkpoint: Checkpoint) -> None:
    manifest = load_bundle(built.folder).manifest
    parity, accuracy = manifest.parity["onnx_int8"], manifest.accuracy["onnx_int8"]
    engine = open_engine(built, precision="int8")
    change = np.abs(
        engine.infer(images.judged.pixels).probabilities
        - predict_probabilities(checkpoint.network, images.judged.pixels)
    )
    assert isinstance(parity, ParityFigures)
    assert parity.max_probability_change == pytest.approx(change.max(), abs=1e-6)
    assert parity.mean_probability_change == pytest.approx(change.mean(), abs=1e-6)
    assert (parity.images, parity.source) == (N_JUDGED, "noise")
    assert accuracy.auroc_reference == 1.0
    assert 0.995 <= accuracy.auroc <= 1.0
    card = (built.folder / "MODEL_CARD.md").read_text()
    assert f"mean AUROC {accuracy.auroc:.4f} beside 1.0000" in card
    assert built.file("onnx_int8").sha256 in card


def test_too_great_a_loss_is_refused_and_nothing_is_installed(
    tmp_path: Path, checkpoint_file: Path, images: Int8Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "AUROC_LIMIT", -1e-9)
    options = BuildOptions(precision="int8", choose_int8_images=lambda _: images)
    with pytest.raises(EngineError, match=r"AUROC drops from 1\.0000 to .* it was not installed"):
        build_engine(checkpoint_file, "worse", engines_folder=tmp_path / "engines", options=options)
    assert not list((tmp_path / "engines").iterdir())


def test_a_broken_int8_engine_is_refused_also_without_labels(
    built: EngineBundle, checkpoint: Checkpoint, images: Int8Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabelled = replace(images, judged=replace(images.judged, targets=np.full_like(images.judged.targets, np.nan)))
    reference = score_by_reference(checkpoint.network, images.judged.pixels)
    assert judge_int8(built, reference, unlabelled)[1] is None
    broken = np.full((N_JUDGED, 3), np.nan, np.float32)
    monkeypatch.setattr(int8, "_score", lambda *_: replace(reference, probabilities=broken))
    with pytest.raises(EngineError, match=r"change by nan on average .* --data"):
        judge_int8(built, reference, unlabelled)


def test_a_bundle_without_int8_says_how_to_make_it(tmp_path: Path, built: EngineBundle) -> None:
    shutil.copytree(built.folder, tmp_path / "plain")
    manifest = built.manifest
    plain = EngineBundle(tmp_path / "plain", replace(manifest, files={"onnx": manifest.files["onnx"]}))
    with pytest.raises(EngineError, match=r"has no onnx_int8 file .* build CHECKPOINT -n small --precision int8"):
        open_engine(plain, precision="int8")


def test_a_graph_without_enough_convolutions_is_refused() -> None:
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    with pytest.raises(EngineError, match="0 convolutions"):
        nodes_kept_in_float(empty)


# --------------------------------------------------------------------------- images


def test_phantoms_judge_only_what_learned_from_phantoms(
    facts: CheckpointFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.model.build.images.CALIBRATION_IMAGES", 2)
    monkeypatch.setattr("cxrbatch.model.build.images._PHANTOMS_JUDGED", 12)
    labelled = replace(facts, labels=(Label("Effusion"), Label("Of another kind")))
    assert np.isnan(draw_int8_images(labelled).judged.targets).all()
    learned = replace(labelled, training=replace(facts.training, data="phantoms that were drawn"))
    targets = draw_int8_images(learned).judged.targets
    assert np.isnan(targets[:, 1]).all()
    assert set(targets[:, 0]) == {0.0, 1.0}


def test_labelled_data_calibrates_with_train_and_judges_with_val(tmp_path: Path, facts: CheckpointFacts) -> None:
    rows = ("a.png,1,train,1", "b.png,2,train,0", "c.png,3,val,0", "d.png,4,val,1")
    folder = write_table(tmp_path / "data", "\n".join(("path,patient,split,A", *rows)) + "\n").parent
    images = read_int8_images(folder, DataOptions(), replace(facts, labels=(Label("Other"), Label("A"))))
    assert (images.calibration.shape[1:], images.judged.pixels.shape[1:]) == ((1, 64, 64), (1, 64, 64))
    assert np.isnan(images.judged.targets[:, 0]).all()
    assert images.judged.targets[:, 1].tolist() == [0.0, 1.0]
    assert (len(images.calibration), images.source) == (2, "validation images of data")
    with pytest.raises(UsageError, match="none of the checkpoint's labels"):
        read_int8_images(folder, DataOptions(), replace(facts, labels=(Label("Other"),)))


def test_an_engine_of_int8_can_be_built_again_over_itself(
    tmp_path: Path, built: EngineBundle, checkpoint: Checkpoint, images: Int8Images
) -> None:
    shutil.copytree(built.folder, tmp_path / "again")
    again = add_int8_file(load_bundle(tmp_path / "again"), checkpoint.network, images)
    assert again.file("onnx_int8").sha256 == built.file("onnx_int8").sha256


def test_the_build_command_passes_on_what_to_judge_on(
    tmp_path: Path, checkpoint_file: Path, facts: CheckpointFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("a.png,1,train,1,0", "b.png,2,train,0,1", "c.png,3,val,0,1", "d.png,4,val,1,0")
    table = write_table(tmp_path / "data", "\n".join(("path,patient,split,A,B", *rows)) + "\n")
    built = load_bundle(write_tiny_bundle(tmp_path / "engines"))
    asked: list[BuildOptions] = []

    def build(_: Path, name: str, *, engines_folder: Path, options: BuildOptions, report: object) -> EngineBundle:
        asked.append(options)
        return built

    monkeypatch.setattr("cxrbatch.model.build.build.build_engine", build)
    arguments = ["build", str(checkpoint_file), "-n", "x", "--engines", str(tmp_path)]
    data = ["--data", str(table.parent), "--labels", "A"]
    for more in ([], ["--precision", "int8"], ["--precision", "int8", *data]):
        assert run_command_line([*arguments, *more]) == ExitCode.DONE
    without, phantoms, labelled = asked
    assert [options.precision for options in asked] == ["fp32", "int8", "int8"]
    assert without.choose_int8_images is phantoms.choose_int8_images is draw_int8_images
    assert without.choose_gate_images is draw_gate_images
    assert labelled.choose_gate_images(facts).source.startswith("images (2 validation images of data")
    assert np.isnan(labelled.choose_int8_images(facts).judged.targets).all(axis=0).tolist() == [False, True, True]


def scored(probabilities: list[float]) -> Scores:
    column = np.array(probabilities, np.float32)[:, np.newaxis]
    return Scores(np.hstack([column] * 3), np.hstack([column] * 3), np.zeros((len(column), 3, 2, 2), np.float32))


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        ([0.1, 0.2, 0.55, 0.6, 0.7, 0.8], ""),
        ([0.1, 0.2, 0.45, 0.49, 0.7, 0.8], r"4 of 12 verdicts differ .* \(limit 2.0% of them, 6 noise\).* with FP32"),
        ([0.1, 0.66, 0.65, 0.6, 0.7, 0.8], r"AUROC of [AC] drops by 0.2222 \(limit 0.02"),
    ],
)
def test_flips_and_the_worst_label_are_counted_and_limited(
    built: EngineBundle, monkeypatch: pytest.MonkeyPatch, answered: list[float], told: str
) -> None:
    monkeypatch.setattr(int8, "CHANGE_LIMIT", 1.0)
    monkeypatch.setattr(int8, "AUROC_LIMIT", 1.0)
    monkeypatch.setattr(int8, "_score", lambda *_: scored(answered))
    targets = np.array([[0, np.nan, 0]] * 3 + [[1, np.nan, 1]] * 3, np.float32)
    judged = Int8Images(
        np.zeros((0, 1, 64, 64), np.uint8), PixelSet(np.zeros((6, 1, 64, 64), np.uint8), targets), "noise"
    )
    labels = tuple(replace(label, operating_point=0.5) for label in built.labels)
    bundle = EngineBundle(built.folder, replace(built.manifest, labels=labels))
    reference = scored([0.1, 0.2, 0.55, 0.6, 0.7, 0.8])
    if told:
        with pytest.raises(EngineError, match=told):
            judge_int8(bundle, reference, judged)
        return
    parity, accuracy = judge_int8(bundle, reference, judged)
    # B has no label on any image: its verdicts are counted, but nobody can say what a flip would cost.
    assert accuracy is not None
    assert (parity.verdicts, accuracy.verdicts, accuracy.decision_flips) == (18, 12, 0)
    assert (accuracy.worst_drop, accuracy.worst_limit, accuracy.flip_limit) == (0.0, 0.02, 0.02)
