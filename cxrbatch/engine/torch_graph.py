"""An ONNX model as a PyTorch module that computes the same graph on any device.

So a GPU without TensorRT runs the very file that was verified and compared with its checkpoint, at that file's
precision, and needs nothing of the workshop. The operators are those that `cxrbatch.model.network.export` writes for
its architectures; their meaning is that of the ONNX operator reference, opset 18.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.engine.contract import EXTRA_OUTPUTS, INPUT, OUTPUTS

Attributes = dict[str, Any]
Operator = Callable[..., Tensor]

# A Slice that ends before this looks back to the first element, however long the axis is.
_BEYOND = 1 << 30

_TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.UINT8: torch.uint8,
}


@dataclass(frozen=True, slots=True)
class _Step:
    """One node: what it computes, from which tensors, and which of them nobody needs afterwards."""

    compute: Operator
    inputs: tuple[str, ...]
    output: str
    outlived: tuple[str, ...]


class GraphNetwork(nn.Module):
    """A graph of the contract (docs/design.md): uint8 [N,1,S,S] in; probabilities, logits, cams and its extras out."""

    def __init__(self, model: bytes) -> None:
        """Read the graph; its weights become buffers, so that `to()` moves them.

        Raises:
            ValueError: no ONNX model, or an operator or a way of using it that is not known here.
        """
        super().__init__()
        graph = _parse(model)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._buffer_of: dict[str, str] = {}
        for name, value in constants.items():
            # Lists of axes and shapes are read once, on the host; only numbers that are computed with move.
            if value.dtype.kind == "f":
                self._buffer_of[name] = f"constant_{len(self._buffer_of)}"
                self.register_buffer(self._buffer_of[name], torch.from_numpy(np.array(value)))
        given = {node.name for node in graph.output}
        self.outputs = tuple(name for name in (*OUTPUTS, *EXTRA_OUTPUTS) if name in given)
        self._steps = _plan_steps(list(graph.node), constants, self.outputs)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Score uint8 [N,1,S,S]; return its `outputs`, float32."""
        values = {name: self.get_buffer(buffer) for name, buffer in self._buffer_of.items()} | {INPUT: pixels}
        for step in self._steps:
            values[step.output] = step.compute(*(values[name] for name in step.inputs))
            for name in step.outlived:
                del values[name]
        return tuple(values[name] for name in self.outputs)


def _parse(model: bytes) -> onnx.GraphProto:
    try:
        graph = onnx.load_model_from_string(model).graph
    except Exception as error:  # protobuf's own, which is not importable under one name in all versions
        raise ValueError(f"no ONNX model: {error}") from error
    missing = {INPUT} - {node.name for node in graph.input} | set(OUTPUTS) - {node.name for node in graph.output}
    if missing:
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    return graph


def _plan_steps(nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], outputs: Sequence[str]) -> list[_Step]:
    last_use = {name: place for place, node in enumerate(nodes) for name in node.input}
    steps = []
    for place, node in enumerate(nodes):
        compute, inputs = _read_node(node, constants)
        outlived = tuple(
            name for name in dict.fromkeys(inputs)
            if last_use[name] == place and name not in constants and name not in outputs
        )  # fmt: skip
        steps.append(_Step(compute, inputs, node.output[0], outlived))
    return steps


def _read_node(node: onnx.NodeProto, constants: dict[str, Any]) -> tuple[Operator, tuple[str, ...]]:
    """Return what a node computes and the tensors it computes with; integers among them become part of the former."""
    if node.op_type not in _OPERATORS:
        raise ValueError(f"operator {node.op_type} is not known to the torch backend")
    attributes: Attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    named = [name for name in node.input if name]
    integers = [name for name in named if name in constants and constants[name].dtype.kind in "iu"]
    if integers:
        attributes["integers"] = [[int(number) for number in np.atleast_1d(constants[name])] for name in integers]
        attributes["axes"] = attributes["integers"][0]
    return _OPERATORS[node.op_type](attributes), tuple(name for name in named if name not in integers)


def _symmetric_padding(attributes: Attributes, rank: int = 2) -> list[int]:
    """Return one padding per axis; ONNX gives all beginnings, then all ends."""
    pads = list(attributes.get("pads", [0] * 2 * rank))
    if pads[:rank] != pads[rank:] or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(f"padding {pads} differs between the sides")
    return pads[:rank]


def _conv(attributes: Attributes) -> Operator:
    stride, dilation = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    padding, groups = _symmetric_padding(attributes), attributes.get("group", 1)

    def compute(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return compute


def _max_pool(attributes: Attributes) -> Operator:
    kernel, stride = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    padding, dilation = _symmetric_padding(attributes), attributes.get("dilations", [1, 1])
    ceil = bool(attributes.get("ceil_mode", 0))
    return lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil)


def _average_pool(attributes: Attributes) -> Operator:
    kernel, stride = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    padding, ceil = _symmetric_padding(attributes), bool(attributes.get("ceil_mode", 0))
    count_padding = bool(attributes.get("count_include_pad", 0))
    return lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, count_padding)


def _reduce(reduction: Callable[..., Tensor]) -> Callable[[Attributes], Operator]:
    def read(attributes: Attributes) -> Operator:
        axes, keep = attributes["axes"], bool(attributes.get("keepdims", 1))
        return lambda x: reduction(x, dim=axes, keepdim=keep)

    return read


def _gemm(attributes: Attributes) -> Operator:
    if any(attributes.get(factor, 1.0) != 1.0 for factor in ("alpha", "beta")):
        raise ValueError("a Gemm with factors is not known here")
    turn_a, turn_b = bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))

    def compute(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.T if turn_a else a) @ (b.T if turn_b else b)
        return product if c is None else product + c

    return compute


def _batch_normalisation(attributes: Attributes) -> Operator:
    epsilon = attributes.get("epsilon", 1e-5)
    return lambda x, scale, bias, mean, variance: F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _unsqueeze(attributes: Attributes) -> Operator:
    axes = sorted(attributes["axes"])

    def compute(x: Tensor) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return compute


def _turn(attributes: Attributes) -> Operator:
    """Read a Slice that turns whole axes around, as the mirror image's does; others are not known here."""
    starts, ends, axes, steps = (*attributes.get("integers", []), *([[]] * 4))[:4]
    if not axes or {*starts, *steps} != {-1} or max(ends) > -_BEYOND:
        raise ValueError(f"a Slice from {starts} to {ends} by {steps} is not known here")
    return lambda x: x.flip(axes)


def _pad(attributes: Attributes) -> Operator:
    """Read a Pad with zeros; ONNX gives all beginnings, then all ends, torch the last axis first."""
    pads, *axes = attributes.get("integers", [[]])
    rank = len(pads) // 2
    if not pads or axes or attributes.get("mode", b"constant") != b"constant" or min(pads) < 0:
        raise ValueError(f"a Pad by {pads} on axes {axes} is not known here")
    both = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[axis + rank])]

    def compute(x: Tensor, value: Tensor | None = None) -> Tensor:
        return F.pad(x, both, value=0.0 if value is None else float(value))

    return compute


def _cast(attributes: Attributes) -> Operator:
    if attributes["to"] not in _TYPES:
        raise ValueError(f"a cast to {onnx.TensorProto.DataType.Name(attributes['to'])} is not known here")
    wanted = _TYPES[attributes["to"]]
    return lambda x: x.to(wanted)


_OPERATORS: dict[str, Callable[[Attributes], Operator]] = {
    "Add": lambda _: torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalisation,
    "Cast": _cast,
    "Concat": lambda attributes: lambda *parts: torch.cat(parts, dim=attributes["axis"]),
    "Conv": _conv,
    "Div": lambda _: torch.div,
    "Exp": lambda _: torch.exp,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _: lambda x: x.mean(dim=(2, 3), keepdim=True),
    "Identity": lambda _: lambda x: x,
    "MaxPool": _max_pool,
    "Mul": lambda _: torch.mul,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "Pad": _pad,
    "ReduceSum": _reduce(torch.sum),
    "Relu": lambda _: torch.relu,
    "Sigmoid": lambda _: torch.sigmoid,
    "Slice": _turn,
    "Softmax": lambda attributes: lambda x: torch.softmax(x, dim=attributes.get("axis", -1)),
    "Sqrt": lambda _: torch.sqrt,
    "Sub": lambda _: torch.sub,
    "Tanh": lambda _: torch.tanh,
    "Unsqueeze": _unsqueeze,
}
