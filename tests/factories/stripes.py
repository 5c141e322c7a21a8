"""An engine that finds upright stripes among lying ones, wherever they are, and images of such: its maps do point."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cxrbatch.engine.bundle import save_bundle
from cxrbatch.engine.manifest import EngineFile, Manifest
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.records import Gray8, InputSpec, Label

CELLS, CELL_PX = 8, 16
SIZE_PX = CELLS * CELL_PX


def draw_stripes(place: tuple[int, int], seed: int) -> Gray8:
    """Draw lying stripes, uint8 [128,128], but for one cell of 8 x 8, (row, column), whose stripes are upright."""
    generator = np.random.default_rng(seed)
    wave = np.where(np.arange(SIZE_PX) // 2 % 2, 200, 50)
    image = np.repeat(wave[:, np.newaxis], SIZE_PX, axis=1)
    rows, columns = (slice(CELL_PX * cell, CELL_PX * cell + CELL_PX) for cell in place)
    image[rows, columns] = wave[columns]
    return np.asarray(image + generator.integers(-20, 21, image.shape), np.uint8)


def write_stripes_bundle(folder: Path, name: str = "stripes") -> Path:
    """Write the bundle `folder/name` with the label Upright, whose maps nobody has checked; return its folder."""
    bundle = folder / name
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(_graph().SerializeToString())
    manifest = Manifest(
        name=name,
        created="2026-01-02T03:04:05Z",
        architecture="stripes",
        task="multilabel",
        labels=(Label("Upright"),),
        input=InputSpec(size_px=SIZE_PX),
        files={"onnx": EngineFile("model.onnx", sha256_of_file(bundle / "model.onnx"), "fp32")},
        output_stride=CELL_PX,
    )
    save_bundle(bundle, manifest)
    return bundle


def write_stripes(folder: Path, count: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Write a labelled folder in which a patient has two images; return each image's path and its box in pixels.

    The images of all patients have the same two file names, each in a folder of its patient's.
    """
    generator, rows, boxes = np.random.default_rng(1), ["path,patient,split,Upright"], []
    for number in range(count):
        row, column = (int(cell) for cell in generator.integers(0, CELLS, 2))
        path = f"p{number // 2}/{'ab'[number % 2]}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / path), draw_stripes((row, column), number))
        boxes.append((path, (CELL_PX * column, CELL_PX * row, CELL_PX, CELL_PX)))
        rows.append(f"{path},p{number // 2},test,1")
    assert cv2.imwrite(str(folder / "none.png"), draw_stripes((0, 0), 99).T)
    (folder / "labels.csv").write_text("\n".join([*rows, "none.png,none,test,0"]) + "\n")
    return boxes


def _graph() -> onnx.ModelProto:
    """Make the graph: a convolution that answers to upright stripes, rectified and averaged over each cell."""
    upright = np.tile(np.array([1, 1, -1, -1], np.float32), (4, 1))
    constants = {
        "white": np.float32(255.0),
        "stripes": upright[np.newaxis, np.newaxis],
        "gain": np.float32(8.0),
        "places": np.array([2, 3], np.int64),
        "bias": np.array([-1.0], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["grey", "white"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "stripes"], ["found"], auto_pad="SAME_UPPER"),
        helper.make_node("Relu", ["found"], ["rectified"]),
        helper.make_node("AveragePool", ["rectified"], ["cells"], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2),
        helper.make_node("Mul", ["cells", "gain"], ["cams"]),
        helper.make_node("ReduceMean", ["cams", "places"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
    ]
    outputs: dict[str, list[str | int]] = {"probabilities": ["N", 1], "logits": ["N", 1], "cams": ["N", 1, 8, 8]}
    graph = helper.make_graph(
        nodes,
        "stripes",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 1, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
