"""The architectures by name: feature extractors for grey images, with random weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torchvision
from torch import nn

from cxrbatch.errors import UsageError

Stages = tuple[tuple[str, ...], ...]


class Features(NamedTuple):
    """A feature extractor: grey [N,1,S,S] -> [N,channels,h,w], the map that global average pooling takes.

    `stages` holds the names of the extractor's children from the input to the output, in about five groups.
    """

    extractor: nn.Sequential
    channels: int
    stages: Stages


@dataclass(frozen=True, slots=True)
class _Architecture:
    """How an extractor is built, and the smallest square that leaves a cell of its last feature map."""

    build: Callable[[int], Features]
    smallest_px: int = 32
    output_strides: tuple[int, ...] = (32,)


def architectures() -> list[str]:
    """Return the names that `build_features` takes."""
    return sorted(_ARCHITECTURES)


def build_features(architecture: str, output_stride: int = 32) -> Features:
    """Build the feature extractor of `architecture` with random weights.

    Dropout before the head, which Inception and EfficientNet have, is left out: it served a thousand classes,
    and without it a network is the same function in training and evaluation but for its BatchNorm.

    Args:
        architecture: one of `architectures()`.
        output_stride: input pixels per cell of the last feature map, 32; ResNets also take 16.

    Raises:
        UsageError: the architecture is unknown, or does not come with this stride.
    """
    known = _find(architecture)
    if output_stride not in known.output_strides:
        raise UsageError(_refuse_stride(architecture, output_stride))
    return known.build(output_stride)


def smallest_size(architecture: str) -> int:
    """Return the smallest side in pixels that leaves a cell of the last feature map.

    Raises:
        UsageError: the architecture is unknown.
    """
    return _find(architecture).smallest_px


def has_output_stride(architecture: str, output_stride: int) -> bool:
    """Tell whether `architecture` comes with so many input pixels per cell of its last feature map.

    Raises:
        UsageError: the architecture is unknown.
    """
    return output_stride in _find(architecture).output_strides


def require_size(architecture: str, size_px: int) -> None:
    """Refuse an input square that would leave nothing of the last feature map.

    Raises:
        UsageError: `size_px` is too small, or the architecture unknown.
    """
    smallest = smallest_size(architecture)
    if size_px < smallest:
        raise UsageError(
            f"architecture {architecture}: images of {size_px} px are too small, it takes {smallest} px and more. "
            f"Choose larger images or another architecture."
        )


def sum_to_grey(convolution: nn.Conv2d) -> nn.Conv2d:
    """Turn a convolution over RGB into the one that answers the same for a grey image in one channel.

    With R = G = B the three planes of each kernel only ever act as their sum.
    """
    grey = nn.Conv2d(
        1,
        convolution.out_channels,
        kernel_size=convolution.kernel_size,  # type: ignore[arg-type]  # torch stores pairs, its signature says Union
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        grey.weight.copy_(convolution.weight.sum(dim=1, keepdim=True))
        if convolution.bias is not None and grey.bias is not None:
            grey.bias.copy_(convolution.bias)
    return grey


def _find(architecture: str) -> _Architecture:
    if architecture not in _ARCHITECTURES:
        raise UsageError(f"architecture {architecture}: unknown. Choose one of {', '.join(architectures())}.")
    return _ARCHITECTURES[architecture]


def _refuse_stride(architecture: str, output_stride: int) -> str:
    if output_stride == 16:
        finer = [name for name in architectures() if 16 in _ARCHITECTURES[name].output_strides]
        return f"architecture {architecture}: has an output stride of 32 only; 16 comes with {', '.join(finer)}."
    return f"output stride {output_stride}: choose 32, or 16 for finer heatmaps."


def _build_resnet(make: Callable[..., torchvision.models.ResNet], output_stride: int) -> Features:
    # Blocks that start as the identity train faster from scratch (Goyal et al. 2017, section 5.1).
    resnet = make(weights=None, zero_init_residual=True)
    resnet.conv1 = sum_to_grey(resnet.conv1)
    if output_stride == 16:
        _keep_resolution(resnet.layer4)
    stages = (("conv1", "bn1", "relu", "maxpool"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    return Features(_chain(resnet, stages), resnet.fc.in_features, stages)


def _keep_resolution(stage: nn.Module) -> None:
    """Take the stride out of a stage and dilate its 3x3 convolutions, so that each still sees as far.

    As in Chen et al. 2017 (DeepLab), and like torchvision's `replace_stride_with_dilation`, which knows
    bottleneck blocks only. The convolution that had the stride keeps dilation 1.
    """
    for convolution in stage.modules():
        if not isinstance(convolution, nn.Conv2d):
            continue
        if convolution.stride == (2, 2):
            convolution.stride = (1, 1)
        elif convolution.kernel_size == (3, 3):
            convolution.dilation = convolution.padding = (2, 2)


def _build_densenet121(_: int) -> Features:
    densenet = torchvision.models.densenet121(weights=None)
    densenet.features.conv0 = sum_to_grey(densenet.features.conv0)
    # torchvision applies this one as a function, between norm5 and the pooling.
    densenet.features.relu5 = nn.ReLU(inplace=True)
    stages = (
        ("conv0", "norm0", "relu0", "pool0"),
        ("denseblock1", "transition1"),
        ("denseblock2", "transition2"),
        ("denseblock3", "transition3"),
        ("denseblock4", "norm5", "relu5"),
    )
    return Features(_chain(densenet.features, stages), densenet.classifier.in_features, stages)


def _build_vgg16_bn(_: int) -> Features:
    """Build configuration D of Simonyan and Zisserman 2015 with BatchNorm, numbered as in torchvision.

    Built here, since torchvision's comes with 120 million weights of a classifier that nobody needs.
    """
    extractor, stages, channels = nn.Sequential(), [], 1
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        first = len(extractor)
        for _layer in range(depth):
            convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            extractor.extend([convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
            channels = width
        extractor.append(nn.MaxPool2d(2))
        stages.append(tuple(str(index) for index in range(first, len(extractor))))
    return Features(extractor, channels, tuple(stages))


def _build_inception_v3(_: int) -> Features:
    # Without the auxiliary head, which exists for training alone. Its unpadded convolutions make the last
    # feature map cover the middle of the square only: `cells` of an engine tells which.
    inception = torchvision.models.inception_v3(
        weights=None, aux_logits=False, transform_input=False, init_weights=True
    )
    inception.Conv2d_1a_3x3.conv = sum_to_grey(inception.Conv2d_1a_3x3.conv)
    stages = (
        ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1"),
        ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        ("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        ("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
    )
    return Features(_chain(inception, stages), inception.fc.in_features, stages)


def _build_efficientnet(make: Callable[..., torchvision.models.EfficientNet]) -> Features:
    efficientnet = make(weights=None)
    stem = efficientnet.features[0]
    stem[0] = sum_to_grey(stem[0])
    # One stage per resolution: 1/2, 1/4, 1/8, 1/16 and 1/32 of the input.
    stages = (("0", "1"), ("2",), ("3",), ("4", "5"), ("6", "7", "8"))
    return Features(_chain(efficientnet.features, stages), efficientnet.classifier[-1].in_features, stages)


def _chain(source: nn.Module, stages: Stages) -> nn.Sequential:
    """Take the named children of `source`, in this order, under their own names."""
    return nn.Sequential(OrderedDict((name, source.get_submodule(name)) for stage in stages for name in stage))


_ARCHITECTURES: dict[str, _Architecture] = {
    "densenet121": _Architecture(_build_densenet121),
    "efficientnet_b0": _Architecture(lambda _: _build_efficientnet(torchvision.models.efficientnet_b0)),
    "efficientnet_b4": _Architecture(lambda _: _build_efficientnet(torchvision.models.efficientnet_b4)),
    "inception_v3": _Architecture(_build_inception_v3, smallest_px=75),
    "resnet18": _Architecture(
        lambda stride: _build_resnet(torchvision.models.resnet18, stride), output_strides=(32, 16)
    ),
    "resnet50": _Architecture(
        lambda stride: _build_resnet(torchvision.models.resnet50, stride), output_strides=(32, 16)
    ),
    "vgg16_bn": _Architecture(_build_vgg16_bn),
}
