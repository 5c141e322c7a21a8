"""The torch backend's graph computes what the network that was exported computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from cxrbatch.engine.torch_graph import GraphNetwork
from cxrbatch.model.network.export import export_onnx
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.records import InputSpec, Task
from tests.factories.engine import tiny_graph, tiny_probabilities


# The other families: tests/model/network/test_architectures.py, where they are exported anyway.
@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_graph_answers_like_its_network(tmp_path: Path, task: Task) -> None:
    size = 64
    spec = InputSpec(size, mean=0.4, std=0.3)
    network = build_seeded(lambda: ChestNetwork("resnet18", 3, spec=spec, task=task), seed=1).eval()
    export_onnx(network, tmp_path / "model.onnx", size_px=size)
    graph = GraphNetwork((tmp_path / "model.onnx").read_bytes())
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (3, 1, size, size), dtype=np.uint8))
    with torch.no_grad():
        for answered, expected in zip(graph(pixels), network(pixels), strict=True):
            scale = max(1.0, float(expected.abs().max()))
            np.testing.assert_allclose(answered.numpy(), expected.numpy(), atol=1e-5 * scale)


def test_the_tiny_graph_answers_as_told() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), dtype=np.uint8)
    graph = GraphNetwork(tiny_graph(4, 32).SerializeToString())
    np.testing.assert_allclose(graph(torch.from_numpy(pixels))[0].numpy(), tiny_probabilities(pixels), atol=1e-6)


def test_its_weights_move_with_it() -> None:
    graph = GraphNetwork(tiny_graph(4, 32).SerializeToString()).to(torch.float64)
    assert {buffer.dtype for buffer in graph.buffers()} == {torch.float64}


def changed(operator: str, **attributes: object) -> bytes:
    """The tiny graph with its pooling node made into something else."""
    model = tiny_graph(4, 32)
    pool = model.graph.node[1]
    pool.op_type = operator
    pool.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    changed_bytes: bytes = model.SerializeToString()
    return changed_bytes


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"no model", "no ONNX model"),
        (changed("LpPool"), "operator LpPool is not known"),
        (changed("AveragePool", pads=[0, 0, 1, 1]), "differs between the sides"),
        (changed("Cast", to=TensorProto.DOUBLE), "a cast to DOUBLE"),
        (helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString(), "it has no cams, logits, pix"),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(model: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GraphNetwork(model)


def test_a_padded_pool_counts_its_padding_only_where_the_graph_says_so() -> None:
    for counted, expected in ((0, 4 / 4), (1, 4 / 9)):
        node = helper.make_node("AveragePool", ["grey"], ["cams"], kernel_shape=[3, 3], strides=[2, 2],
                                pads=[1, 1, 1, 1], count_include_pad=counted)  # fmt: skip
        nodes = [
            helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
            node,
            helper.make_node("Identity", ["cams"], ["logits"]),
            helper.make_node("Identity", ["cams"], ["probabilities"]),
        ]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("probabilities", "logits", "cams")
        ]
        inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 1, 4, 4])]
        model: onnx.ModelProto = helper.make_model(helper.make_graph(nodes, "pool", inputs, outputs))
        corner = GraphNetwork(model.SerializeToString())(torch.ones(1, 1, 4, 4, dtype=torch.uint8))[2][0, 0, 0, 0]
        assert float(corner) == pytest.approx(expected)
