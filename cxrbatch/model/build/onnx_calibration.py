"""The calibration inside an exported graph: what stands between `logits` and `probabilities`, read and written anew.

An exporter leaves out what changes nothing, and a quantiser renames; so it is found by what it computes. An ensemble
puts its members' logits through the same calibration before it compares them: what they get on top is found from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from cxrbatch.model.train.calibration import Calibration

Values = NDArray[np.float64]

_LOGITS, _PROBABILITIES = "logits", "probabilities"
_ACTIVATIONS = ("Sigmoid", "Softmax")
_TEMPERATURE, _OFFSET = "calibration.temperature", "calibration.offset"
_DISAGREEMENT, _MEMBERS = "disagreement", "calibration.members."
_SCALED, _CALIBRATED = "calibration.scaled", "calibration.calibrated"


@dataclass(frozen=True, slots=True)
class _Chain:
    """The nodes from `logits` on, in their order, and the last one, that makes probabilities of what they give."""

    nodes: tuple[onnx.NodeProto, ...]
    activation: onnx.NodeProto


def read_calibration(model: bytes, n_labels: int) -> Calibration:
    """Return the calibration that a graph holds.

    Raises:
        ValueError: between logits and probabilities it computes something else.
    """
    graph = onnx.load_model_from_string(model).graph
    constants = _constants(graph)
    scale, shift = np.ones(n_labels), np.zeros(n_labels)
    for node in _find_chain(graph, constants).nodes:
        scale, shift = _follow(node, constants, scale, shift)
    if not (scale > 0).all():
        raise ValueError("its calibration turns the order of the scores around")
    return Calibration(tuple((1 / scale).tolist()), tuple(shift.tolist()))


def write_calibration(model: bytes, calibration: Calibration) -> bytes:
    """Return the graph with another calibration, and nothing else changed.

    Raises:
        ValueError: between logits and probabilities it computes something else.
    """
    loaded = onnx.load_model_from_string(model)
    graph = loaded.graph
    old = read_calibration(model, len(calibration.temperature))
    chain = _find_chain(graph, _constants(graph))
    for node in chain.nodes:
        graph.node.remove(node)
    _recalibrate_members(graph, chain.activation, old, calibration)
    place = list(graph.node).index(chain.activation)
    _forget_unused(graph)
    graph.node[place].input[0] = _CALIBRATED
    graph.node.insert(place, helper.make_node("Add", [_SCALED, _OFFSET], [_CALIBRATED]))
    graph.node.insert(place, helper.make_node("Div", [_LOGITS, _TEMPERATURE], [_SCALED]))
    for name, values in ((_TEMPERATURE, calibration.temperature), (_OFFSET, calibration.offset)):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
    onnx.checker.check_model(loaded)
    written: bytes = loaded.SerializeToString()
    return written


def _recalibrate_members(graph: onnx.GraphProto, of_all: onnx.NodeProto, old: Calibration, new: Calibration) -> None:
    """Put what leads from the old calibration to the new one before the probabilities of each member, if there are any.

    z = logits / t + o becomes z t / t' + (o' - o t / t').
    """
    members = _activations_behind(graph, _DISAGREEMENT, of_all)
    if not members:
        return
    scale = np.array(old.temperature) / np.array(new.temperature)
    shift = np.array(new.offset) - np.array(old.offset) * scale
    taken = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    stem = next(f"{_MEMBERS}{number}" for number in count() if f"{_MEMBERS}{number}.scale" not in taken)
    for name, values in ((f"{stem}.scale", scale), (f"{stem}.shift", shift)):
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for number, member in enumerate(members):
        scaled, shifted = f"{stem}.{number}.scaled", f"{stem}.{number}.shifted"
        place = list(graph.node).index(member)
        before = member.input[0]
        graph.node[place].input[0] = shifted
        graph.node.insert(place, helper.make_node("Add", [scaled, f"{stem}.shift"], [shifted]))
        graph.node.insert(place, helper.make_node("Mul", [before, f"{stem}.scale"], [scaled]))


def _activations_behind(graph: onnx.GraphProto, output: str, besides: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nearest activations that an output is made of; none where the graph has no such output."""
    made_by = {name: node for node in graph.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}
    seen, waiting = set[str](), [output] if any(each.name == output for each in graph.output) else []
    while waiting:
        name = waiting.pop()
        node = made_by.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in _ACTIVATIONS and node != besides:
            found[name] = node
        else:
            waiting += node.input
    return list(found.values())


def _constants(graph: onnx.GraphProto) -> dict[str, Values]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


def _find_chain(graph: onnx.GraphProto, constants: dict[str, Values]) -> _Chain:
    made_by = {name: node for node in graph.node for name in node.output}
    activation = made_by.get(_PROBABILITIES)
    if activation is None or activation.op_type not in _ACTIVATIONS:
        raise ValueError(f"its probabilities come from no {' or '.join(_ACTIVATIONS)}")
    nodes: list[onnx.NodeProto] = []
    name = activation.input[0]
    while name != _LOGITS:
        node = made_by.get(name)
        variable = [] if node is None else [given for given in node.input if given not in constants]
        if node is None or len(variable) != 1 or name in {_PROBABILITIES, "cams"}:
            raise ValueError("its probabilities do not come from its logits alone")
        nodes.insert(0, node)
        name = variable[0]
    return _Chain(tuple(nodes), activation)


def _follow(node: onnx.NodeProto, constants: dict[str, Values], scale: Values, shift: Values) -> tuple[Values, Values]:
    """Return scale and shift of the logits behind one more node."""
    if node.op_type == "Identity":
        return scale, shift
    fixed = [constants[name].astype(np.float64) for name in node.input if name in constants]
    turned = node.op_type in {"Div", "Sub"} and node.input[0] in constants
    if len(fixed) != 1 or turned or node.op_type not in {"Div", "Mul", "Add", "Sub"}:
        raise ValueError(f"between logits and probabilities is a {node.op_type} that is no calibration")
    value = np.broadcast_to(fixed[0], scale.shape) if fixed[0].size == 1 else fixed[0].reshape(scale.shape)
    if node.op_type in {"Div", "Mul"}:
        factor = 1 / value if node.op_type == "Div" else value
        return scale * factor, shift * factor
    return scale, shift + (value if node.op_type == "Add" else -value)


def _forget_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    made = {name for node in graph.node for name in node.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    for info in [info for info in graph.value_info if info.name not in used | made]:
        graph.value_info.remove(info)
