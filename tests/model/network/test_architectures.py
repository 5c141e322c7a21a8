"""Every architecture keeps the shape it promises, says its stages, refuses what it cannot take, and exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.efficientnet import _efficientnet_conf as efficientnet_settings

from cxrbatch.cli.training_options import ARCHITECTURES
from cxrbatch.engine.contract import OUTPUTS
from cxrbatch.engine.torch_graph import GraphNetwork
from cxrbatch.errors import UsageError
from cxrbatch.model.network.architectures import architectures, build_features, require_size, sum_to_grey
from cxrbatch.model.network.export import export_onnx
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.records import InputSpec
from tests.factories.model import draw_noise, settle

CHANNELS = {
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "efficientnet_b4": 1792,
    "inception_v3": 2048,
    "resnet18": 512,
    "resnet50": 2048,
    "vgg16_bn": 512,
}


def test_these_architectures_are_offered() -> None:
    assert architectures() == list(CHANNELS) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("architecture", architectures())
def test_each_ends_with_a_map_at_a_thirty_second_of_the_resolution(architecture: str) -> None:
    features = build_features(architecture)
    with torch.no_grad():
        shape = features.extractor.eval()(torch.zeros(1, 1, 128, 128)).shape
    # Inception's convolutions without padding eat the rim.
    side = 2 if architecture == "inception_v3" else 4
    assert shape == (1, features.channels, side, side) == (1, CHANNELS[architecture], side, side)


@pytest.mark.parametrize("architecture", architectures())
def test_stages_are_all_children_in_their_order(architecture: str) -> None:
    features = build_features(architecture)
    named = [name for stage in features.stages for name in stage]
    assert named == [name for name, _ in features.extractor.named_children()]
    assert len(features.stages) == 5
    assert all(
        any(True for name in stage for _ in features.extractor.get_submodule(name).parameters())
        for stage in features.stages
    )


def test_names_in_a_resnet_checkpoint_stay_what_they_are() -> None:
    names = list(ChestNetwork("resnet18", 2, spec=InputSpec(64)).state_dict())
    assert names[:4] == ["temperature", "offset", "features.conv1.weight", "features.bn1.weight"]
    assert names[-2:] == ["head.weight", "head.bias"]
    assert "features.layer4.1.bn2.running_var" in names


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [16, 32])
def test_output_stride_sets_the_size_of_a_resnets_map(architecture: str, stride: int) -> None:
    features = build_features(architecture, stride)
    with torch.no_grad():
        shape = features.extractor.eval()(torch.zeros(1, 1, 96, 96)).shape
    assert shape == (1, features.channels, 96 // stride, 96 // stride)


def test_a_dilated_stage_computes_the_strided_ones_values_at_its_places() -> None:
    torch.manual_seed(0)
    coarse, fine = (build_features("resnet50", stride).extractor.eval() for stride in (32, 16))
    fine.load_state_dict(coarse.state_dict())
    with torch.no_grad():
        images = torch.rand(1, 1, 128, 128)
        torch.testing.assert_close(fine(images)[:, :, ::2, ::2], coarse(images), rtol=1e-4, atol=1e-4)


def test_a_grey_stem_answers_like_the_colour_stem_on_grey() -> None:
    colour = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=True)
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(sum_to_grey(colour)(grey), colour(grey.expand(-1, 3, -1, -1)))


def test_an_unknown_architecture_or_stride_is_refused() -> None:
    with pytest.raises(UsageError, match=r"architecture vgg99: unknown. Choose one of densenet121, .*, vgg16_bn\."):
        build_features("vgg99")
    with pytest.raises(UsageError, match="output stride 8: choose 32, or 16"):
        build_features("resnet50", 8)
    with pytest.raises(
        UsageError, match=r"densenet121: has an output stride of 32 only; 16 comes with resnet18, resne"
    ):
        build_features("densenet121", 16)


@pytest.mark.parametrize(
    ("architecture", "smallest"), [(name, 32) for name in CHANNELS if name != "inception_v3"] + [("inception_v3", 75)]
)
def test_a_square_that_leaves_no_cell_is_refused(architecture: str, smallest: int) -> None:
    with pytest.raises(
        UsageError, match=f"{architecture}: images of {smallest - 1} px are too small, .* {smallest} px"
    ):
        ChestNetwork(architecture, 2, spec=InputSpec(smallest - 1))
    require_size(architecture, smallest)
    with torch.no_grad():
        shape = build_features(architecture).extractor.eval()(torch.zeros(1, 1, smallest, smallest)).shape
    assert shape[2:] == (1, 1)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out of each architecture the blocks that repeat another one: exporting takes its time for every layer."""
    models, whole_inception = torchvision.models, torchvision.models.inception_v3

    def inception(**options: Any) -> Any:
        network = whole_inception(**options)
        for name in ("Mixed_5d", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c"):
            setattr(network, name, nn.Identity())
        return network

    def efficientnet(**_: Any) -> Any:
        settings, _ = efficientnet_settings("efficientnet_b0", width_mult=1.0, depth_mult=0.25)
        return models.EfficientNet(settings, dropout=0.2)

    monkeypatch.setattr(models, "densenet121", lambda **_: models.DenseNet(32, (2, 2, 2, 2), 64))
    monkeypatch.setattr(models, "inception_v3", inception)
    monkeypatch.setattr(models, "efficientnet_b0", efficientnet)


# test_export.py exports the ResNets, whole; efficientnet_b4 is b0 with more of the same layers.
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("architecture", ["densenet121", "efficientnet_b0", "inception_v3", "vgg16_bn"])
def test_the_exported_graph_computes_what_pytorch_does_in_either_backend(architecture: str, tmp_path: Path) -> None:
    size_px = 107 if architecture == "inception_v3" else 64
    pixels = draw_noise(3, size_px)
    network = settle(lambda: ChestNetwork(architecture, 2, spec=InputSpec(size_px)), torch.from_numpy(pixels))
    export_onnx(network, tmp_path / "graph.onnx", size_px=size_px)
    session = ort.InferenceSession(str(tmp_path / "graph.onnx"), providers=["CPUExecutionProvider"])
    graph = GraphNetwork((tmp_path / "graph.onnx").read_bytes())
    with torch.no_grad():
        expected, by_torch = network(torch.from_numpy(pixels)), graph(torch.from_numpy(pixels))
    assert expected.cams.shape == (3, 2, 2, 2)
    assert expected.logits.std() > 0.01
    for name, wanted, other in zip(OUTPUTS, expected, by_torch, strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        (found,) = session.run([name], {"pixels": pixels})
        np.testing.assert_allclose(found / scale, wanted.numpy() / scale, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(other.numpy() / scale, wanted.numpy() / scale, atol=1e-4, err_msg=name)
