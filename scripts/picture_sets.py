"""The radiographs that a check of anatomy may learn from, those that judge it, and libraries of foreign pictures.

No patient of the one set is in the other: the split of nih256 is by patient, and the names of fourclass384 tell
a patient or an article. Foreign pictures: a folder with a folder for each library, as foreign_pictures.sh fills it.
"""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected
from cxrbatch.intake.anatomy import small_copy
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import Gray8, Radiograph

SETTINGS = Settings(pixel_check=False)
# Never learned from: it judges.
UNSEEN = ("pillow",)
PER_LIBRARY = 700
_PATIENT = re.compile(r"(person\d+_[a-z]+|(NORMAL2-)?IM-\d+|.*?(?=-gr|-fx|-main|\.))")


def learned_from(shared: Path) -> list[Path]:
    """Return the radiographs to learn from."""
    return [path for path in _radiographs(shared) if _is_learned_from(path, _patients(shared))]


def judging(shared: Path) -> dict[str, list[Path]]:
    """Return the radiographs that judge, by set."""
    known = _patients(shared)
    unseen = [path for path in _radiographs(shared) if not _is_learned_from(path, known)]
    sets = {
        name: [path for path in unseen if name in path.parts and _nih_patient(path) not in known]
        for name in ("nih1024", "nih256", "fourclass384")
    }
    return {**sets, "dicom/chest": sorted((shared / "dicom" / "chest").iterdir())}


def libraries(foreign: Path) -> dict[str, list[Path]]:
    """Return the PNG and JPEG files of each library, in an order that says nothing, but is always the same."""
    found = {}
    for folder in sorted(path for path in foreign.iterdir() if path.is_dir() and not path.name.startswith(".")):
        pictures = [path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
        found[folder.name] = sorted((path for path in pictures if path.is_file()), key=_shuffled)
    return found


def read_pictures(paths: list[Path], limit: int = PER_LIBRARY) -> Iterator[Radiograph]:
    """Yield up to `limit` different pictures that intake accepts, their display images shrunk as the check does."""
    met: set[bytes] = set()
    for path in paths:
        if len(met) >= limit:
            return
        # A library's own damaged files may fail in any way; what a run makes of them is tested elsewhere.
        with suppress(ImageRejected, OSError, SyntaxError):
            picture = read_radiograph(path, SETTINGS)
            small = small_copy(picture.display)
            if small.tobytes() not in met:
                met.add(small.tobytes())
                yield replace(picture, display=small)


def read_small(paths: list[Path]) -> list[Gray8]:
    """Return the shrunk display images of radiographs; what is refused is said."""
    images = []
    for path in paths:
        try:
            images.append(small_copy(read_radiograph(path, SETTINGS).display))
        except ImageRejected as rejected:
            print(f"not read: {path.name}: {rejected.reason.value}", file=sys.stderr)
    return images


def dice_for(number: int) -> np.random.Generator:
    """Return the generator that decides what happens to the picture of this number."""
    return np.random.default_rng(number)


def _radiographs(shared: Path) -> list[Path]:
    return sorted(path for name in ("nih1024", "nih256", "fourclass384") for path in _images(shared / name))


def _images(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]


def _is_learned_from(path: Path, patients: set[int]) -> bool:
    if "nih256" in path.parts:
        return _nih_patient(path) in patients
    group = _PATIENT.match(path.name)
    return "fourclass384" in path.parts and _digest(group[0] if group else path.name) % 2 == 1


def _patients(shared: Path) -> set[int]:
    """Return the patients of nih256 that may be learned from."""
    with (shared / "nih256" / "labels.csv").open(newline="") as table:
        return {int(row["patient_id"]) for row in csv.DictReader(table) if row["split"] == "train"}


def _nih_patient(path: Path) -> int:
    number = re.match(r"(\d{8})_\d{3}\.png$", path.name)
    return int(number[1]) if number else -1


def _shuffled(path: Path) -> tuple[int, str]:
    return _digest(path.name), str(path)


def _digest(text: str) -> int:
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), 16)
