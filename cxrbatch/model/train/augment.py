"""Augmentation: each image of a batch slightly moved and exposed otherwise, as a new one might look.

Not torchvision's v2 transforms: on a batch they draw once for all of its images, and each image should differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # everyone's name for it


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far an image is changed at most; uniform in between.

    `shift` in parts of the image's side, `zoom` as a part of the scale, `rotation_deg` in degrees,
    `contrast` and `brightness` as parts of the grey range; `noise` is the largest standard deviation of Gaussian
    noise, as a part of the grey range. `flip` mirrors every other image; it moves the heart to the right.
    """

    shift: float = 0.0
    zoom: float = 0.0
    rotation_deg: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    flip: bool = False


NONE = Augmentation()
LIGHT = Augmentation(shift=0.06, zoom=0.1, rotation_deg=7.0, contrast=0.2, brightness=0.08)
STRONG = Augmentation(shift=0.1, zoom=0.2, rotation_deg=15.0, contrast=0.4, brightness=0.15, noise=0.05)
AUGMENTATIONS = {"none": NONE, "light": LIGHT, "strong": STRONG}


def augment_with_regions(
    pixels: Tensor, regions: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change each image of a batch on its own, and move the regions marked on it along.

    Args:
        pixels: uint8 [N,1,S,S], 0..255.
        regions: uint8 [N,C,r,r], 0..255, over the same square.
        augmentation: how far.
        generator: where chance comes from; its device is that of `pixels`.

    Returns:
        float32 [N,1,S,S] and [N,C,r,r], 0..255.
    """
    images, regions = pixels.float(), regions.float()
    if augmentation == NONE:
        return images, regions
    motion = _draw_motion(len(images), augmentation, generator)
    return _expose(_move(images, motion), augmentation, generator), _move(regions, motion)


def _draw_motion(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return affine maps as `affine_grid` takes them, [N,2,3]."""
    angle = _uniform(count, math.radians(augmentation.rotation_deg), generator)
    scale = 1.0 + _uniform(count, augmentation.zoom, generator)
    # The grid counts from -1 to 1, two units a side.
    shift_x = _uniform(count, 2 * augmentation.shift, generator)
    shift_y = _uniform(count, 2 * augmentation.shift, generator)
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    mirror = 1.0 - 2.0 * (_uniform(count, 1.0, generator) > 0.0) if augmentation.flip else torch.ones_like(scale)
    rows = [
        torch.stack([cosine * mirror, -sine, shift_x], dim=1),
        torch.stack([sine * mirror, cosine, shift_y], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _move(images: Tensor, motion: Tensor) -> Tensor:
    if images.shape[1] == 0:
        return images
    grid = F.affine_grid(motion, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _expose(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    count = len(images)
    contrast = 1.0 + _uniform(count, augmentation.contrast, generator)
    brightness = 255.0 * _uniform(count, augmentation.brightness, generator)
    middle = images.mean(dim=(1, 2, 3))
    offset = (middle + brightness - contrast * middle)[:, None, None, None]
    exposed = images * contrast[:, None, None, None] + offset
    if augmentation.noise:
        deviation = 255.0 * _uniform(count, augmentation.noise, generator).abs()
        grain = torch.randn(images.shape, generator=generator, device=generator.device)
        exposed = exposed + deviation[:, None, None, None] * grain
    return exposed.clamp(0.0, 255.0)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (2.0 * torch.rand(count, generator=generator, device=generator.device) - 1.0) * limit
