"""Labelled data sets that a network learns within seconds: a bright spot is the finding, its place the kind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cxrbatch.records import Gray8

IMAGE_PX = 160
# Where the spot of each class lies; the first has none.
PLACES: dict[str, tuple[int, int] | None] = {"normal": None, "upper": (20, 90), "lower": (100, 30)}


def draw_spot_image(seed: int, place: tuple[int, int] | None) -> Gray8:
    """Draw smooth noise, with a bright spot at (row, column): uint8 [160,160]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 130, (20, 20), dtype=np.uint8)
    image: Gray8 = cv2.resize(coarse, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    if place is not None:
        row, column = (int(at + rng.integers(-8, 9)) for at in place)
        image[row : row + 40, column : column + 40] = 240
    return image


def write_spot_image(path: Path, seed: int, place: tuple[int, int] | None) -> Path:
    """Write such an image as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), draw_spot_image(seed, place))
    return path


def write_nih_data(folder: Path, *, patients: int = 44) -> Path:
    """Two images of every patient, every other patient with Pneumonia, the last third AP; a test list too."""
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    tested = []
    for patient in range(1, patients + 1):
        finding, place = ("Pneumonia", PLACES["upper"]) if patient % 2 else ("No Finding", None)
        for image in range(2):
            name = f"{patient:08d}_{image:03d}.png"
            write_spot_image(folder / "images" / name, 10 * patient + image, place)
            view = "AP" if 3 * patient > 2 * patients else "PA"
            rows.append(f"{name},{finding},{image},{patient},{30 + patient},{'FM'[patient % 2]},{view}")
            tested += [name] if patient > patients - 10 else []
    (folder / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    (folder / "test_list.txt").write_text("\n".join(tested) + "\n")
    listed = [row.split(",", 1)[0] for row in rows[1:]]
    (folder / "train_val_list.txt").write_text("\n".join(name for name in listed if name not in tested) + "\n")
    return folder


def write_class_data(folder: Path, *, images: int = 24) -> Path:
    """Three class folders: normal, upper, lower."""
    for at, (name, place) in enumerate(PLACES.items()):
        for image in range(images):
            write_spot_image(folder / name / f"{at}-{image:03d}.png", 1000 * at + image, place)
    return folder


def write_csv_data(folder: Path, *, images: int = 64) -> Path:
    """A labels.csv with two labels, patients and views; an image may have both."""
    rows = ["path,patient,view,Upper,Lower"]
    for image in range(images):
        upper, lower = image % 2, (image // 2) % 2
        name = f"{image:03d}.png"
        pixels = draw_spot_image(image, PLACES["upper"] if upper else None)
        if lower:
            pixels = np.maximum(pixels, draw_spot_image(image, PLACES["lower"]))
        folder.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), pixels)
        rows.append(f"{name},p{image // 2},{'PA' if image % 3 else 'AP'},{upper},{lower}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder
