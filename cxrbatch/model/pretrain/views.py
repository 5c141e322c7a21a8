"""Two views of each image, as different as one radiograph may look: what a network has to see through."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # everyone's name for it

from cxrbatch.model.train.augment import Augmentation, augment_with_regions

# A view shows at least this part of the image's side, so a quarter of it. Chen et al. 2020 (SimCLR) go down to 0.08 of
# a photograph's area; of a chest that would be two ribs.
SMALLEST_CROP = 0.5
# How a view is turned and exposed. Mirrored, too, as Sowrirajan et al. 2021 (MoCo-CXR) do: not told apart are sides.
EXPOSURE = Augmentation(rotation_deg=10.0, contrast=0.5, brightness=0.2, noise=0.05, flip=True)


def draw_views(pixels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two views of each image, each on its own.

    Args:
        pixels: uint8 [N,1,S,S], 0..255.
        generator: where chance comes from; its device is that of `pixels`.

    Returns:
        float32 [N,1,S,S], 0..255, twice.
    """
    return _draw_view(pixels.float(), generator), _draw_view(pixels.float(), generator)


def _draw_view(images: Tensor, generator: torch.Generator) -> Tensor:
    cropped = _crop(images, generator)
    nothing = images.new_zeros((len(images), 0, 1, 1))
    return augment_with_regions(cropped, nothing, EXPOSURE, generator)[0]


def _crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Enlarge a square part of each image to its whole side; the part lies inside."""
    count, device = len(images), generator.device
    side = SMALLEST_CROP + (1 - SMALLEST_CROP) * torch.rand(count, generator=generator, device=device)
    # The grid counts from -1 to 1: a part of half the side has its centre within half of that.
    shift = (2 * torch.rand(2, count, generator=generator, device=device) - 1) * (1 - side)
    zero = torch.zeros_like(side)
    rows = [torch.stack([side, zero, shift[0]], dim=1), torch.stack([zero, side, shift[1]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
