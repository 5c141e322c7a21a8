"""Boxes that radiologists drew around findings, as tables hold them.

Two kinds of table are read, plain or gzipped. NIH ChestX-ray14's BBox_List_2017.csv (Wang et al. 2017) counts in
pixels of the 1024 x 1024 originals, so that copies of the images in any size work. One's own has the columns image,
label, x, y, w and h, in stored pixels of the image itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrbatch.errors import UsageError

BOX_FILES = ("BBox_List_2017.csv", "BBox_List_2017.csv.gz")
ORIGINAL_PX = 1024
OWN_COLUMNS = ["image", "label", "x", "y", "w", "h"]

# The list of boxes and the table of labels spell one finding differently.
_SPELLINGS = {"infiltrate": "infiltration"}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle (x, y, width, height) from the top left corner, in parts of the image's width and height.

    With `in_pixels` it counts in stored pixels; `in_parts` makes it the other.
    """

    x: float
    y: float
    width: float
    height: float
    in_pixels: bool = False

    def in_parts(self, rows: int, columns: int) -> Box:
        """Return it in parts of an image of so many stored rows and columns."""
        if not self.in_pixels:
            return self
        return Box(self.x / columns, self.y / rows, self.width / columns, self.height / rows)


Boxes = Mapping[tuple[str, str], tuple[Box, ...]]
"""By (file name as the table has it, or path of the image; finding in lower case)."""


def find_boxes(folder: Path) -> Path | None:
    """Return NIH's list of boxes in a data folder, if it has one."""
    return next((folder / name for name in BOX_FILES if (folder / name).is_file()), None)


def read_boxes(path: Path) -> Boxes:
    """Read a table of boxes, NIH's or one's own; images are named by their files, or by their paths below the data.

    Raises:
        UsageError: missing, no such table, or a box without width or height.
    """
    try:
        table = pd.read_csv(path, header=0)
        own = [str(name).strip().lower() for name in table.columns[:6]] == OWN_COLUMNS
        table = table.iloc[:, :6].set_axis(OWN_COLUMNS, axis=1)
        corners = table[["x", "y", "w", "h"]].to_numpy(float)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read as a list of boxes: {error}. Bring NIH's BBox_List_2017.csv, or a table with the "
            f"columns {', '.join(OWN_COLUMNS)} in stored pixels."
        ) from error
    _require_areas(path, corners)
    boxes: dict[tuple[str, str], tuple[Box, ...]] = defaultdict(tuple)
    unit = 1 if own else ORIGINAL_PX
    for file, finding, corner in zip(table["image"], table["label"], (corners / unit).tolist(), strict=True):
        x, y, width, height = corner
        box = Box(x, y, width, height, in_pixels=own)
        boxes[str(file), spelled(str(finding))] += (box,)
    return dict(boxes)


def boxes_of(boxes: Boxes, image: str, label: str) -> tuple[Box, ...]:
    """Return the boxes of one finding on one image, named as the boxes name it."""
    return boxes.get((image, spelled(label)), ())


def spelled(finding: str) -> str:
    """Return a finding as boxes name it: in lower case, spelled as in the table of labels."""
    plain = finding.strip().lower()
    return _SPELLINGS.get(plain, plain)


def _require_areas(path: Path, corners: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    wrong = ~np.isfinite(corners).all(axis=1) | (corners[:, 2:] <= 0).any(axis=1) | (corners[:, :2] < 0).any(axis=1)
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0]) + 2
        raise UsageError(
            f"{path}: line {line} is no box: x and y must be 0 or more, w and h more than 0. "
            f"{int(wrong.sum())} such lines in all."
        )
