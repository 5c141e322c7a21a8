"""Exporting a network to ONNX, in the precision of its weights."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import TensorProto

from cxrbatch.engine.contract import INPUT, OUTPUTS
from cxrbatch.errors import EngineError
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.system import durable

# Reduce operators take their axes as an input from 18 on; TensorRT 10.13 and ONNX Runtime 1.18 read up to 20.
OPSET = 18

_RESHAPING = frozenset({"Unsqueeze", "Reshape"})


def export_onnx(network: ChestNetwork, path: Path, *, size_px: int) -> None:
    """Write the network's graph to `path` with an open batch size and all weights inside the file.

    Args:
        network: in evaluation mode, on the CPU; FP32, or half precision as `halve` makes it.
        path: the .onnx file, written whole or not at all.
        size_px: side S of the input [N,1,S,S], fixed in the graph.
    """
    # Exporting with a batch of 1 would let the exporter take 1 for a constant of the graph.
    example = torch.zeros((2, 1, size_px, size_px), dtype=torch.uint8)
    with durable.replacing(path) as temporary, _quiet_exporter():
        torch.onnx.export(
            network,
            (example,),
            temporary,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("N", min=1)}},
            external_data=False,
            verbose=False,
        )


def require_half_precision(path: Path) -> None:
    """Check that every convolution of an exported graph has half-precision weights.

    Raises:
        EngineError: one has not; engines built of the graph would compute it in FP32, and nobody would see it.
    """
    graph = onnx.load(path).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    # The head's weight is reshaped on its way to its convolution; a type never changes but by a Cast.
    types |= {node.output[0]: types.get(node.input[0], 0) for node in graph.node if node.op_type in _RESHAPING}
    weights = Counter(types.get(node.input[1], 0) for node in graph.node if node.op_type == "Conv")
    if set(weights) != {TensorProto.FLOAT16}:
        found = ", ".join(f"{count} {TensorProto.DataType.Name(kind)}" for kind, count in weights.items())
        raise EngineError(f"{path}: the convolutions' weights are not all FLOAT16: {found or 'there are none'}")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes on its own dependencies out of our output; errors come as exceptions."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    try:
        exporter.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|onnxscript|copyreg)\b.*")
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|onnxscript|copyreg)\b.*")
            yield
    finally:
        exporter.setLevel(level)
