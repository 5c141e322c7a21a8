"""A checkpoint becomes an installed bundle, whole or not at all, and only if both agree."""

from __future__ import annotations

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrbatch.engine.agreement import Limits
from cxrbatch.engine.bundle import EngineBundle, load_bundle
from cxrbatch.engine.cuda import CudaProbe
from cxrbatch.engine.deferred_gate import load_gate
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.manifest import BatchProfile, ParityFigures
from cxrbatch.engine.open import open_engine
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.build import build as builds, tensorrt_build
from cxrbatch.model.build.build import BuildOptions, BuildReport, build_engine
from cxrbatch.model.build.gate import ParityImages, measure_parity, score_by_reference
from cxrbatch.model.build.images import _draw as draw_anew, draw_gate_images, read_gate_images
from cxrbatch.model.data.dataset import load_data, prepare_pixels
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, load_checkpoint, save_checkpoint
from cxrbatch.model.network.export import export_onnx, halve
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import Gray8
from tests.factories.labelled import write_table
from tests.factories.wheels import fetch_package


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> EngineBundle:
    folder = tmp_path_factory.mktemp("build")
    save_checkpoint(folder / "small.safetensors", checkpoint)
    return build_engine(folder / "small.safetensors", "small", engines_folder=folder / "engines")


def test_the_bundle_says_what_the_checkpoint_says(built: EngineBundle, facts: CheckpointFacts) -> None:
    manifest = load_bundle(built.folder).manifest
    assert (manifest.name, manifest.architecture, manifest.output_stride) == ("small", "tiny", 32)
    assert (manifest.labels, manifest.input, manifest.notice) == (facts.labels, facts.input, facts.notice)
    figures = manifest.parity["onnx"]
    assert isinstance(figures, ParityFigures)
    assert (figures.images, figures.source, figures.decision_flips) == (64, "phantoms", 0)
    assert 0 <= figures.max_probability_change < 1e-5


def test_the_engine_scores_like_the_network(built: EngineBundle, network: ChestNetwork, noise: Gray8) -> None:
    scores = open_engine(built).infer(noise)
    with torch.no_grad():
        expected = network(torch.from_numpy(noise))
    np.testing.assert_allclose(scores.probabilities, expected.probabilities.numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def with_plan(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> EngineBundle:
    """A bundle with an RTX plan, built where no GPU can run it."""
    packages = fetch_package("tensorrt-rtx-cu13==1.7.1.116", with_dependencies=True)
    folder = tmp_path_factory.mktemp("plan")
    save_checkpoint(folder / "small.safetensors", checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(packages))
        patch.setattr(tensorrt_build, "probe_cuda", lambda: CudaProbe(problem="no NVIDIA driver"))
        options = BuildOptions(backends=("tensorrt-rtx",))
        return build_engine(folder / "small.safetensors", "small", engines_folder=folder / "engines", options=options)


def test_an_rtx_plan_that_cannot_run_here_is_pending(with_plan: EngineBundle) -> None:
    manifest = with_plan.manifest
    assert set(manifest.files) == {"onnx", "onnx_fp16", "plan_rtx", "checkpoint", "parity_images"}
    assert {role for role, figures in manifest.parity.items() if figures == "pending"} == {"plan_rtx"}
    facts = manifest.files["plan_rtx"].plan
    assert facts is not None
    assert (facts.gpu, facts.compute_capabilities, facts.profile) == (
        "", ("8.0", "8.6", "8.9", "12.0"), BatchProfile(1, 32, 128),
    )  # fmt: skip
    assert "plan_rtx: pending" in (with_plan.folder / "MODEL_CARD.md").read_text()


def test_what_a_pending_plan_is_compared_with_comes_along(with_plan: EngineBundle, network: ChestNetwork) -> None:
    gate = load_gate(with_plan)
    assert (len(gate.pixels), gate.source, gate.limit) == (64, "phantoms", 0.005)
    with torch.no_grad():
        expected = network(torch.from_numpy(gate.pixels[:4]))
    np.testing.assert_allclose(gate.reference.probabilities[:4], expected.probabilities.numpy(), atol=1e-5)
    np.testing.assert_allclose(gate.reference.cams[:4], expected.cams.numpy(), atol=1e-3)


def test_the_fp16_graph_passes_its_own_gate(with_plan: EngineBundle) -> None:
    figures = with_plan.manifest.parity["onnx_fp16"]
    assert isinstance(figures, ParityFigures)
    assert 1e-6 < figures.max_probability_change < figures.limit == 0.005
    assert figures.heatmap_correlation is not None
    assert figures.heatmap_correlation > 0.999


def test_onnx_only_leaves_the_plans_to_another_machine(tmp_path: Path, checkpoint_file: Path) -> None:
    said: list[str] = []
    bundle = build_engine(
        checkpoint_file,
        "one",
        engines_folder=tmp_path / "engines",
        options=BuildOptions(backends=("tensorrt", "tensorrt-rtx"), onnx_only=True),
        report=BuildReport(say=said.append),
    )
    assert set(bundle.manifest.files) == {"onnx", "onnx_fp16", "checkpoint", "parity_images"}
    assert said == [
        "exporting the network to ONNX (FP32)",
        "exporting the network to ONNX (FP16)",
        "comparing with the checkpoint on 64 phantoms",
    ]


def test_what_cannot_be_built_here_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_build, "probe_cuda", lambda: CudaProbe(problem="no NVIDIA driver"))
    with pytest.raises(EngineError, match="--onnx-only"):
        build_engine(
            tmp_path / "not even there",
            "one",
            engines_folder=tmp_path / "engines",
            options=BuildOptions(backends=("tensorrt",)),
        )
    assert not (tmp_path / "engines").exists()


def test_a_half_graph_that_disagrees_is_not_installed(
    tmp_path: Path, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halve_wrongly(network: ChestNetwork) -> ChestNetwork:
        wrong = halve(network)
        wrong.head.bias.data += 0.1
        return wrong

    monkeypatch.setattr(builds, "halve", halve_wrongly)
    with pytest.raises(EngineError, match=r"onnxruntime, fp16.: .* \(limit 0.005, 64 phantoms\); it was not installed"):
        build_engine(
            checkpoint_file, "wrong", engines_folder=tmp_path / "engines", options=BuildOptions(precision="fp16")
        )
    assert not list((tmp_path / "engines").iterdir())


def test_the_checkpoint_comes_along(built: EngineBundle, facts: CheckpointFacts) -> None:
    told = load_checkpoint(built.verified_file("checkpoint")).facts
    assert told.cells is not None
    assert replace(told, cells=None) == facts


def test_the_folder_holds_what_it_should_and_others_cannot_write_it(built: EngineBundle) -> None:
    assert {path.name for path in built.folder.iterdir()} == {
        "engine.json", "model.onnx", "checkpoint.safetensors", "MODEL_CARD.md",
    }  # fmt: skip
    assert [path.name for path in built.folder.parent.iterdir()] == ["small"]
    assert stat.S_IMODE(built.folder.stat().st_mode) == 0o750
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o640 for path in built.folder.iterdir())


def test_the_model_card_tells_the_same_facts(built: EngineBundle) -> None:
    card = (built.folder / "MODEL_CARD.md").read_text()
    assert "**Knows nothing.**" in card
    assert "| A | 0.400 | yes | 0.750 |" in card
    assert "| B | none: no verdict |  |  |" in card
    assert built.file("onnx").sha256 in card
    assert "on 64 phantoms" in card


def test_building_again_replaces_the_engine(tmp_path: Path, checkpoint_file: Path, built: EngineBundle) -> None:
    engines = tmp_path / "engines"
    shutil.copytree(built.folder, engines / "one")
    (engines / "one" / "stale.plan").write_text("of the old engine")
    second = build_engine(checkpoint_file, "one", engines_folder=engines)
    assert [path.name for path in engines.iterdir()] == ["one"]
    assert not (second.folder / "stale.plan").exists()
    assert find_bundle(str(engines / "one")).manifest == second.manifest


def test_a_folder_that_is_no_engine_is_not_replaced(tmp_path: Path, checkpoint_file: Path) -> None:
    precious = tmp_path / "engines" / "one" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("keep me")
    with pytest.raises(EngineError, match="is there and is no engine"):
        build_engine(checkpoint_file, "one", engines_folder=tmp_path / "engines")
    assert precious.read_text() == "keep me"
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["one"]


def test_an_engine_that_disagrees_is_not_installed(
    tmp_path: Path, checkpoint_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def export_wrongly(network: ChestNetwork, path: Path, *, size_px: int) -> None:
        with torch.no_grad():
            # Of another logit by 0.01: what a wrong mean or a lost bias would do.
            network.head.bias.add_(0.01)
            export_onnx(network, path, size_px=size_px)
            network.head.bias.sub_(0.01)

    monkeypatch.setattr(builds, "export_onnx", export_wrongly)
    with pytest.raises(EngineError, match=r"differ from the checkpoint's by up to .* it was not installed"):
        build_engine(checkpoint_file, "wrong", engines_folder=tmp_path / "engines")
    assert not list((tmp_path / "engines").iterdir())


def test_parity_measures_the_largest_change(built: EngineBundle, checkpoint: Checkpoint, noise: Gray8) -> None:
    images = ParityImages(np.tile(noise, (8, 1, 1, 1)), "noise")
    engine, reference = open_engine(built), score_by_reference(checkpoint.network, images.pixels)
    figures = measure_parity(engine, reference, images, limits=Limits(1e-4))
    with torch.no_grad():
        expected = checkpoint.network(torch.from_numpy(images.pixels)).probabilities.numpy()
    change = np.abs(engine.infer(images.pixels).probabilities - expected)
    assert figures.images == 64
    assert figures.max_probability_change == pytest.approx(change.max(), abs=1e-6)
    with pytest.raises(EngineError, match="limit 0, 64 noise"):
        measure_parity(engine, reference, images, limits=Limits(0.0))


def test_parity_wants_64_images(noise: Gray8) -> None:
    with pytest.raises(ValueError, match="needs 64 images, not 8"):
        ParityImages(noise, "noise")


def test_parity_phantoms_are_the_same_each_time_and_all_different(
    facts: CheckpointFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw_gate_images(facts)
    monkeypatch.setattr("cxrbatch.model.build.images._draw", draw_anew)
    again = draw_gate_images(facts)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert len({image.tobytes() for image in first.pixels}) == 64


def test_the_gate_looks_at_validation_images_where_data_is_named(tmp_path: Path, facts: CheckpointFacts) -> None:
    rows = ("a.png,1,train,1", "b.png,2,train,0", "c.png,3,val,0", "d.png,4,val,1")
    folder = write_table(tmp_path / "data", "\n".join(("path,patient,split,A", *rows)) + "\n").parent
    images = read_gate_images(folder, DataOptions(), facts)
    expected = prepare_pixels(load_data(folder, DataOptions()).part("val"), facts.input).pixels
    np.testing.assert_array_equal(images.pixels[:2], expected)
    np.testing.assert_array_equal(images.pixels[2:], draw_gate_images(facts).pixels[:62])
    assert images.source == "images (2 validation images of data, 62 phantoms)"


def test_a_build_says_what_it_compared_on(tmp_path: Path, checkpoint_file: Path, noise: Gray8) -> None:
    options = BuildOptions(choose_gate_images=lambda _: ParityImages(np.tile(noise, (9, 1, 1, 1)), "images of ours"))
    built = build_engine(checkpoint_file, "small", engines_folder=tmp_path / "engines", options=options)
    figures = built.manifest.parity["onnx"]
    assert isinstance(figures, ParityFigures)
    assert (figures.images, figures.source) == (72, "images of ours")
    assert "on 72 images of ours" in (built.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "name with space"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, checkpoint_file: Path, name: str) -> None:
    with pytest.raises(UsageError, match="engine name"):
        build_engine(checkpoint_file, name, engines_folder=tmp_path / "engines")
