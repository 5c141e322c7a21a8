"""Exporting a network to ONNX in the precision of its weights, and the half-precision copy of a network."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cxrbatch.engine.contract import INPUT, output_names
from cxrbatch.errors import EngineError
from cxrbatch.model.network.network import ChestNetwork, ScoringNetwork
from cxrbatch.system import durable

# Reduce operators take their axes as an input from 18 on; TensorRT 10.13 and ONNX Runtime 1.18 read up to 20.
OPSET = 18

Network = TypeVar("Network", bound=ScoringNetwork)

_RESHAPING = frozenset({"Unsqueeze", "Reshape"})


def export_onnx(network: ScoringNetwork, path: Path, *, size_px: int) -> None:
    """Write the network's graph to `path` with an open batch size and all weights inside the file.

    Normalisation layers are folded before: the exporter, which would fold them itself, then takes half the time.

    Args:
        network: in evaluation mode, on the CPU; FP32, or half precision as `halve` makes it.
        path: the .onnx file, written whole or not at all.
        size_px: side S of the input [N,1,S,S], fixed in the graph.
    """
    folded = _fold_all(network)
    # Exporting with a batch of 1 would let the exporter take 1 for a constant of the graph.
    example = torch.zeros((2, 1, size_px, size_px), dtype=torch.uint8)
    with durable.replacing(path) as temporary, _quiet_exporter():
        torch.onnx.export(
            folded,
            (example,),
            temporary,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(output_names(network.extra_outputs)),
            dynamic_shapes={INPUT: {0: torch.export.Dim("N", min=1)}},
            external_data=False,
            verbose=False,
        )


def require_half_weights(path: Path) -> None:
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


def halve(network: Network) -> Network:
    """Return a copy that computes its features, class activation maps and scores of attention in FP16.

    Normalisation layers are folded into the convolutions before them in FP32: a running variance below 6e-8
    would be 0 in FP16, and a folded weight would be rounded twice. Grey scaling before the features, pooling,
    bias and calibration after them stay in FP32: they cost nothing, and every verdict passes through them.
    """
    half = _fold_all(network)
    for part in _members(half):
        part.features.half()
        part.head.weight.data = part.head.weight.data.half()
        if part.attention is not None:
            part.attention.half()  # its convolutions; its softmax is in FP32 always
    return half


def _fold_all(network: Network) -> Network:
    """Return a copy without normalisation layers, for inference only."""
    folded = copy.deepcopy(network).eval()
    for part in _members(folded):
        part.features = nn.Sequential(fold_normalisation(part.features))
    return folded


def _members(network: nn.Module) -> list[ChestNetwork]:
    return [module for module in network.modules() if isinstance(module, ChestNetwork)]


def fold_normalisation(features: nn.Module) -> fx.GraphModule:
    """Return a copy without normalisation layers, for inference only.

    One behind a convolution that nothing else reads becomes part of it; any other (DenseNet's come first)
    becomes the scale and shift per channel that it is in evaluation mode.
    """
    graph = fx.symbolic_trace(copy.deepcopy(features).eval())
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        normalisation = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(normalisation, nn.BatchNorm2d):
            continue
        before = node.args[0]
        convolution = modules.get(str(before.target)) if before.op == "call_module" else None
        if isinstance(convolution, nn.Conv2d) and len(before.users) == 1:
            graph.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, normalisation))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        else:
            graph.set_submodule(str(node.target), _ScaleAndShift(normalisation))
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


class _ScaleAndShift(nn.Module):
    """What a normalisation layer is once its statistics are fixed: [N,C,H,W] -> x * scale + shift, per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, normalisation: nn.BatchNorm2d) -> None:
        super().__init__()
        mean, variance = normalisation.running_mean, normalisation.running_var
        if mean is None or variance is None:
            raise ValueError("a normalisation layer without running statistics is no function of one image")
        gain = torch.rsqrt(variance + normalisation.eps)
        scale = gain if normalisation.weight is None else gain * normalisation.weight
        offset = torch.zeros_like(mean) if normalisation.bias is None else normalisation.bias
        self.register_buffer("scale", scale.detach()[:, None, None])
        self.register_buffer("shift", (offset - mean * scale).detach()[:, None, None])

    def forward(self, features: Tensor) -> Tensor:
        return features * self.scale + self.shift
