"""`build --embeddings`: the pooled features are an output of every graph, compared by the gate; ensembles have none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cxrbatch.engine.agreement import FP16_LIMITS, compare_scores, refuse_disagreement
from cxrbatch.engine.bundle import EngineBundle, load_bundle
from cxrbatch.engine.deferred_gate import PARITY_FILE
from cxrbatch.engine.manifest import ParityFigures
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.torch_graph import GraphNetwork
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.build.adjust import AdjustOptions, adjust_engine
from cxrbatch.model.build.build import BuildOptions, build_engine
from cxrbatch.model.build.gate import ParityImages, save_deferred_gate, score_by_reference
from cxrbatch.model.build.int8 import quantise_onnx
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, load_checkpoint, save_checkpoint
from cxrbatch.model.network.embedding import with_embedding
from cxrbatch.model.network.ensemble import EnsembleNetwork
from cxrbatch.model.network.export import halve
from cxrbatch.model.network.mirror import MirroredNetwork
from cxrbatch.model.network.open_model import open_model
from cxrbatch.records import Gray8
from tests.factories.model import build_unlike_defaults


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, facts: CheckpointFacts) -> EngineBundle:
    folder = tmp_path_factory.mktemp("embeddings")
    save_checkpoint(folder / "small.safetensors", Checkpoint(build_unlike_defaults(facts), facts))
    options = BuildOptions(embeddings=True)
    return build_engine(folder / "small.safetensors", "small", engines_folder=folder / "engines", options=options)


def test_every_way_to_run_it_gives_the_mean_of_the_last_feature_map(built: EngineBundle, noise: Gray8) -> None:
    manifest = load_bundle(built.folder).manifest
    assert manifest.extra_outputs == ("embedding",)
    file = built.verified_file("checkpoint")
    network = load_checkpoint(file).network
    with torch.no_grad():
        features = network.feature_map(torch.from_numpy(noise))  # type: ignore[operator]  # of one network
    wanted = features.mean(dim=(2, 3)).numpy()
    assert wanted.std() > 1e-3
    fp32 = OnnxRuntimeEngine(built).infer(noise)
    half = score_by_reference(halve(network), noise).embedding
    torch_graph = GraphNetwork(built.read_verified("onnx"))
    assert torch_graph.outputs[-1] == "embedding"
    for embedding in (
        fp32.embedding,
        open_model(str(file)).infer(noise).embedding,
        torch_graph(torch.from_numpy(noise))[-1].numpy(),
    ):
        assert embedding is not None
        np.testing.assert_allclose(embedding, wanted, rtol=1e-3, atol=1e-5)
    assert half is not None
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, wanted, rtol=0.05, atol=0.01)


def test_the_gate_looks_at_it_too(built: EngineBundle, noise: Gray8, tmp_path: Path) -> None:
    figures = built.manifest.parity["onnx"]
    assert isinstance(figures, ParityFigures)
    assert figures.embedding_limit == 1e-3
    assert figures.max_embedding_change is not None
    assert 0 < figures.max_embedding_change < 1e-5
    assert "largest change of an embedding" in (built.folder / "MODEL_CARD.md").read_text()
    network = load_checkpoint(built.verified_file("checkpoint")).network
    save_deferred_gate(tmp_path / PARITY_FILE, network, ParityImages(noise.repeat(64, axis=0)[:64], "noise"))
    with np.load(tmp_path / PARITY_FILE) as kept:
        assert kept["embedding"].shape[0] == 64, "a plan is compared with it where it runs"
    reference = score_by_reference(network, noise)
    assert reference.embedding is not None
    wrong = replace(reference, embedding=np.asarray(reference.embedding * 1.03, np.float32))
    comparison = compare_scores(wrong, reference, built.labels, built.verdict_rule)
    with pytest.raises(EngineError, match=r"embeddings differ from the checkpoint's by up to 0\.03 of their length"):
        refuse_disagreement(comparison, comparison.figures("images", FP16_LIMITS), "engine", "no")
    broken = replace(reference, embedding=np.full_like(reference.embedding, np.nan))
    comparison = compare_scores(broken, reference, built.labels, built.verdict_rule)
    with pytest.raises(EngineError, match="embeddings differ"):
        refuse_disagreement(comparison, comparison.figures("images", FP16_LIMITS), "engine", "no")
    with pytest.raises(EngineError, match="gives no embedding"):
        compare_scores(replace(reference, embedding=None), reference, built.labels, built.verdict_rule)
    # A gate or a bundle of before has none to compare with.
    before = replace(reference, embedding=None)
    assert compare_scores(reference, before, built.labels, built.verdict_rule).embedding_change is None


def test_int8_keeps_the_output(built: EngineBundle, tmp_path: Path, noise: Gray8) -> None:
    quantise_onnx(built.verified_file("onnx"), tmp_path / "int8.onnx", noise)
    assert [output.name for output in onnx.load(tmp_path / "int8.onnx").graph.output][-1] == "embedding"


def test_what_is_made_of_the_engine_gives_it_too(built: EngineBundle, noise: Gray8) -> None:
    new = adjust_engine(
        str(built.folder), "new", engines_folder=built.folder.parent, options=AdjustOptions(urgent=("B",))
    )
    assert new.manifest.extra_outputs == ("embedding",)
    np.testing.assert_array_equal(
        OnnxRuntimeEngine(new).infer(noise).embedding, OnnxRuntimeEngine(built).infer(noise).embedding
    )


def test_of_a_mirrored_network_it_is_the_mean_of_both_images(facts: CheckpointFacts, noise: Gray8) -> None:
    single = build_unlike_defaults(facts)
    mirrored = with_embedding(Checkpoint(MirroredNetwork(single), facts)).network
    straight, turned = (score_by_reference(single, image).embedding for image in (noise, noise[..., ::-1].copy()))
    answered = score_by_reference(mirrored, noise).embedding
    assert straight is not None
    assert turned is not None
    assert answered is not None
    np.testing.assert_allclose(answered, (straight + turned) / 2, atol=1e-5)


def test_an_ensemble_has_none(facts: CheckpointFacts) -> None:
    ensemble = EnsembleNetwork([build_unlike_defaults(facts), build_unlike_defaults(facts)])
    with pytest.raises(UsageError, match="an ensemble has no embedding"):
        with_embedding(Checkpoint(ensemble, facts))
    assert ensemble.extra_outputs == ("disagreement",)
