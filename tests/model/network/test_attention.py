"""Attention pooling keeps the graph contract: the mean of a map and the bias are the logit, on every way out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from cxrbatch.engine.contract import OUTPUTS
from cxrbatch.engine.torch_graph import GraphNetwork
from cxrbatch.errors import EngineError
from cxrbatch.model.build.int8 import nodes_kept_in_float, quantise_onnx
from cxrbatch.model.network.checkpoint import (
    Checkpoint,
    CheckpointFacts,
    build_network,
    encode_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from cxrbatch.model.network.export import export_onnx, halve, require_half_weights
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.model.network.pretrained import find_init, initialise
from cxrbatch.records import CellGrid, Gray8, InputSpec, Label
from tests.factories.model import draw_noise, one_network, settle, tiny_architecture

SIZE_PX = 64
LABELS = ("A", "B", "C")
FACTS = CheckpointFacts(
    created="2026-01-02T03:04:05+00:00",
    architecture="tiny",
    task="multilabel",
    labels=tuple(map(Label, LABELS)),
    input=InputSpec(SIZE_PX, mean=0.4, std=0.3),
    pooling="attention",
    cells=CellGrid(0.5, 0.5, 4, 4),  # measuring them takes a second
)


@pytest.fixture(scope="module", autouse=True)
def tiny() -> object:
    with tiny_architecture():
        yield


@pytest.fixture(scope="module")
def pixels() -> Gray8:
    return draw_noise(6, SIZE_PX)


@pytest.fixture(scope="module")
def attentive(tiny: object, pixels: Gray8) -> ChestNetwork:
    """A network whose cells count very differently, and differently for each label."""
    network = settle(lambda: build_network(FACTS), torch.from_numpy(pixels))
    assert network.attention is not None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        nn.init.normal_(network.attention.score.weight, std=9.0)
        network.head.weight.mul_(3.0)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, attentive: ChestNetwork) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "attentive.onnx"
    export_onnx(attentive, path, size_px=SIZE_PX)
    return path


def shares_by_hand(network: ChestNetwork, features: torch.Tensor) -> torch.Tensor:
    """Equation 9 of Ilse et al. 2018, cell by cell: [N,channels,h,w] -> [N,C,h*w], each row adding up to 1."""
    attention = network.attention
    assert attention is not None
    cells = features.flatten(2).transpose(1, 2)
    content, gate = (
        cells @ layer.weight[:, :, 0, 0].T + (0 if layer.bias is None else layer.bias)
        for layer in (attention.content, attention.gate)
    )
    scores = (content.tanh() * gate.sigmoid()) @ attention.score.weight[:, :, 0, 0].T
    return scores.softmax(dim=1).transpose(1, 2)


def test_logits_are_the_attended_sum_and_maps_add_up_to_them(attentive: ChestNetwork, pixels: Gray8) -> None:
    with torch.no_grad():
        features, scores = attentive.feature_map(torch.from_numpy(pixels)), attentive(torch.from_numpy(pixels))
        shares = shares_by_hand(attentive, features)
        attended = torch.einsum("nci,nki->nck", shares, features.flatten(2))
        by_hand = (attended * attentive.head.weight).sum(dim=2) + attentive.head.bias
    # Some cell counts three times as much as all do on average, and not the same one for each label.
    assert shares.amax() * shares.shape[2] > 3
    assert (shares.argmax(dim=2) != shares.argmax(dim=2)[:, :1]).any()
    torch.testing.assert_close(scores.logits, by_hand, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.cams.mean(dim=(2, 3)) + attentive.head.bias, scores.logits)


def test_maps_are_gradient_times_features_with_the_attention_held_still(attentive: ChestNetwork, pixels: Gray8) -> None:
    """HiResCAM (Draelos and Carin 2020) by autograd; Grad-CAM's averaged gradient would be another map."""
    with torch.no_grad():
        features, cams = attentive.feature_map(torch.from_numpy(pixels)), attentive(torch.from_numpy(pixels)).cams
        shares = shares_by_hand(attentive, features)
    inputs = features.clone().requires_grad_()
    attended = torch.einsum("nci,nki->nck", shares, inputs.flatten(2))
    logits = (attended * attentive.head.weight.detach()).sum(dim=2)
    cells = cams.shape[2] * cams.shape[3]
    for label in range(3):
        (gradient,) = torch.autograd.grad(logits[:, label].sum(), inputs, retain_graph=True)
        torch.testing.assert_close((gradient * features).sum(dim=1) * cells, cams[:, label], rtol=1e-3, atol=1e-3)
        averaged = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1) * cells
        assert not torch.allclose(averaged, cams[:, label], rtol=0.1, atol=0.1)


def test_untrained_attention_is_the_average(pixels: Gray8) -> None:
    facts = (replace(FACTS, pooling="average"), FACTS)
    networks = [build_seeded(partial(build_network, each), seed=2).eval() for each in facts]
    with torch.no_grad():
        average, attention = (network(torch.from_numpy(pixels)) for network in networks)
    torch.testing.assert_close(attention.cams, average.cams)
    torch.testing.assert_close(attention.logits, average.logits)


def test_attention_learns(pixels: Gray8) -> None:
    network = build_seeded(lambda: build_network(FACTS), seed=2)
    assert network.attention is not None
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.from_numpy(pixels)).logits[:, 0].sum().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters()
               if parameter.ndim > 1)  # fmt: skip
    assert network.attention.score.weight[0].abs().max() > 0


def test_an_exported_graph_answers_the_same_here_and_in_torch(
    exported: Path, attentive: ChestNetwork, pixels: Gray8
) -> None:
    with torch.no_grad():
        expected = attentive(torch.from_numpy(pixels))
        in_torch = GraphNetwork(exported.read_bytes())(torch.from_numpy(pixels))
    session = ort.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    in_onnx = session.run(list(OUTPUTS), {"pixels": pixels})
    for wanted, found, answered in zip(expected, in_onnx, in_torch, strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        np.testing.assert_allclose(found / scale, wanted.numpy() / scale, atol=1e-5)
        np.testing.assert_allclose(answered.numpy() / scale, wanted.numpy() / scale, atol=1e-5)


def test_half_precision_scores_cells_in_half_and_weighs_them_in_single(
    tmp_path: Path, attentive: ChestNetwork, pixels: Gray8
) -> None:
    half = halve(attentive)
    assert half.attention is not None
    assert {parameter.dtype for parameter in half.attention.parameters()} == {torch.float16}
    assert {parameter.dtype for parameter in attentive.parameters()} == {torch.float32}
    with torch.no_grad():
        wanted, found = attentive(torch.from_numpy(pixels)), half(torch.from_numpy(pixels))
        assert half.attention(half.feature_map(torch.from_numpy(pixels))).dtype == torch.float32
    torch.testing.assert_close(found.cams.mean(dim=(2, 3)) + half.head.bias, found.logits)
    assert 0 < float((found.probabilities - wanted.probabilities).abs().max()) < 0.02
    export_onnx(half, tmp_path / "half.onnx", size_px=SIZE_PX)
    require_half_weights(tmp_path / "half.onnx")
    types = {node.op_type for node in onnx.load(tmp_path / "half.onnx").graph.node}
    assert types >= {"Exp", "ReduceMax", "Tanh"}


def test_attention_stays_in_float_when_the_rest_becomes_integers(
    tmp_path: Path, exported: Path, attentive: ChestNetwork, pixels: Gray8
) -> None:
    graph = onnx.load(exported).graph
    kept = set(nodes_kept_in_float(onnx.load(exported)))
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    # The first one; the head, content, gate and score of the attention.
    assert [name in kept for name in convolutions] == [True] + [False] * (len(convolutions) - 5) + [True] * 4
    quantise_onnx(exported, tmp_path / "int8.onnx", pixels)
    quantised = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {name: node.op_type for node in quantised.node for name in node.output}
    weights = [made_by.get(node.input[1], "") for node in quantised.node if node.op_type == "Conv"]
    assert weights.count("DequantizeLinear") == len(convolutions) - 5
    found = ort.InferenceSession(str(tmp_path / "int8.onnx")).run(list(OUTPUTS), {"pixels": pixels})
    with torch.no_grad():
        wanted = attentive(torch.from_numpy(pixels)).probabilities.numpy()
    assert np.abs(found[0] - wanted).mean() < 0.05
    np.testing.assert_allclose(found[2].mean(axis=(2, 3)) + attentive.head.bias.detach().numpy(), found[1], atol=1e-4)


def test_a_checkpoint_keeps_its_pooling_and_an_older_one_averages(tmp_path: Path, attentive: ChestNetwork) -> None:
    save_checkpoint(tmp_path / "attentive.safetensors", Checkpoint(attentive, FACTS))
    loaded = load_checkpoint(tmp_path / "attentive.safetensors")
    assert loaded.facts.pooling == "attention"
    attention = one_network(loaded).attention
    assert attention is not None
    assert attentive.attention is not None
    assert torch.equal(attention.score.weight, attentive.attention.score.weight)
    plain = replace(FACTS, pooling="average")
    content = encode_checkpoint(Checkpoint(build_network(plain), plain))
    older = content.replace(b'\\"pooling\\":\\"average\\",', b" " * len(b'\\"pooling\\":\\"average\\",'))
    assert older != content
    assert load_checkpoint(tmp_path / "older.safetensors", older).facts.pooling == "average"


def test_weights_that_do_not_fit_the_pooling_are_refused(tmp_path: Path, attentive: ChestNetwork) -> None:
    save_checkpoint(tmp_path / "odd.safetensors", Checkpoint(attentive, replace(FACTS, pooling="average")))
    with pytest.raises(EngineError, match="weights do not fit its own description"):
        load_checkpoint(tmp_path / "odd.safetensors")


def test_attention_starts_from_an_averaging_checkpoint_as_the_same_function(tmp_path: Path, pixels: Gray8) -> None:
    plain = replace(FACTS, pooling="average")
    averaging = settle(lambda: build_network(plain), torch.from_numpy(pixels))
    save_checkpoint(tmp_path / "plain.safetensors", Checkpoint(averaging, plain))
    network = build_seeded(lambda: build_network(FACTS), seed=9).eval()
    told = initialise(network, find_init(str(tmp_path / "plain.safetensors"), "tiny"), seed=9, labels=LABELS)
    assert told.endswith(", with its head.")
    with torch.no_grad():
        logits = (network(torch.from_numpy(pixels)).logits, averaging(torch.from_numpy(pixels)).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_attention_goes_on_from_attention_and_leaves_its_head_where_all_cells_count_alike(
    tmp_path: Path, attentive: ChestNetwork, pixels: Gray8
) -> None:
    save_checkpoint(tmp_path / "attentive.safetensors", Checkpoint(attentive, FACTS))
    init = find_init(str(tmp_path / "attentive.safetensors"), "tiny")
    network = build_seeded(lambda: build_network(FACTS), seed=9).eval()
    assert initialise(network, init, seed=9, labels=LABELS).endswith(", with its head.")
    with torch.no_grad():
        logits = (network(torch.from_numpy(pixels)).logits, attentive(torch.from_numpy(pixels)).logits)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    averaging = build_seeded(lambda: build_network(replace(FACTS, pooling="average")), seed=9)
    assert initialise(averaging, init, seed=9, labels=LABELS).endswith("; the head is random.")
    assert not torch.equal(averaging.head.weight, attentive.head.weight)


def test_the_pooled_vector_is_the_mean_whatever_the_pooling(attentive: ChestNetwork, pixels: Gray8) -> None:
    with torch.no_grad():
        features = attentive.feature_map(torch.from_numpy(pixels))
        pooled = attentive.pooled(features.half())
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, features.flatten(2).mean(dim=2), rtol=1e-2, atol=1e-2)
