"""Foreign files are recognised for what they are, and their outputs get the right names."""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cxrbatch.errors import UsageError
from cxrbatch.model.network.import_weights import (
    CHEXNET_LABELS,
    XRV_LABELS,
    XRV_RESNET50_POINTS,
    ForeignModel,
    Format,
    read_foreign_model,
)
from cxrbatch.model.network.weights_file import WeightsFile
from tests.factories.model import Original

with warnings.catch_warnings():
    # The package turns all warnings off when it is imported.
    import torchxrayvision


def as_file(tensors: dict[str, Tensor]) -> WeightsFile:
    return WeightsFile(Path("weights.pt"), hashlib.sha256(b"").hexdigest(), tensors)


def read(tensors: dict[str, Tensor], weights_format: Format, labels: tuple[str, ...] = ()) -> ForeignModel:
    return read_foreign_model(as_file(tensors), weights_format, labels)


def grey_resnet50(outputs: int = 18) -> dict[str, Tensor]:
    """Return what TorchXRayVision publishes for its ResNet50: names and shapes, without numbers."""
    with torch.device("meta"):
        resnet = torchvision.models.resnet50(num_classes=outputs)
        resnet.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return {name: torch.zeros(tensor.shape) for name, tensor in resnet.state_dict().items()}


@pytest.fixture(scope="module")
def densenet() -> dict[str, Tensor]:
    """A DenseNet121 of the package, which has no thresholds before it is trained."""
    return dict(torchxrayvision.models.DenseNet().state_dict())


def test_our_table_is_that_of_the_package() -> None:
    published = torchxrayvision.models.model_urls["resnet50-res512-all"]
    assert tuple(published["labels"]) == XRV_LABELS == tuple(torchxrayvision.datasets.default_pathologies)
    assert tuple(None if math.isnan(point) else point for point in published["op_threshs"]) == XRV_RESNET50_POINTS


DENSENETS = sorted(name for name in torchxrayvision.models.model_urls if name.startswith("densenet"))


@pytest.mark.parametrize("name", DENSENETS)
def test_thresholds_tell_which_labels_a_densenet_was_trained_on(name: str, densenet: dict[str, Tensor]) -> None:
    published = torchxrayvision.models.model_urls[name]
    model = read(densenet | {"op_threshs": torch.tensor(published["op_threshs"])}, "torchxrayvision")
    assert [label.name for label in model.labels] == [label for label in published["labels"] if label]
    points = [label.operating_point for label in model.labels]
    assert points == pytest.approx([point for point in published["op_threshs"] if not math.isnan(point)])
    kept = [place for place, label in enumerate(published["labels"]) if label]
    assert torch.equal(model.head_weight, densenet["classifier.weight"][kept])
    assert torch.equal(model.head_bias, densenet["classifier.bias"][kept])
    assert (model.architecture, model.size_px) == ("densenet121", 224)


def test_a_densenet_without_thresholds_is_refused(densenet: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match=r"weights\.pt: has no op_threshs of 18 outputs"):
        read(densenet, "torchxrayvision")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_resnet50_comes_bare_or_from_the_package(prefix: str) -> None:
    tensors = {prefix + name: tensor for name, tensor in grey_resnet50().items()}
    model = read(tensors, "torchxrayvision")
    assert (model.architecture, model.size_px, len(model.labels)) == ("resnet50", 512, 16)
    assert model.left_out == ("Lung Lesion", "Enlarged Cardiomediastinum")
    assert [(label.name, label.operating_point) for label in model.labels][-2:] == [
        ("Fracture", 0.5080557),
        ("Lung Opacity", 0.5138526),
    ]


def test_chexnet_is_known_by_its_old_names() -> None:
    with torch.device("meta"):
        densenet = torchvision.models.densenet121(num_classes=14)
        densenet.classifier = nn.Sequential(densenet.classifier, nn.Sigmoid())
    old = {
        f"densenet121.{name.replace('norm1.', 'norm.1.') if 'denselayer' in name else name}": torch.zeros(tensor.shape)
        for name, tensor in densenet.state_dict().items()
    }
    assert "densenet121.classifier.0.weight" in old
    model = read(old, "chexnet")
    assert (model.architecture, model.size_px) == ("densenet121", 256)
    assert tuple(label.name for label in model.labels) == CHEXNET_LABELS
    assert {label.operating_point for label in model.labels} == {None}


@pytest.mark.parametrize("architecture", ["densenet121", "efficientnet_b0", "inception_v3", "resnet18"])
def test_torchvisions_own_names_tell_the_architecture(architecture: str) -> None:
    labels = tuple(f"class {number}" for number in range(1000))
    model = read(Original(architecture).network.state_dict(), "torchvision", labels)
    assert (model.architecture, len(model.head_weight), model.features.input_channels) == (architecture, 1000, 3)


def test_a_head_of_several_layers_is_refused() -> None:
    vgg = Original("vgg16_bn").network.state_dict() | {
        f"classifier.{layer}.{kind}": torch.zeros((2, 2) if kind == "weight" else 2)
        for layer in (0, 3, 6)
        for kind in ("weight", "bias")
    }
    with pytest.raises(UsageError, match=r"not one linear layer over pooled features.*--init weights\.pt"):
        read(vgg, "torchvision", ("A", "B"))


def test_the_number_of_labels_must_be_that_of_the_outputs() -> None:
    with pytest.raises(UsageError, match="has 1000 outputs, and there are 2 labels"):
        read(Original("resnet18").network.state_dict(), "torchvision", ("A", "B"))
    with pytest.raises(UsageError, match="has 14 outputs, and there are 18 labels"):
        read(grey_resnet50(outputs=14), "torchxrayvision")


def test_labels_are_needed_once_and_only_there() -> None:
    with pytest.raises(UsageError, match="--format torchvision needs --labels"):
        read(grey_resnet50(), "torchvision")
    with pytest.raises(UsageError, match="knows its own labels; leave --labels out"):
        read(grey_resnet50(), "torchxrayvision", ("A",))


def test_the_wrong_format_is_told() -> None:
    with pytest.raises(UsageError, match=r"is a resnet18 over 3 channel\(s\); TorchXRayVision's are densenet121 and"):
        read(Original("resnet18").network.state_dict(), "torchxrayvision")
    with pytest.raises(UsageError, match=r"takes 1 channel\(s\), not 3, .* Is it --format torchxrayvision\?"):
        read(grey_resnet50(), "torchvision", tuple(map(str, range(18))))


def test_a_nearly_fitting_file_is_told_what_it_lacks() -> None:
    tensors = grey_resnet50()
    del tensors["layer2.0.conv1.weight"]
    with pytest.raises(UsageError, match=r"does not hold a resnet50; missing: layer2\.0\.conv1\.weight\."):
        read(tensors, "torchxrayvision")
