"""Where findings lie on training images: boxes and masks become regions of the square that the network sees.

They go the way of the pixels: read by intake, fitted by the same function. Start at `mark_regions`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected, UsageError
from cxrbatch.intake.preprocess import fit_image
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.data.boxes import BOX_FILES, Box, Boxes, read_boxes, spelled
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.records import Gray8, InputSpec

REGION_CELLS = 32
"""Regions are kept on a grid of so many places a side: finer than any map, a kB per label and image."""

_COVERED = 128
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class MarkedRegions:
    """Where findings lie on K of N images.

    `coverage` is uint8 [K,C,r,r], 0..255: how much of each place of the square a finding covers. `located` is bool
    [K,C]: whose place is known, because it is marked or because the image has it not. `rows`, int64 [N], says which
    of the K an image is; -1: nothing is marked on it.
    """

    coverage: Gray8
    located: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @property
    def sha256(self) -> str:
        """Identify them."""
        digest = hashlib.sha256(np.ascontiguousarray(self.coverage).tobytes())
        digest.update(self.located.tobytes() + self.rows.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Marks:
    """What is marked on one image, by the place of the label: boxes and files with masks."""

    boxes: dict[int, tuple[Box, ...]]
    masks: dict[int, Path]


def mark_regions(images: LabelledImages, spec: InputSpec, boxes: Path | None, masks: Path | None) -> MarkedRegions:
    """Read boxes and masks of a data set.

    Args:
        images: the data set.
        spec: the square, and how images are fitted into it.
        boxes: a table of boxes (`boxes.read_boxes`). What NIH's says of other images and findings is left out.
        masks: a folder with a folder per label, in it a PNG per image, of its name and proportions, white where the
            finding is.

    Raises:
        UsageError: something names an image or a label that the data lacks, or marks what an image has not.
    """
    found: dict[int, _Marks] = defaultdict(lambda: _Marks({}, {}))
    names = _ImageNames(images)
    if boxes is not None:
        for image, label, drawn in _match_boxes(images, names, boxes):
            found[image].boxes[label] = found[image].boxes.get(label, ()) + drawn
    if masks is not None:
        for image, label, path in _match_masks(images, names, masks):
            found[image].masks[label] = path
    marked = sorted(found)
    rows = np.full(len(images.samples), -1, np.int64)
    rows[marked] = np.arange(len(marked))
    coverage = np.zeros((len(marked), len(images.labels), REGION_CELLS, REGION_CELLS), np.uint8)
    located = np.zeros(coverage.shape[:2], bool)
    for row, image in enumerate(marked):
        sample, marks = images.samples[image], found[image]
        for label, region in _draw_regions(sample, marks, spec):
            coverage[row, label] = region
        here = np.isin(np.arange(len(images.labels)), [*marks.boxes, *marks.masks])
        located[row] = here | (np.array(sample.targets) == 0)
    return MarkedRegions(coverage, located, rows)


# --------------------------------------------------------------------------- which image, which label


def read_boxes_of(images: LabelledImages, table: Path, *, lenient: bool = False) -> Boxes:
    """Read a table of boxes, and return them by the paths of the images that they are on.

    Args:
        images: the data set.
        table: as `boxes.read_boxes` takes it; an image is named by its path below the data, or by its file name.
        lenient: a table may tell of other images only.

    Raises:
        UsageError: no such table, or a file name fits several images, or nothing fits any.
    """
    found: dict[tuple[str, str], tuple[Box, ...]] = {}
    names, boxes = _ImageNames(images), read_boxes(table)
    for (name, finding), drawn in boxes.items():
        if (at := names.find(name, table)) is not None:
            key = images.samples[at].path.as_posix(), finding
            found[key] = found.get(key, ()) + drawn
    if boxes and not found and not lenient:
        _refuse_unknown(images, table, "image", sorted({name for name, _ in boxes}))
    return found


class _ImageNames:
    """Finds images by their paths below the root, or by their file names where no two are the same."""

    def __init__(self, images: LabelledImages) -> None:
        self._paths = {images.name_of(sample): at for at, sample in enumerate(images.samples)}
        self._counts = Counter(sample.path.name for sample in images.samples)
        self._files = {sample.path.name: at for at, sample in enumerate(images.samples)}

    def find(self, name: str, place: Path) -> int | None:
        if name in self._paths:
            return self._paths[name]
        if self._counts[name] > 1:
            raise UsageError(
                f"{place}: {name} is the name of {self._counts[name]} images. Write its path below the data's folder."
            )
        return self._files.get(name)

    def find_stem(self, name: str, place: Path) -> int | None:
        """Find the image that a mask `name`, without its ending, belongs to."""
        paths = {at for path, at in self._paths.items() if path.rpartition(".")[0] == name}
        matching = paths or {at for path, at in self._paths.items() if PurePosixPath(path).stem == name}
        if len(matching) > 1:
            raise UsageError(f"{place}: {name} fits {len(matching)} images; call it like one image's path.")
        return next(iter(matching), None)


def _match_boxes(images: LabelledImages, names: _ImageNames, path: Path) -> Iterator[tuple[int, int, tuple[Box, ...]]]:
    boxes = read_boxes(path)
    # NIH's list tells of images and findings that a part of the collection lacks.
    lenient = path.name in BOX_FILES
    labels = {spelled(label): at for at, label in enumerate(images.labels)}
    if not lenient:
        _refuse_unknown(images, path, "label", sorted({finding for _, finding in boxes if finding not in labels}))
    places = {name: names.find(name, path) for name, _ in boxes}
    unknown = sorted(name for name, at in places.items() if at is None)
    if not lenient or len(unknown) == len(places):
        _refuse_unknown(images, path, "image", unknown)
    for (name, finding), drawn in boxes.items():
        at, label = places[name], labels.get(finding)
        if at is None or label is None:
            continue
        if images.samples[at].targets[label] == 0:
            if lenient:
                continue
            _refuse_contradiction(path, images.name_of(images.samples[at]), images.labels[label])
        yield at, label, drawn


def _match_masks(images: LabelledImages, names: _ImageNames, folder: Path) -> Iterator[tuple[int, int, Path]]:
    labels = {spelled(label): at for at, label in enumerate(images.labels)}
    folders = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    if not folders:
        raise UsageError(f"{folder}: holds no masks. It needs a folder per label, with a PNG per image.")
    _refuse_unknown(images, folder, "label", [each.name for each in folders if spelled(each.name) not in labels])
    for each in folders:
        files = sorted(each.rglob("*.png"))
        places = {file: names.find_stem(file.relative_to(each).with_suffix("").as_posix(), each) for file in files}
        _refuse_unknown(images, each, "image", [file.name for file, at in places.items() if at is None])
        for file, at in places.items():
            if at is not None:
                label = labels[spelled(each.name)]
                if images.samples[at].targets[label] == 0:
                    _refuse_contradiction(file, images.name_of(images.samples[at]), images.labels[label])
                yield at, label, file


def _refuse_unknown(images: LabelledImages, place: Path, what: str, unknown: Sequence[str]) -> None:
    if unknown:
        some = ", ".join(unknown[:_SHOWN]) + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
        has = f" Its labels are {', '.join(images.labels)}." if what == "label" else ""
        raise UsageError(
            f"{place}: {images.root} has no such {what}: {some}.{has} Correct the names, or take them out."
        )


def _refuse_contradiction(place: Path, image: str, label: str) -> None:
    raise UsageError(f"{place}: marks {label} on {image}, which the data says has none. Correct one of them.")


# --------------------------------------------------------------------------- from stored pixels to the square


def _draw_regions(sample: Sample, marks: _Marks, spec: InputSpec) -> Iterator[tuple[int, Gray8]]:
    """Yield (label, uint8 [r,r]) for what is marked on one image."""
    try:
        radiograph = read_radiograph(sample.path, Settings())
    except (ImageRejected, OSError) as error:
        raise UsageError(f"{sample.path}: cannot be trained on: {error}") from error
    rows, columns = radiograph.rows, radiograph.columns
    masks: Mapping[int, Gray8] = {label: _read_mask(path, rows, columns) for label, path in marks.masks.items()}
    for label in sorted({*marks.boxes, *marks.masks}):
        canvas = np.array(masks[label]) if label in masks else np.zeros(_canvas_shape(rows, columns, spec), np.uint8)
        for box in marks.boxes.get(label, ()):
            _fill(canvas, box.in_parts(rows, columns), sample)
        square, _ = fit_image(canvas, spec, rows, columns)
        region = cv2.resize(square[0], (REGION_CELLS, REGION_CELLS), interpolation=cv2.INTER_AREA)
        yield label, np.asarray(region, np.uint8)


def _canvas_shape(rows: int, columns: int, spec: InputSpec) -> tuple[int, int]:
    """Return the size of the picture that boxes are drawn into: of the image's proportions, as fine as needed."""
    scale = min(1.0, 2 * spec.size_px / min(rows, columns))
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _fill(canvas: Gray8, box: Box, sample: Sample) -> None:
    if box.x >= 1 or box.y >= 1:
        raise UsageError(
            f"{sample.path.name}: a box begins at ({box.x:.0%}, {box.y:.0%}) of the image's width and height, outside "
            f"of it. Boxes count in stored pixels of the image."
        )
    height, width = canvas.shape
    left, right = round(box.x * width), max(round(box.x * width) + 1, round((box.x + box.width) * width))
    top, bottom = round(box.y * height), max(round(box.y * height) + 1, round((box.y + box.height) * height))
    canvas[min(top, height - 1) : bottom, min(left, width - 1) : right] = 255


def _read_mask(path: Path, rows: int, columns: int) -> Gray8:
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise UsageError(f"{path}: cannot be read as a PNG. Save the mask again, in grey, white where the finding is.")
    height, width = mask.shape
    if abs(height / width - rows / columns) > 0.02 * rows / columns:
        raise UsageError(
            f"{path}: is {width} x {height}, its image {columns} x {rows}: not of the same proportions. "
            f"Draw the mask on the image as it is stored."
        )
    covered = np.where(mask >= _COVERED, np.uint8(255), np.uint8(0))
    if not covered.any():
        raise UsageError(f"{path}: marks nothing. Take it out, or draw what it is to show in white.")
    return np.asarray(covered, np.uint8)
