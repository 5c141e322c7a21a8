"""Networks with random weights that behave like trained ones: every map has structure, no value explodes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from cxrbatch.model.network import architectures
from cxrbatch.model.network.architectures import Features
from cxrbatch.model.network.checkpoint import Checkpoint, CheckpointFacts, build_network
from cxrbatch.model.network.network import ChestNetwork, build_seeded
from cxrbatch.records import Gray8

Module = TypeVar("Module", bound=nn.Module)


def draw_noise(n: int, size_px: int) -> Gray8:
    """Draw uint8 [n,1,size_px,size_px], the same each time; half of it noise, half of it coarse blocks."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 128, (n, 1, -(-size_px // 16), -(-size_px // 16)), dtype=np.uint8)
    coarse = blocks.repeat(16, axis=2).repeat(16, axis=3)[:, :, :size_px, :size_px]
    return np.asarray(coarse + generator.integers(0, 128, (n, 1, size_px, size_px), dtype=np.uint8), np.uint8)


def settle(build: Callable[[], Module], example: Tensor) -> Module:
    """Build a network with seeded weights and give its BatchNorms the statistics of `example`; evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        network = build()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.uniform_(0.5, 1.0)
            norm.bias.uniform_(-0.2, 0.2)
            norm.momentum = 1.0
        network.train()(example)
        for norm in norms:
            norm.momentum = 0.1
            # A map of few cells may hardly vary over the example; dividing by that would blow up rounding errors.
            norm.running_var.clamp_(min=0.5)  # type: ignore[union-attr]  # None without track_running_stats only
    return network.eval()


def build_unlike_defaults(facts: CheckpointFacts) -> ChestNetwork:
    """Build a network whose weights and running statistics are all unlike their defaults; evaluation mode."""
    built = build_seeded(lambda: build_network(facts), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in (*built.parameters(), *(buffer for buffer in built.buffers() if buffer.is_floating_point())):
            if tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        built.head.weight.mul_(3.0)
    return built.eval()


@contextmanager
def tiny_architecture() -> Iterator[None]:
    """Let "tiny" name an architecture."""
    with _named("tiny", build_tiny_resnet):
        yield


@contextmanager
def slim_architecture() -> Iterator[None]:
    """Let "slim" name an architecture."""
    with _named("slim", build_slim_resnet):
        yield


@contextmanager
def _named(name: str, build: Callable[[int], Features]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures._ARCHITECTURES, name, architectures._Architecture(build))
        yield


def one_network(checkpoint: Checkpoint) -> ChestNetwork:
    """Return a checkpoint's network, which is neither an ensemble nor mirrored."""
    assert isinstance(checkpoint.network, ChestNetwork)
    return checkpoint.network


def build_tiny_resnet(_output_stride: int) -> Features:
    """Build a residual network of a hundred times fewer weights than resnet18, with its names and stages."""
    return _build_residual((8, 16, 24, 32), strides=(1, 1, 1, 1), blocks=1)


def build_slim_resnet(_output_stride: int) -> Features:
    """Build a resnet18 with a third of its channels and 16 pixels a cell: what learns something in half a minute."""
    return _build_residual((24, 48, 96, 160), strides=(1, 2, 2, 1), blocks=2)


def _build_residual(widths: tuple[int, ...], *, strides: tuple[int, ...], blocks: int) -> Features:
    children = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(1, widths[0], kernel_size=3, stride=2, padding=1, bias=False),
        bn1=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(2),
    )
    for number, (before, width, stride) in enumerate(zip((widths[0], *widths), widths, strides, strict=False), start=1):
        projection = nn.Conv2d(before, width, kernel_size=1, stride=stride, bias=False)
        first = BasicBlock(before, width, stride, downsample=nn.Sequential(projection, nn.BatchNorm2d(width)))
        children[f"layer{number}"] = nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))
    stages = (("conv1", "bn1", "relu", "maxpool"), *((f"layer{number}",) for number in range(1, 5)))
    return Features(nn.Sequential(children), widths[-1], stages)


def build_three_layers(_output_stride: int) -> Features:
    """Build three convolutions whose cells lie as a ResNet's do, 4 pixels apart: what exports in a second or two."""
    layers: list[nn.Module] = []
    for before, width, stride in ((1, 8, 2), (8, 16, 2), (16, 16, 1)):
        convolution = nn.Conv2d(before, width, kernel_size=3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    extractor = nn.Sequential(*layers)
    return Features(extractor, 16, (tuple(name for name, _ in extractor.named_children()),))


class Original(nn.Module):
    """torchvision's own network of an architecture, with random weights: colours in, the map that it pools out.

    `network` is torchvision's, with all its heads and names; VGG comes without its classifier of 120 million weights.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        models = torchvision.models
        if architecture == "vgg16_bn":
            layers = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
            self.network = nn.Sequential(OrderedDict(features=layers))
        elif architecture == "inception_v3":
            # As torchvision builds it when it loads ImageNet's weights.
            self.network = models.inception_v3(init_weights=False, transform_input=True)
        else:
            self.network = models.get_model(architecture, weights=None)

    def forward(self, colours: Tensor) -> Tensor:
        """Return the last feature map of float32 [N,3,S,S], scaled as torchvision does: [N,channels,h,w]."""
        values = colours
        if isinstance(self.network, torchvision.models.Inception3):
            values = self.network._transform_input(values)
        for name, child in self.network.named_children():
            if name in {"avgpool", "classifier"}:
                break
            if name != "AuxLogits":
                values = child(values)
        return values.relu() if isinstance(self.network, torchvision.models.DenseNet) else values


def colours_of(grey: Tensor) -> Tensor:
    """Scale a grey image as torchvision scales a photograph: [N,1,H,W], 0..1 -> [N,3,H,W]."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (grey - mean[:, None, None]) / std[:, None, None]
