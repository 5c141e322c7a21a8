"""What `--init` names: a network's first weights, matched with its architecture and put in.

`imagenet` are torchvision's weights. Its code is under the BSD 3-clause licence; of the weights it says that they
may be bound by the terms of what they were trained on, which for ImageNet means non-commercial research and
education. docs/training.md says so, so that whoever trains a product from them knows.
"""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.data.known_images import KnownImages
from cxrbatch.model.network.architectures import architectures
from cxrbatch.model.network.checkpoint import PRETRAINED_KEY, load_checkpoint
from cxrbatch.model.network.mirror import MirroredNetwork
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.pretraining_file import read_pretraining
from cxrbatch.model.network.transfer import (
    COUNTER,
    FeatureWeights,
    Scaling,
    fold_scaling,
    match_features,
    torchvision_scaling,
)
from cxrbatch.model.network.weights_file import WeightsFile, read_weights
from cxrbatch.pages.retelling import kept
from cxrbatch.records import Task

NONE, IMAGENET = "none", "imagenet"
USUAL_ARCHITECTURE = "resnet50"

# Under this key the metadata of our own checkpoints lie (checkpoint.py).
_OURS = "cxrbatch"

# A server that says nothing for so long is not there. urllib would wait for ever.
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """The head of one of our checkpoints: `weight` [C,channels] and `bias` [C], for these labels.

    `attention` are the tensors of its attention pooling, empty where all cells count alike.
    """

    labels: tuple[str, ...]
    task: Task
    weight: Tensor
    bias: Tensor
    attention: dict[str, Tensor] = field(default_factory=dict)

    def fits(self, network: ChestNetwork, labels: tuple[str, ...]) -> bool:
        """Tell whether a network can go on with it: the same labels in their order, pooled so that it means the same.

        Attention starts as the average over the cells, so a head that was trained on that fits it as well.
        """
        same = (self.labels, self.task) == (labels, network.task)
        return same and not (self.attention and network.attention is None)


@dataclass(frozen=True, slots=True)
class Init:
    """A network's first weights, read and found to fit `architecture`; without `features` they are random.

    `scaling` is what the features' first convolution was trained to see, `known` whom they were trained on, if ours.
    """

    architecture: str
    origin: str
    features: FeatureWeights | None = None
    scaling: Scaling = field(default_factory=lambda: Scaling((), ()))
    head: TrainedHead | None = None
    known: tuple[KnownImages, ...] = ()


def find_init(init: str, architecture: str = "", *, from_scratch: str = USUAL_ARCHITECTURE) -> Init:
    """Find and read the weights that `--init` names, before any data is prepared.

    Args:
        init: `none`; `imagenet`, from torch's hub cache or downloaded into it; or a file: a checkpoint of ours,
            what `cxrbatch pretrain` wrote, or a state dict (safetensors, torch.save) under torchvision's names,
            trained on images as torchvision scales them.
        architecture: one of `architectures()`; "" is what a file says that it holds, else a ResNet50.
        from_scratch: what "" is where weights start random.

    Raises:
        UsageError: unknown architecture; no such file; ImageNet's weights are not here and cannot be downloaded;
            or the file holds another architecture.
        EngineError: the file is damaged, or a pickle that would have to run code.
    """
    if architecture and architecture not in architectures():
        raise UsageError(f"architecture {architecture}: unknown. Choose one of {', '.join(architectures())}.")
    if init == NONE:
        return Init(architecture or from_scratch, kept("random weights"))
    usual = architecture or USUAL_ARCHITECTURE
    if init == IMAGENET:
        return _init_from_torchvision(_read_imagenet(usual), usual, kept("torchvision's ImageNet weights"))
    found = read_weights(Path(init))
    if _OURS in found.metadata:
        return _init_from_checkpoint(found, architecture)
    if PRETRAINED_KEY in found.metadata:
        return _init_from_pretraining(found, architecture)
    return _init_from_torchvision(found, usual, kept("weights of a file"))


def initialise(network: ChestNetwork, init: Init, seed: int, *, labels: tuple[str, ...] = ()) -> str:
    """Put the weights into the network and say in a sentence where they come from.

    The head is drawn anew from `seed`, unless `init` is a checkpoint of ours for the same task and `labels`, in
    the same order; likewise its attention, which else starts as the average over the cells. The network's scaling of
    its input stays; the weights are adapted to it (`fold_scaling`).

    Args:
        network: of the architecture that `init` was found for.
        init: what `find_init` gave. Random weights leave those that the network was built with.
        seed: of the head.
        labels: what the head's outputs mean.
    """
    if init.features is None:
        return kept("Weights start from {origin}.").format(origin=init.origin)
    features = fold_scaling(init.features, init.scaling, network.spec)
    network.features.load_state_dict(_with_counters(features, network.features))
    head = init.head
    if head is not None and head.fits(network, labels):
        network.head.load_state_dict({"weight": head.weight, "bias": head.bias})
        if network.attention is not None and head.attention:
            network.attention.load_state_dict(head.attention)
        return kept("Weights start from {origin}, with its head.").format(origin=init.origin)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.head.reset_parameters()
    return kept("Weights start from {origin}; the head is random.").format(origin=init.origin)


def _init_from_torchvision(file: WeightsFile, architecture: str, what: str) -> Init:
    features, scaling = match_features(file.path, file.tensors, architecture), torchvision_scaling(architecture)
    if features.input_channels != len(scaling.mean):
        raise UsageError(
            f"{file.path}: its first convolution takes {features.input_channels} channel(s), not 3, and nothing says "
            f"how its input was scaled. Make a checkpoint of it first: cxrbatch import {file.path} -o CHECKPOINT"
        )
    return Init(architecture, _tell_origin(what, file), features, scaling)


def _init_from_pretraining(file: WeightsFile, architecture: str) -> Init:
    facts, known = read_pretraining(file)
    architecture = _require_architecture(file, facts.architecture, architecture)
    what = kept("weights pretrained without labels ({name}, {images} images, spread {spread})").format(
        name=facts.method, images=facts.images, spread=f"{facts.spread:.2f}"
    )
    return Init(
        architecture,
        _tell_origin(what, file),
        match_features(file.path, file.tensors, architecture),
        Scaling((facts.input.mean,), (facts.input.std,)),
        known=known,
    )


def _require_architecture(file: WeightsFile, found: str, wanted: str) -> str:
    """Return what a file holds, if it is what is wanted; "" wants anything."""
    if wanted not in {"", found}:
        raise UsageError(f"{file.path}: is a {found}, not a {wanted}. Add --architecture {found}")
    return found


def _init_from_checkpoint(file: WeightsFile, architecture: str) -> Init:
    network, facts = (checkpoint := load_checkpoint(file.path)).network, checkpoint.facts
    if isinstance(network, MirroredNetwork):
        network = network.network
    if not isinstance(network, ChestNetwork):
        raise UsageError(f"{file.path}: is an ensemble. Name the checkpoint of one of its members.")
    architecture = _require_architecture(file, facts.architecture, architecture)
    labels = tuple(label.name for label in facts.labels)
    return Init(
        architecture,
        _tell_origin(kept("a checkpoint"), file),
        match_features(file.path, network.features.state_dict(), architecture),
        Scaling((facts.input.mean,), (facts.input.std,)),
        _head_of(network, labels),
        checkpoint.known,
    )


def _head_of(network: ChestNetwork, labels: tuple[str, ...]) -> TrainedHead:
    weight, bias = network.head.weight.detach(), network.head.bias.detach()
    attention = {} if network.attention is None else dict(network.attention.state_dict())
    return TrainedHead(labels, network.task, weight, bias, attention)


def _read_imagenet(architecture: str) -> WeightsFile:
    """Read torchvision's weights from torch's hub cache; download them where they are not there."""
    url: str = torchvision.models.get_model_weights(architecture).DEFAULT.url
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not place.exists():
        _download(url, place, architecture)
    file = read_weights(place)
    if not file.sha256.startswith(_published_digits(place)):
        raise EngineError(f"{place}: damaged: its SHA-256 is {file.sha256}. Bring {url} again.")
    return file


def _published_digits(place: Path) -> str:
    """Return the first digits of a weights file's SHA-256, with which torchvision ends its name."""
    return place.stem.rpartition("-")[2]


def _download(url: str, place: Path, architecture: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _losing_patience():  # torch writes beside the place, compares the hash, and moves or removes
            torch.hub.download_url_to_file(url, str(place), _published_digits(place), progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise UsageError(
            f"ImageNet weights of {architecture}: not on this machine, and the download failed ({error}). "
            f"Bring {url} to {place}, or choose --init none."
        ) from error


@contextmanager
def _losing_patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _with_counters(features: dict[str, Tensor], extractor: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in extractor.state_dict().items() if name.endswith(COUNTER)} | features


def _tell_origin(what: str, file: WeightsFile) -> str:
    said = kept("{what}: {file}, SHA-256 {name}")
    return said.format(what=what, file=file.path.name, name=file.sha256)
