"""SimSiam (Chen and He 2021): two views of one image should have embeddings that predict each other.

Chosen of the methods that learn without labels because it works with small batches: its authors lose two points from a
batch of 256 to one of 64 (table 2 there), where contrastive ones (Chen et al. 2020) need hundreds of other images
beside each. It has neither a queue nor a second network, so it takes the memory of an ordinary training, and one switch
(the stopped gradient) instead of weights of a loss to be tuned.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

METHOD = "SimSiam"


class Agreement(NamedTuple):
    """What two views of N images come to: the loss, -1 (each predicts the other) to 1, and two things to watch.

    `spread` is that of the embeddings (`measure_spread`), `recognised` the share of images whose one view is more like
    their own other view than like those of the rest of the batch: chance is 1/N.
    """

    loss: Tensor
    spread: Tensor
    recognised: Tensor


class SimSiam(nn.Module):
    """Projector and predictor behind a feature extractor, in the proportions of the paper; thrown away afterwards."""

    def __init__(self, width: int) -> None:
        """Build them for feature vectors of `width`; the paper's, of a ResNet50, have 2048, and 512 in between."""
        super().__init__()
        self.projector = nn.Sequential(
            *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)),
            *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)),
            *(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False)),
        )
        between = max(1, width // 4)
        self.predictor = nn.Sequential(
            *(nn.Linear(width, between, bias=False), nn.BatchNorm1d(between), nn.ReLU(inplace=True)),
            nn.Linear(between, width),
        )

    def forward(self, one: Tensor, other: Tensor) -> Agreement:
        """Compare the pooled features of two views of N images, [N,width] each."""
        first, second = self.projector(one), self.projector(other)
        # Without the stopped gradient the embeddings collapse to one (figure 2 of the paper).
        loss = _distance(self.predictor(first), second.detach()) + _distance(self.predictor(second), first.detach())
        first, second = first.detach(), second.detach()
        return Agreement(loss / 2, measure_spread(first), measure_recognition(first, second))


def measure_spread(embeddings: Tensor) -> Tensor:
    """Return how different the embeddings of a batch are: [N,d] -> a scalar, 0 where all are one, about 1 at best.

    The standard deviation of each number of the normalised embeddings, on average, times the root of d: what the
    paper watches a collapse by (section 4.1); numbers that are independent and Gaussian have 1.
    """
    normalised = F.normalize(embeddings.float(), dim=1)
    spread: Tensor = normalised.std(dim=0).mean() * math.sqrt(embeddings.shape[1])
    return spread


def measure_recognition(one: Tensor, other: Tensor) -> Tensor:
    """Return for how many images the most similar of the other views is their own: [N,d] twice -> a scalar, 0..1."""
    similarity = F.normalize(one.float(), dim=1) @ F.normalize(other.float(), dim=1).T
    own = torch.arange(len(one), device=one.device)
    return (similarity.argmax(dim=1) == own).float().mean()


def _distance(predicted: Tensor, embedding: Tensor) -> Tensor:
    return -F.cosine_similarity(predicted.float(), embedding.float(), dim=1).mean()
