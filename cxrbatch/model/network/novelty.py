"""How far an image's features lie from those of the training images: the part of the graph that tells.

The last feature map's mean over its cells is set against a Gaussian of the training images' (Lee et al. 2018, section
2.1, with one Gaussian instead of one per class: findings overlap, and many images have none). Of thousands of channels
only the directions in which training images differ most are told apart; how far an image leaves the space that they
span is one more direction (the residual of Wang et al. 2022, "ViM", section 3). Each is divided by its deviation among
the training images; the root of the sum of squares is the Mahalanobis distance. It is given in units of the threshold,
so that 1 is the distance from which on an image counts as unlike the training images, for every engine.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

DIRECTIONS = 32
"""At most so many directions are told apart; a network that was fitted on few images leaves some of them empty."""


class TrainingDistance(nn.Module):
    """The distance of pooled features to the training images', float32 whatever the precision of the features.

    `directions` are orthonormal rows, or 0 where unused; `gains` 1 / deviation along each. `usual_residual` and
    `residual_gain` are mean and 1 / deviation of how far training images leave the space of the directions.
    `threshold` divides the distance.
    """

    centre: Tensor
    directions: Tensor
    gains: Tensor
    usual_residual: Tensor
    residual_gain: Tensor
    threshold: Tensor

    def __init__(self, channels: int) -> None:
        """Make one that knows no image yet: every distance is 0."""
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("directions", torch.zeros(DIRECTIONS, channels))
        self.register_buffer("gains", torch.zeros(DIRECTIONS))
        self.register_buffer("usual_residual", torch.zeros(1))
        self.register_buffer("residual_gain", torch.zeros(1))
        self.register_buffer("threshold", torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        """Measure a feature map [N,channels,h,w]; return float32 [N], 0 or more, 1 at the threshold."""
        centred = features.float().mean(dim=(2, 3)) - self.centre
        along = F.linear(centred, self.directions)
        left = centred - F.linear(along, self.directions.T)
        residual = (left * left).sum(dim=1).sqrt()
        scaled, beyond = along * self.gains, (residual - self.usual_residual) * self.residual_gain
        return ((scaled * scaled).sum(dim=1) + beyond * beyond).sqrt() / self.threshold
