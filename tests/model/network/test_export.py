"""The ONNX file computes what the PyTorch network computes, at any batch size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from cxrbatch.config import Settings
from cxrbatch.engine.contract import OUTPUTS
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.network.export import OPSET, export_onnx
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.records import Float32, Gray8, InputSpec


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, network: ChestNetwork) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export_onnx(network, path, size_px=64)
    return path


def run_onnx(path: Path, pixels: Gray8) -> list[Float32]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(list(OUTPUTS), {"pixels": pixels}))


def assert_same(network: ChestNetwork, path: Path, pixels: Gray8) -> None:
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels))
    for name, found, wanted in zip(OUTPUTS, run_onnx(path, pixels), expected, strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        np.testing.assert_allclose(found / scale, wanted.numpy() / scale, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_onnx_equals_pytorch_on_noise_at_any_batch_size(
    exported: Path, network: ChestNetwork, noise: Gray8, n: int
) -> None:
    assert_same(network, exported, noise[:n])


@pytest.mark.skipif("CXRBATCH_SHARED_DATA" not in os.environ, reason="needs the real images of shared/data")
def test_onnx_equals_pytorch_on_real_images(exported: Path, network: ChestNetwork) -> None:
    images = sorted((Path(os.environ["CXRBATCH_SHARED_DATA"]) / "nih256").rglob("*.png"))[:16]
    pixels = np.stack([prepare(read_radiograph(image, Settings()), InputSpec(64)).pixels for image in images])
    assert pixels.std() > 20
    assert_same(network, exported, pixels)


def test_the_file_is_whole_and_of_the_contract(exported: Path) -> None:
    model = onnx.load(exported, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(domain.domain, domain.version) for domain in model.opset_import] == [("", OPSET)]
    assert not refers_to_other_files(exported.read_bytes())
    (pixels,) = model.graph.input
    assert (pixels.name, pixels.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert [output.name for output in model.graph.output] == list(OUTPUTS)
    sizes = pixels.type.tensor_type.shape.dim
    assert (sizes[0].dim_param, [size.dim_value for size in sizes[1:]]) == ("N", [1, 64, 64])


def test_normalisation_layers_are_folded_away(exported: Path) -> None:
    operators = {node.op_type for node in onnx.load(exported).graph.node}
    assert "BatchNormalization" not in operators
    assert operators >= {"Cast", "Conv", "Sigmoid"}


def test_a_multiclass_resnet50_exports_with_softmax(tmp_path: Path) -> None:
    network = build_seeded(
        lambda: ChestNetwork("resnet50", 4, spec=InputSpec(64), task="multiclass", output_stride=16), seed=1
    ).eval()
    export_onnx(network, tmp_path / "large.onnx", size_px=64)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 1, 64, 64), dtype=np.uint8)
    assert_same(network, tmp_path / "large.onnx", pixels)
    probabilities = run_onnx(tmp_path / "large.onnx", pixels)[0]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)


def test_exporting_prints_nothing(tmp_path: Path, network: ChestNetwork, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(network, tmp_path / "quiet.onnx", size_px=64)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["quiet.onnx"]
