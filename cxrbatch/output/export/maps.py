"""Activation maps as a run with `keep_maps` left them: read, checked, and written out as NumPy files with an index."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxrbatch.errors import StudyFailed
from cxrbatch.output.export.tables import Add, csv_table
from cxrbatch.output.report.report_files import read_kept
from cxrbatch.records import Float32, ImageResult, StudyResult, even_cells
from cxrbatch.system.durable import make_folder, replace_files

MAPS = "maps"


@dataclass(frozen=True, slots=True)
class MapRow:
    """One file of maps, float32 [C,h,w], and how its cells lie on the stored pixels of its image.

    Cell (i, j) is centred at (x, y) = (origin_x + j * stride_x, origin_y + i * stride_y), in stored pixels from the top
    left corner of the top left one. `labels` and `validated` are JSON lists in the order of the maps.
    """

    file: str
    study_key: str
    image: int
    path: str
    sop_uid: str
    labels: str
    validated: str
    rows: int
    columns: int
    origin_x: float
    origin_y: float
    stride_x: float
    stride_y: float
    engine_sha256: str
    scored_at: str


@dataclass(slots=True)
class MapsFolder:
    """A folder of maps that is being filled; `without` counts the images of which no maps were kept."""

    folder: Path
    add_row: Add
    written: set[str] = field(default_factory=set)
    without: int = 0

    def add(self, result: StudyResult, folder: Path) -> None:
        """Add the maps of one study whose report lies in `folder`."""
        contents: dict[str, bytes] = {}
        for number, image in enumerate(result.images, start=1):
            content, maps = read_maps(folder, image), load_maps(folder, image)
            if content is None or maps is None:
                self.without += 1
                continue
            name = f"{result.study_key}-{number}.npy"
            contents[name] = content
            self.add_row(_row(f"{MAPS}/{name}", number, image, result, maps.shape))
        if contents:
            replace_files(self.folder, contents)
            self.written |= contents.keys()


@contextmanager
def maps_folder(target: Path) -> Iterator[MapsFolder]:
    """Fill `target/maps`, and list what is in it in maps.csv; what an earlier export left there goes."""
    folder = target / MAPS
    make_folder(folder)
    with csv_table(target / f"{MAPS}.csv", MapRow) as add:
        made = MapsFolder(folder, add)
        yield made
    for path in folder.glob("*.npy"):
        if path.name not in made.written:
            path.unlink(missing_ok=True)


def load_maps(folder: Path, image: ImageResult) -> Float32 | None:
    """Return the maps that were kept of an image, float32 [C,h,w]; None where none were, or they are not whole."""
    content = read_maps(folder, image)
    if content is None:
        return None
    maps = np.load(io.BytesIO(content), allow_pickle=False)
    is_sound = maps.ndim == 3 and maps.shape[0] == len(image.probabilities) and np.isfinite(maps).all()
    return np.asarray(maps, np.float32) if is_sound else None


def read_maps(folder: Path, image: ImageResult) -> bytes | None:
    """Return the file of an image's maps as it is, if it is the one that its result names."""
    if not image.maps_file or image.geometry is None:
        return None
    try:
        return read_kept(folder / image.maps_file, folder.name)
    except StudyFailed:
        return None


def _row(file: str, number: int, image: ImageResult, result: StudyResult, shape: tuple[int, ...]) -> MapRow:
    geometry, labels = image.geometry, result.engine.labels
    assert geometry is not None, "kept with the maps"
    cells = result.engine.cells or even_cells(shape[1:], geometry.size_px)
    return MapRow(
        file=file,
        study_key=result.study_key,
        image=number,
        path=image.path,
        sop_uid=image.header.sop_instance_uid,
        labels=json.dumps([label.name for label in labels]),
        validated=json.dumps([label.has_validated_maps for label in labels]),
        rows=geometry.rows,
        columns=geometry.columns,
        origin_x=(cells.origin_x - geometry.offset_x) / geometry.scale_x,
        origin_y=(cells.origin_y - geometry.offset_y) / geometry.scale_y,
        stride_x=cells.stride_x / geometry.scale_x,
        stride_y=cells.stride_y / geometry.scale_y,
        engine_sha256=result.engine.sha256,
        scored_at=result.scored_at,
    )
