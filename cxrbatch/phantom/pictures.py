"""Phantoms as PNG files, and whole training sets of them with their labels."""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import available_cores
from cxrbatch.phantom.draw import Phantom, draw_phantom
from cxrbatch.phantom.lesions import FINDINGS
from cxrbatch.records import Gray8
from cxrbatch.system.durable import make_folder, replace_text

LABELS_FILE = "labels.csv"
# Seeds of two training sets never meet as long as none holds more phantoms than this.
SEED_STRIDE = 1_000_000
_IMAGES_PER_TASK = 16
_SPLIT_OF_TEN = ("train",) * 8 + ("val", "test")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One row of labels.csv."""

    image_index: str
    patient_id: int
    age: int
    sex: str
    findings: tuple[str, ...]
    split: str

    def cells(self) -> list[str | int]:
        """Return the row in the order of the columns."""
        named = "|".join(self.findings) or "No Finding"
        present = [int(name in self.findings) for name in FINDINGS]
        return [self.image_index, self.patient_id, self.age, self.sex, "PA", named, self.split, *present]


COLUMNS = ("image_index", "patient_id", "age", "sex", "view", "finding_labels", "split", *FINDINGS)


def windowed(phantom: Phantom) -> Gray8:
    """Return the phantom through its window: uint8 [H,W], 0..255, air black and bone white."""
    return _through_window(phantom, 255).astype(np.uint8)


def write_phantom_png(path: Path, phantom: Phantom, *, bits: Literal[8, 16] = 8) -> None:
    """Write the windowed phantom as a grey PNG of 8 or 16 bits a pixel."""
    pixels = windowed(phantom) if bits == 8 else _through_window(phantom, 65535).astype(np.uint16)
    written, encoded = cv2.imencode(".png", pixels)
    assert written, "OpenCV encodes any grey image as PNG"
    path.write_bytes(encoded.tobytes())


def write_training_set(
    folder: Path,
    *,
    n: int,
    seed: int,
    size_px: int,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write `n` square phantoms of `size_px` as 8-bit PNG, and then labels.csv, in the columns of the NIH subsets.

    Each phantom is a patient of its own; of ten, eight are for training, one for validation, one for
    testing. A folder with a labels.csv is complete: it is written last.

    Args:
        folder: created where missing.
        n: how many phantoms, at most SEED_STRIDE.
        seed: sets of different seeds share no patient.
        size_px: rows and columns.
        workers: processes; None takes one per core, 1 draws in this process.
        progress: called with the number of images written so far.
    """
    if not 0 <= n <= SEED_STRIDE:
        message = f"a training set has at most {SEED_STRIDE} phantoms, not {n}"
        raise ValueError(message)
    make_folder(folder)
    tasks = [
        (folder, seed, size_px, range(start, min(start + _IMAGES_PER_TASK, n)))
        for start in range(0, n, _IMAGES_PER_TASK)
    ]
    rows: list[LabelledImage] = []
    with _mapping(workers or available_cores()) as mapped:
        for written in mapped(_write_some, tasks):
            rows += written
            if progress is not None:
                progress(len(rows))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.cells() for row in rows)
    replace_text(folder / LABELS_FILE, table.getvalue())


_Task = tuple[Path, int, int, range]


def _write_some(task: _Task) -> list[LabelledImage]:
    folder, seed, size_px, indices = task
    return [_write_one(folder, seed, size_px, index) for index in indices]


def _write_one(folder: Path, seed: int, size_px: int, index: int) -> LabelledImage:
    phantom = draw_phantom(seed * SEED_STRIDE + index, rows=size_px)
    name = f"phantom_{index:06d}.png"
    write_phantom_png(folder / name, phantom)
    split = _SPLIT_OF_TEN[index % len(_SPLIT_OF_TEN)]
    return LabelledImage(name, index + 1, phantom.age, phantom.sex, phantom.findings, split)


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Any]]:
    """Yield a `map` over this many processes; one worker is this process itself."""
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield pool.map


def _through_window(phantom: Phantom, white: int) -> NDArray[np.float32]:
    low = phantom.window_center - phantom.window_width / 2
    shown = (phantom.stored.astype(np.float32) - np.float32(low)) * np.float32(white / phantom.window_width)
    return np.asarray(np.clip(np.rint(shown), 0, white), np.float32)
