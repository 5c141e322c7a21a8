"""Labelled data sets that a network learns within seconds: a bright spot is the finding, its place the kind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cxrbatch.records import Gray8

FILM_PX = 160
# Where the spot of each class lies; the first has none.
PLACES: dict[str, tuple[int, int] | None] = {"normal": None, "upper": (20, 90), "lower": (100, 30)}


def draw_spot_film(seed: int, place: tuple[int, int] | None) -> Gray8:
    """Draw smooth noise, with a bright spot at (row, column): uint8 [160,160]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 130, (20, 20), dtype=np.uint8)
    film: Gray8 = cv2.resize(coarse, (FILM_PX, FILM_PX), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    if place is not None:
        row, column = (int(at + rng.integers(-8, 9)) for at in place)
        film[row : row + 40, column : column + 40] = 240
    return film


def write_spot_film(path: Path, seed: int, place: tuple[int, int] | None) -> Path:
    """Write such a film as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), draw_spot_film(seed, place))
    return path


def write_nih_data(folder: Path, *, patients: int = 32) -> Path:
    """Two films of every patient, every other patient with Pneumonia, the last third AP; a test list too."""
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    tested = []
    for patient in range(1, patients + 1):
        finding, place = ("Pneumonia", PLACES["upper"]) if patient % 2 else ("No Finding", None)
        for film in range(2):
            name = f"{patient:08d}_{film:03d}.png"
            write_spot_film(folder / "images" / name, 10 * patient + film, place)
            view = "AP" if 3 * patient > 2 * patients else "PA"
            rows.append(f"{name},{finding},{film},{patient},{30 + patient},{'FM'[patient % 2]},{view}")
            tested += [name] if patient > patients - 8 else []
    (folder / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    (folder / "test_list.txt").write_text("\n".join(tested) + "\n")
    listed = [row.split(",", 1)[0] for row in rows[1:]]
    (folder / "train_val_list.txt").write_text("\n".join(name for name in listed if name not in tested) + "\n")
    return folder


def write_class_data(folder: Path, *, films: int = 24) -> Path:
    """Three class folders: normal, upper, lower."""
    for at, (name, place) in enumerate(PLACES.items()):
        for film in range(films):
            write_spot_film(folder / name / f"{at}-{film:03d}.png", 1000 * at + film, place)
    return folder


def write_csv_data(folder: Path, *, films: int = 64) -> Path:
    """A labels.csv with two labels, patients and views; a film may have both."""
    rows = ["path,patient,view,Upper,Lower"]
    for film in range(films):
        upper, lower = film % 2, (film // 2) % 2
        name = f"{film:03d}.png"
        pixels = draw_spot_film(film, PLACES["upper"] if upper else None)
        if lower:
            pixels = np.maximum(pixels, draw_spot_film(film, PLACES["lower"]))
        folder.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), pixels)
        rows.append(f"{name},p{film // 2},{'PA' if film % 3 else 'AP'},{upper},{lower}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder
