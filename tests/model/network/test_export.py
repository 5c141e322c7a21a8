"""An exported graph computes what its network does, also in half precision, and holds all that it needs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from cxrbatch.config import Settings
from cxrbatch.engine.contract import OUTPUTS
from cxrbatch.engine.onnx_file import refers_to_other_files
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.network.architectures import architectures, build_features, smallest_size
from cxrbatch.model.network.export import OPSET, export_onnx, fold_normalisation, halve
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.records import Float32, Gray8, InputSpec
from tests.factories.model import tiny_architecture


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


def test_exporting_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with tiny_architecture():
        network = ChestNetwork("tiny", 2, spec=InputSpec(64)).eval()
        export_onnx(network, tmp_path / "quiet.onnx", size_px=64)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["quiet.onnx"]


class Branching(nn.Module):
    """What resnets do not do: normalisation before a convolution, and a convolution that two others read."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(1)
        self.shared = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.BatchNorm2d(3)
        self.plain = nn.BatchNorm2d(3, affine=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        shared = self.shared(self.first(pixels))
        folded: torch.Tensor = self.plain(self.second(shared)) + shared
        return folded


def settled(module: nn.Module) -> nn.Module:
    """Give every normalisation layer statistics and weights unlike its defaults."""
    generator = torch.Generator().manual_seed(1)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 1:
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.3
    return module.eval()


def normalisations(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


def test_folding_leaves_no_normalisation_and_the_same_function(network: ChestNetwork) -> None:
    folded = fold_normalisation(network.features)
    assert normalisations(network.features) > 0
    assert normalisations(folded) == 0
    pixels = torch.rand((2, 1, 64, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network.features(pixels)
        torch.testing.assert_close(folded(pixels), expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("architecture", architectures())
def test_every_architecture_folds(architecture: str) -> None:
    size_px = max(64, smallest_size(architecture))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        features = build_features(architecture).extractor
    for layer in features.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # As after training, and so that nothing vanishes: some start as the identity, or as zero.
            settled(layer)
    folded = fold_normalisation(features)
    assert normalisations(folded) == 0
    pixels = torch.rand((1, 1, size_px, size_px), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = features.eval()(pixels)
        torch.testing.assert_close(folded(pixels), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_a_shared_convolution_keeps_its_weights() -> None:
    module = settled(Branching())
    folded = fold_normalisation(module)
    assert normalisations(folded) == 0
    pixels = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels), module(pixels), atol=1e-5, rtol=1e-5)


def test_a_normalisation_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="no function of one image"):
        fold_normalisation(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)))


def test_tiny_variances_survive() -> None:
    """A variance of 1e-9 is 0 in FP16, and its reciprocal root infinite."""
    normalisation = nn.BatchNorm2d(1)
    normalisation.state_dict()["running_var"].fill_(1e-9)
    folded = fold_normalisation(nn.Sequential(normalisation)).half()
    assert float(folded(torch.full((1, 1, 1, 1), 0.5).half())) == pytest.approx(0.5 / (1e-9 + 1e-5) ** 0.5, rel=1e-3)


def test_half_is_a_copy_with_half_weights_and_the_same_answers(network: ChestNetwork, noise: Gray8) -> None:
    half = halve(network)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.features.parameters()} == {torch.float16}
    assert (half.head.weight.dtype, half.head.bias.dtype, half.temperature.dtype) == (
        torch.float16, torch.float32, torch.float32,
    )  # fmt: skip
    with torch.no_grad():
        expected, found = network(torch.from_numpy(noise)), half(torch.from_numpy(noise))
    assert {tensor.dtype for tensor in found} == {torch.float32}
    difference = np.abs(found.probabilities.numpy() - expected.probabilities.numpy())
    assert 0 < difference.max() < 5e-3
    torch.testing.assert_close(found.cams.mean(dim=(2, 3)) + half.head.bias, found.logits)
