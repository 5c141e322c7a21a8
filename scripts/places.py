"""Measure how well the place of a point is put in words: on phantoms, whose lungs are known, and on boxes.

Usage: python scripts/places.py [--phantoms 200] [--seed 900000000] [--images FOLDER --boxes BBox_List_2017.csv.gz]

Prints what docs/measurements/places.md holds. A point in a phantom's lung has a side and lies in a third of that lung's
height, from apex to dome; of a box nothing is known but that its centre lies in a lung.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.intake.lungs import Lungs, find_lungs
from cxrbatch.phantom.anatomy import SIDES, Stream, draw_patient, lung_outline, open_stream
from cxrbatch.phantom.draw import _pose, draw_phantom
from cxrbatch.phantom.pictures import windowed
from cxrbatch.records import Gray8

SIZE_PX, POINTS = 512, 40
# Nearer to the midline than this, in cm, a point of the outline lies behind heart and mediastinum.
BEHIND_MEDIASTINUM_CM = 3.0
ZONES = ("upper", "mid", "lower")
IN_LUNGS = ("Pneumonia", "Infiltrate", "Mass", "Nodule", "Atelectasis")


def points_in_lungs(seed: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.float64], str, str]]:
    """Yield points of a phantom's lungs as shares of the image's sides, each with its true side and zone."""
    patient = draw_patient(open_stream(seed, Stream.PATIENT))
    grid = _pose(open_stream(seed, Stream.POSE), patient, SIZE_PX, SIZE_PX)
    for side in SIDES:
        outline = lung_outline(patient, side)
        contour = outline.astype(np.float32).reshape(-1, 1, 2)
        dome = patient.dome(side)
        drawn = 0
        while drawn < POINTS // 2:
            point = rng.uniform(outline.min(axis=0), outline.max(axis=0))
            inside = cv2.pointPolygonTest(contour, (float(point[0]), float(point[1])), measureDist=False) > 0
            if inside and abs(point[0]) > BEHIND_MEDIASTINUM_CM:
                third = min(max(int(3 * point[1] / dome), 0), 2)
                yield grid.to_px(point) / SIZE_PX, "image_left" if side < 0 else "image_right", ZONES[third]
                drawn += 1


def judge(lungs: Lungs, across: float, down: float, half: str, zone: str) -> str:
    """Return in a word how the words for a point compare with the truth."""
    place = lungs.place(across, down)
    if isinstance(place, str):
        return f"said to be {place}"
    if place[0] != half:
        return "wrong side"
    return ("right", "next zone", "zone after next")[abs(ZONES.index(place[1]) - ZONES.index(zone))]


def measure_phantoms(count: int, seed: int) -> Counter[str]:
    """Count how points of phantoms are put in words; a phantom without lungs found counts its points as not told."""
    counts: Counter[str] = Counter()
    for n in range(seed, seed + count):
        lungs = find_lungs(windowed(draw_phantom(n, rows=SIZE_PX)))
        for (across, down), half, zone in points_in_lungs(n, np.random.default_rng(n)):
            counts["not told" if lungs is None else judge(lungs, across, down, half, zone)] += 1
    return counts


def measure_boxes(images: Path, boxes: Path) -> Counter[str]:
    """Count where the centres of boxes are said to lie."""
    counts: Counter[str] = Counter()
    with gzip.open(boxes, "rt") as stream:
        for name, label, x, y, width, height, *_ in list(csv.reader(stream))[1:]:
            path = images / name
            if label not in IN_LUNGS or not path.is_file():
                continue
            display: Gray8 = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
            lungs = find_lungs(display)
            centre = (float(x) + float(width) / 2) / 1024, (float(y) + float(height) / 2) / 1024
            place = "not told" if lungs is None else lungs.place(*centre)
            counts[place if isinstance(place, str) else f"{place[0]} {place[1]}"] += 1
    return counts


def print_counts(title: str, counts: Counter[str]) -> None:
    """Print shares, the greatest first."""
    print(f"{title}: {counts.total()} points")
    for what, count in counts.most_common():
        print(f"  {what:24} {count:6} {100 * count / counts.total():5.1f} %")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=200)
    parser.add_argument("--seed", type=int, default=900_000_000)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--boxes", type=Path)
    asked = parser.parse_args()
    print_counts("phantoms", measure_phantoms(asked.phantoms, asked.seed))
    if asked.images and asked.boxes:
        print_counts("boxes of findings of the lungs", measure_boxes(asked.images, asked.boxes))
    display = windowed(draw_phantom(asked.seed))
    find_lungs(display)
    started = time.process_time()
    for _ in range(50):
        find_lungs(display)
    print(f"{(time.process_time() - started) / 50 * 1e3:.2f} ms of computing per image of 1024 x 1024")


if __name__ == "__main__":
    main()
