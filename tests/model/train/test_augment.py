"""Augmentation moves and exposes images within its limits, each on its own, and never flips them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxrbatch.model.train.augment import LIGHT, NONE, STRONG, Augmentation, augment_with_regions


def draw_discs(count: int) -> torch.Tensor:
    """Images with a disc left of the middle, like a lesion: uint8 [count,1,64,64]."""
    rows, columns = np.mgrid[:64, :64]
    disc = np.where((rows - 32) ** 2 + (columns - 20) ** 2 < 36, 200, 50).astype(np.uint8)
    return torch.from_numpy(np.repeat(disc[np.newaxis, np.newaxis], count, axis=0))


def augment(images: torch.Tensor, augmentation: Augmentation, chance: torch.Generator) -> torch.Tensor:
    """Augment images without regions."""
    return augment_with_regions(images, images[:, :0], augmentation, chance)[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc_centres(images: torch.Tensor) -> torch.Tensor:
    weights = (images[:, 0] > 125).float()
    places = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
    return (weights[:, None] * places).sum(dim=(2, 3)) / weights.sum(dim=(1, 2))[:, None]


def test_none_leaves_images_as_they_are() -> None:
    images = draw_discs(2)
    torch.testing.assert_close(augment(images, NONE, generator()), images.float())


def test_shift_moves_by_at_most_its_part_of_the_side_and_in_every_direction() -> None:
    centres = disc_centres(augment(draw_discs(64), Augmentation(shift=0.1), generator()))
    moved = centres - torch.tensor([32.0, 20.0])
    assert moved.abs().max() < 0.1 * 64 + 0.5
    assert moved.min() < -4
    assert moved.max() > 4


def test_rotation_turns_without_stretching() -> None:
    centres = disc_centres(augment(draw_discs(32), Augmentation(rotation_deg=30), generator()))
    radius = (centres - 31.5).norm(dim=1)
    assert radius.min() > 11
    assert radius.max() < 12.2
    assert centres[:, 0].std() > 2


def test_light_never_moves_the_lesion_to_the_other_side() -> None:
    assert disc_centres(augment(draw_discs(128), LIGHT, generator()))[:, 1].max() < 32


def test_flip_mirrors_about_half_of_the_images_and_their_regions() -> None:
    images = draw_discs(64)
    flipped, regions = augment_with_regions(images, images, Augmentation(flip=True), generator())
    torch.testing.assert_close(flipped, regions)
    mirrored = disc_centres(flipped)[:, 1] > 32
    assert 16 < int(mirrored.sum()) < 48
    torch.testing.assert_close(flipped[mirrored][0], images[0].flip(2).float(), atol=0.01, rtol=0)
    torch.testing.assert_close(flipped[~mirrored][0], images[0].float(), atol=0.01, rtol=0)


def test_noise_differs_from_image_to_image_and_keeps_the_picture() -> None:
    images = torch.full((64, 1, 32, 32), 128, dtype=torch.uint8)
    grain = (augment(images, Augmentation(noise=0.05), generator()) - 128).flatten(1)
    deviations = grain.std(dim=1)
    assert float(deviations.max()) < 0.055 * 255
    assert float(deviations.std()) > 1
    assert float(grain.mean().abs()) < 0.2


def test_strong_never_flips() -> None:
    # Without exposure and noise, which would hide the disc from the eye that looks for it here.
    moving = replace(STRONG, contrast=0.0, brightness=0.0, noise=0.0)
    assert disc_centres(augment(draw_discs(128), moving, generator()))[:, 1].max() < 36


def test_contrast_keeps_the_mean_and_brightness_shifts_it() -> None:
    images = draw_discs(16)
    contrasted = augment(images, Augmentation(contrast=0.2), generator())
    torch.testing.assert_close(contrasted.mean(dim=(1, 2, 3)), images.float().mean(dim=(1, 2, 3)))
    assert contrasted.std(dim=(1, 2, 3)).std() > 0.5
    brightened = augment(images, Augmentation(brightness=0.1), generator()) - images
    assert brightened.abs().max() <= 25.5
    assert brightened.std(dim=(1, 2, 3)).max() < 1e-4


def test_values_stay_in_range_and_the_seed_decides() -> None:
    images = torch.randint(0, 256, (8, 1, 64, 64), generator=generator(), dtype=torch.uint8)
    first, again, other = (augment(images, LIGHT, generator(seed)) for seed in (1, 1, 2))
    assert first.min() >= 0
    assert first.max() <= 255
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "one",
    [
        Augmentation(shift=0.2),
        Augmentation(zoom=0.2),
        Augmentation(rotation_deg=5),
        Augmentation(contrast=0.2),
        Augmentation(brightness=0.2),
        Augmentation(noise=0.2),
    ],
)
def test_every_limit_changes_something(one: Augmentation) -> None:
    images = draw_discs(2)
    assert not torch.equal(augment(images, one, generator()), images)


def test_regions_move_with_their_images() -> None:
    images = draw_discs(32)
    regions = ((images > 125) * 255).to(torch.uint8)
    shifted, along = augment_with_regions(images, regions, Augmentation(shift=0.1, rotation_deg=20), generator())
    assert (disc_centres(shifted) - disc_centres(along)).abs().max() < 0.3
    assert disc_centres(along).std(dim=0).min() > 1
