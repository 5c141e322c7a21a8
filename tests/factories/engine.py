"""A whole engine bundle in milliseconds: a hand-made graph of which every number can be told beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.manifest import AccuracyFigures, EngineFile, Manifest, ParityFigures
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.records import Float32, Gray8, InputSpec, Label
from tests.factories.validated import VALIDATED

GAIN = 8.0


def write_tiny_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    labels: tuple[str | Label, ...] = ("TopLeft", "TopRight", "BottomLeft", "BottomRight"),
    size_px: int = 32,
    notice: str = "A test engine: it measures brightness.",
    poison_value: int | None = None,
    ensemble: bool = False,
    tells_distance: bool = False,
    gives_embedding: bool = False,
) -> Path:
    """Write the bundle `folder/name` whose label i looks at quadrant i % 4 of the square; return its folder.

    See `tiny_probabilities` for what it answers. Labels are names (operating point 0.5, validated maps) or `Label`s.
    With `poison_value`, an image whose top left quadrant has exactly that mean grey value is answered with NaN.
    With `ensemble` it claims members who disagree by a quarter of each probability. With `tells_distance`, it also
    answers twice the mean brightness, 0..2: what is brighter than grey is unlike others. With `gives_embedding` it
    answers the brightness of the four quadrants, 0..1.
    """
    bundle = folder / name
    bundle.mkdir(parents=True)
    extra = {"ensemble": ensemble, "tells_distance": tells_distance, "gives_embedding": gives_embedding}
    graph = tiny_graph(len(labels), size_px, poison_value, **extra)
    (bundle / "model.onnx").write_bytes(graph.SerializeToString())
    manifest = Manifest(
        name=name,
        created="2026-01-02T03:04:05Z",
        architecture="quadrants",
        task="multilabel",
        labels=tuple(label if isinstance(label, Label) else Label(label, maps=VALIDATED) for label in labels),
        input=InputSpec(size_px=size_px),
        files={"onnx": EngineFile("model.onnx", sha256_of_file(bundle / "model.onnx"), "fp32")},
        output_stride=size_px // 2,
        notice=notice,
        extra_outputs=(
            *(("disagreement",) if ensemble else ()),
            *(("distance",) if tells_distance else ()),
            *(("embedding",) if gives_embedding else ()),
        ),
    )
    save_bundle(bundle, manifest)
    return bundle


PASSED_INT8 = AccuracyFigures(
    images=240, source="phantoms", auroc_reference=0.947, auroc=0.946, worst_drop=0.004, limit=0.005,
    worst_label="TopLeft", worst_limit=0.02, decision_flips=7, verdicts=960, flip_limit=0.02,
)  # fmt: skip
"""What the gate says of a made-up INT8 file that lost nearly nothing."""


def add_tiny_int8(bundle: Path, accuracy: AccuracyFigures = PASSED_INT8) -> None:
    """Add a file to a tiny bundle that claims to be INT8, says the same, and is another one by its SHA-256."""
    manifest = load_bundle(bundle).manifest
    graph = onnx.load(bundle / "model.onnx")
    graph.doc_string = "INT8"
    (bundle / "model.int8.onnx").write_bytes(graph.SerializeToString())
    entry = EngineFile("model.int8.onnx", sha256_of_file(bundle / "model.int8.onnx"), "int8")
    parity = ParityFigures(240, "phantoms", 0.19, 0.006, 1.0)
    files = manifest.files | {"onnx_int8": entry}
    gate = replace(manifest, files=files, parity={"onnx_int8": parity}, accuracy={"onnx_int8": accuracy})
    save_bundle(bundle, gate)


def tiny_probabilities(pixels: Gray8, n_labels: int = 4) -> Float32:
    """Return what the tiny engine must answer for uint8 [N,1,S,S]: float32 [N,n_labels].

    Label i is sigmoid(8 * (mean brightness of quadrant i % 4, in 0..1, - 0.5)): black 0.018, grey 0.5, white 0.982.
    """
    half = pixels.shape[-1] // 2
    quadrants = pixels[:, 0].reshape(len(pixels), 2, half, 2, half).mean(axis=(2, 4)).reshape(len(pixels), 4) / 255.0
    logits = GAIN * (quadrants[:, np.arange(n_labels) % 4] - 0.5)
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)


def tiny_graph(
    n_labels: int,
    size_px: int,
    poison_value: int | None = None,
    *,
    ensemble: bool = False,
    tells_distance: bool = False,
    gives_embedding: bool = False,
) -> onnx.ModelProto:
    """Make the graph: cams [N,n_labels,2,2] hold the quadrant's brightness at its place and 0 elsewhere."""
    half = size_px // 2
    # The factor 4 makes mean(cams) the quadrant's own brightness; the bias makes grey a probability of 0.5.
    mask = np.zeros((1, n_labels, 2, 2), np.float32)
    for label in range(n_labels):
        mask[0, label, label % 4 // 2, label % 2] = 4 * GAIN
    constants: dict[str, Any] = {
        "white": np.float32(255.0),
        "mask": mask,
        "bias": np.full(n_labels, -GAIN / 2, np.float32),
        "places": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["grey"], ["pooled"], kernel_shape=[half, half], strides=[half, half]),
        helper.make_node("Div", ["pooled", "white"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "mask"], ["cams"]),
        helper.make_node("ReduceMean", ["cams", "places"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ]
    if poison_value is not None:
        nodes, constants = _poisoned(nodes, constants, poison_value)
    outputs: dict[str, list[str | int | None]] = {
        "probabilities": ["N", n_labels],
        "logits": ["N", n_labels],
        "cams": ["N", n_labels, 2, 2],
    }
    if ensemble:
        constants["quarter"] = np.float32(0.25)
        nodes.append(helper.make_node("Mul", ["probabilities", "quarter"], ["disagreement"]))
        outputs["disagreement"] = ["N", n_labels]
    if tells_distance:
        nodes += [
            helper.make_node("Mul", ["brightness", "two"], ["twice"]),
            helper.make_node("ReduceMean", ["twice", "all"], ["distance"], keepdims=0),
        ]
        constants |= {"two": np.float32(2), "all": np.array([1, 2, 3], np.int64)}
        outputs["distance"] = ["N"]
    if gives_embedding:
        constants["by_image"] = np.array([0, 4], np.int64)
        nodes.append(helper.make_node("Reshape", ["brightness", "by_image"], ["embedding"]))
        outputs["embedding"] = ["N", 4]
    graph = helper.make_graph(
        nodes,
        "quadrants",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 1, size_px, size_px])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _poisoned(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], value: int
) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """Divide 0 by 0 in the logits of images whose first quadrant's mean is `value`."""
    extra = [
        helper.make_node("Slice", ["pooled", "start", "end", "axes"], ["first"]),
        helper.make_node("Sub", ["first", "poison"], ["distance"]),
        helper.make_node("Div", ["distance", "distance"], ["one_or_nan"]),
        helper.make_node("Reshape", ["one_or_nan", "column"], ["factor"]),
        helper.make_node("Mul", ["sum", "factor"], ["logits"]),
    ]
    kept = [
        node if node.output[0] != "logits" else helper.make_node("Add", ["mean", "bias"], ["sum"]) for node in nodes
    ]
    more = {
        "poison": np.float32(value),
        "start": np.array([0, 0], np.int64),
        "end": np.array([1, 1], np.int64),
        "axes": np.array([2, 3], np.int64),
        "column": np.array([-1, 1], np.int64),
    }
    return [*kept[:6], *extra, *kept[6:]], constants | more
