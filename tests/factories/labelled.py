"""Small labelled data sets on disk: noise images, each unlike the others, and tables of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIZE_PX = 64


def write_image(path: Path, seed: int = 0, size_px: int = SIZE_PX) -> Path:
    """Write an image of smooth noise, PNG or JPEG by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_LINEAR))
    return path


def write_images(folder: Path, count: int) -> list[str]:
    """Write images 000.png, 001.png, …; return their names."""
    return [write_image(folder / f"{index:03d}.png", index).name for index in range(count)]


def write_table(folder: Path, text: str, name: str = "labels.csv") -> Path:
    """Write a table, and the images a.png, b.png, c.png and d.png beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, image in enumerate("abcd"):
        write_image(folder / f"{image}.png", seed)
    (folder / name).write_text(text)
    return folder / name
