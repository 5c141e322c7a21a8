"""Batches of images as tensors, in an order that only the seed and the epoch decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrbatch.model.data.dataset import PixelSet
from cxrbatch.records import Float32

# Where chance comes from in an epoch: each use has a stream of its own.
SHUFFLING, AUGMENTATION, NETWORK = range(3)


def epoch_seed(seed: int, epoch: int, use: int, process: int = 0) -> int:
    """Return the seed of one use of chance in one epoch: the same again when a training is resumed there."""
    return int(np.random.SeedSequence([seed, epoch, use, process]).generate_state(1)[0])


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """n images: uint8 [n,1,S,S], float32 [n,C], and uint8 [n,C,r,r], or [n,0,1,1] where no regions are known.

    `located`, bool [n,C], says of whom the region is known.
    """

    pixels: Tensor
    targets: Tensor
    regions: Tensor
    located: Tensor

    def to(self, device: torch.device) -> ImageBatch:
        """Move it where the network is."""
        parts = self.pixels, self.targets, self.regions, self.located
        moved = (part.to(device, non_blocking=True) for part in parts)
        return ImageBatch(*moved)


@dataclass(frozen=True, slots=True)
class ShuffledBatches:
    """Whole batches of images in an order that each epoch draws anew; what is left over waits for the next epoch.

    Not a DataLoader: the images are bytes in memory, or mapped there, so picking rows is all there is to do.
    Of `processes` that train together each takes every n-th batch. `repeats`, float64 [N], is how often each image is
    drawn, beside the others: where images of rare labels come more often, others miss an epoch now and then.
    """

    data: PixelSet
    batch_size: int
    seed: int
    epoch: Callable[[], int]
    process: int = 0
    processes: int = 1
    repeats: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.data) // (self.batch_size * self.processes)

    def __iter__(self) -> Iterator[ImageBatch]:
        chance = np.random.default_rng(epoch_seed(self.seed, self.epoch(), SHUFFLING))
        if self.repeats is None:
            order = chance.permutation(len(self.data))
        else:
            times = np.floor(self.repeats + chance.random(len(self.data))).astype(np.int64)
            order = chance.permutation(np.repeat(np.arange(len(self.data)), times))
        for number in range(self.process, len(self) * self.processes, self.processes):
            yield take_images(self.data, order[number * self.batch_size :][: self.batch_size])


def repeat_factors(targets: Float32, threshold: float) -> NDArray[np.float64] | None:
    """Return how often to draw each image so that rare labels are seen, float64 [N], >= 1; None: each once.

    A label that a share f of the images has, less than `threshold`, counts sqrt(threshold / f), and an image as much
    as the rarest label that it has (Gupta et al. 2019, LVIS, section 5.1).

    Args:
        targets: float32 [N,C], 0, 1 or nan.
        threshold: a share of the images.
    """
    has_label = targets > 0.5
    shares = has_label.mean(axis=0)
    factors = np.sqrt(np.maximum(1.0, threshold / np.maximum(shares, 1 / max(1, len(targets)))))
    repeats = np.where(has_label, factors, 1.0).max(axis=1)
    return repeats if (repeats > 1).any() else None


@dataclass(frozen=True, slots=True)
class OrderedBatches:
    """All images, in their order."""

    data: PixelSet
    batch_size: int

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __iter__(self) -> Iterator[ImageBatch]:
        for first in range(0, len(self.data), self.batch_size):
            yield take_images(self.data, np.arange(first, min(first + self.batch_size, len(self.data))))


def take_images(data: PixelSet, images: NDArray[np.int64]) -> ImageBatch:
    """Make a batch of some images, by their places."""
    parts = data.pixels_of(images), data.targets[images], *data.regions_of(images)
    return ImageBatch(*map(torch.from_numpy, parts))
