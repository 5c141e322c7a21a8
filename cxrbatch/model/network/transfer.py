"""Making the weights of a network that saw other images compute the same of a grey image in our scaling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from cxrbatch.errors import UsageError
from cxrbatch.model.network.architectures import architectures, build_features
from cxrbatch.records import InputSpec

# torchvision's files of DenseNets are older than its names: norm.1 became norm1.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_HEADS = ("fc.", "classifier.", "AuxLogits.")
COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a first convolution was trained to see: (value - mean) / std per channel, of values in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Stem(NamedTuple):
    """Names of the first convolution's weight, and of what takes up a constant behind it.

    That is the convolution's own bias, or the running mean of the BatchNorm after it, which is subtracted.
    """

    weight: str
    constant: str
    sign: int


@dataclass(frozen=True, slots=True)
class FeatureWeights:
    """A feature extractor's tensors by its own names; its first convolution takes whatever they were trained on."""

    tensors: dict[str, Tensor]
    stem: Stem

    @property
    def input_channels(self) -> int:
        """How many channels the first convolution takes."""
        return int(self.tensors[self.stem.weight].shape[1])


def torchvision_scaling(architecture: str) -> Scaling:
    """Return how torchvision's own networks of this architecture see colours, red, green and blue in 0..1."""
    if architecture == "inception_v3":
        # Google's weights were made for -1..1. torchvision undoes its own scaling inside (`transform_input`).
        return Scaling((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    transforms = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    return Scaling(tuple(transforms.mean), tuple(transforms.std))


def match_features(path: Path, tensors: dict[str, Tensor], architecture: str) -> FeatureWeights:
    """Give the tensors the names of the feature extractor, and leave heads and counters of batches out.

    Args:
        path: where they come from, for the message.
        tensors: under torchvision's names, or the extractor's own.
        architecture: one of `architectures()`.

    Raises:
        UsageError: tensors are missing, unknown, or of another shape; the message names them.
    """
    found, extractor = _name_features(tensors), _build_shapes(architecture)
    if faults := _find_faults(found, extractor):
        told = "; ".join(f"{fault}: {_name_some(names)}" for fault, names in faults.items())
        raise UsageError(f"{path}: does not hold a {architecture}; {told}. Name the architecture that it holds.")
    return FeatureWeights(found, find_stem(extractor))


def recognise_architecture(tensors: dict[str, Tensor]) -> str:
    """Return the architecture that the tensors fit, or nearly fit: that with the fewest faults."""
    found = _name_features(tensors)
    faults = {name: _find_faults(found, _build_shapes(name)) for name in architectures()}
    return min(faults, key=lambda name: sum(map(len, faults[name].values())))


def _name_features(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        _OLD_DENSENET_NAME.sub(r"\1\2", name.removeprefix("features.")): tensor
        for name, tensor in tensors.items()
        if not name.startswith(_HEADS) and not name.endswith(COUNTER)
    }


def _build_shapes(architecture: str) -> nn.Sequential:
    """Build a feature extractor of names and shapes, without memory."""
    with torch.device("meta"):
        return build_features(architecture).extractor


def _find_faults(found: dict[str, Tensor], extractor: nn.Sequential) -> dict[str, list[str]]:
    """Return the names of tensors by what is wrong with them."""
    wanted = {name: tensor for name, tensor in extractor.state_dict().items() if not name.endswith(COUNTER)}
    names, stem = found.keys() & wanted.keys(), find_stem(extractor).weight
    # Any number of channels may come in: `fold_scaling` makes one of them.
    misshapen = {name for name in names if _shape_of(found, name, stem) != _shape_of(wanted, name, stem)}
    faults = {"missing": wanted.keys() - names, "unknown": found.keys() - names, "of another shape": misshapen}
    return {fault: sorted(names) for fault, names in faults.items() if names}


def _shape_of(tensors: dict[str, Tensor], name: str, stem: str) -> tuple[int, ...]:
    shape = tuple(tensors[name].shape)
    return shape[:1] + shape[2:] if name == stem else shape


def find_stem(extractor: nn.Sequential) -> Stem:
    """Find where a feature extractor first looks at its input."""
    modules = list(extractor.named_modules())
    place, (name, convolution) = next(
        (place, named) for place, named in enumerate(modules) if isinstance(named[1], nn.Conv2d)
    )
    if convolution.bias is not None:
        return Stem(f"{name}.weight", f"{name}.bias", 1)
    norm = next(name for name, module in modules[place:] if isinstance(module, nn.BatchNorm2d))
    return Stem(f"{name}.weight", f"{norm}.running_mean", -1)


def fold_scaling(weights: FeatureWeights, trained: Scaling, spec: InputSpec) -> dict[str, Tensor]:
    """Make weights trained on one scaling of the input answer the same for a grey image under another.

    A grey value g is (g - mean_c) / std_c in channel c of the old input and x = (g - mean) / std in ours, so
    w_c * (g - mean_c) / std_c = w_c * std / std_c * x + w_c * (mean - mean_c) / std_c. The first factors, summed
    over the channels, are the grey kernel. The second terms, summed over the whole kernel, are a constant behind
    the convolution. Both are exact where the kernel lies inside the image. At the border a padded convolution sees
    zeros: those were the grey `mean_c` in the old input and are `mean` in ours, which is the one thing that differs.

    Args:
        weights: trained on C channels.
        trained: the old scaling, of these channels.
        spec: ours.

    Returns:
        the tensors, with a first convolution over one channel.
    """
    stem, tensors = weights.stem, weights.tensors
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (trained.mean, trained.std))
    weight, constant = tensors[stem.weight], tensors[stem.constant]
    scaled = weight.double() / std
    grey = (scaled * spec.std).sum(dim=1, keepdim=True)
    offset = (scaled * (spec.mean - mean)).sum(dim=(1, 2, 3))
    folded = {
        stem.weight: grey.to(weight.dtype),
        stem.constant: (constant.double() + stem.sign * offset).to(constant.dtype),
    }
    return tensors | folded


def _name_some(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
