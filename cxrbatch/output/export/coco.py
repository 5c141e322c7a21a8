"""Regions of the heatmaps in the form of COCO (Lin et al. 2014): what an engine points at, which nobody has drawn.

Every annotation is marked as predicted. Where the activation maps were kept it is a region: what reaches half of the
map's peak, as the line on a heatmap encloses it, one annotation for each connected part. Elsewhere it is the peak
alone, a key point without a box. Only findings that are called in the image are annotated, and only of labels whose
heatmaps are validated, unless all are asked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import cv2
import numpy as np

from cxrbatch import __version__
from cxrbatch.config import HeatmapChoice
from cxrbatch.output.export.maps import load_maps
from cxrbatch.output.export.rows import positive_findings
from cxrbatch.output.report.heatmap import CONTOUR_SHARE, activation_on_display, is_faint, peak_in_stored
from cxrbatch.records import Float32, Geometry, ImageResult, Label, StudyResult
from cxrbatch.system.durable import replacing

REGION_PX = 512
"""Long side of the grid, in pixels, on which a region is drawn."""

DESCRIPTION = (
    "Predicted by cxrbatch, not drawn by anybody: regions are where the activation map of a finding that was called "
    "reaches half of its peak; they show where a score came from and are no segmentation of the finding. An annotation "
    "without bbox is the peak alone, since the map was not kept. score is the probability of the finding in the image."
)


@dataclass(slots=True)
class CocoCount:
    """What was written: `peaks` are annotations without a region; `left_out` those of labels without validated maps."""

    images: int = 0
    regions: int = 0
    peaks: int = 0
    left_out: int = 0


@dataclass(slots=True)
class CocoFile:
    """A file that is being written: images as they come, annotations in a file of their own until the end."""

    stream: IO[str]
    annotations: IO[str]
    choice: HeatmapChoice
    categories: dict[str, dict[str, Any]] = field(default_factory=dict)
    count: CocoCount = field(default_factory=CocoCount)

    def add(self, result: StudyResult, folder: Path) -> None:
        """Add the images of one study whose report lies in `folder`."""
        for label in result.engine.labels:
            self._category(label)
        for number, image in enumerate(result.images, start=1):
            self.count.images += 1
            self._write(self.stream, self.count.images, _image(self.count.images, number, image, result))
            maps = load_maps(folder, image)
            for place, label in positive_findings(result, image):
                if self.choice != "all" and not label.has_validated_maps:
                    self.count.left_out += 1
                    continue
                drawn = _regions(maps, image, result, place) if maps is not None else _peaks(image, label)
                for each in drawn:
                    self._annotate(each, label, image.probabilities[place])

    def _annotate(self, drawn: dict[str, Any], label: Label, probability: float) -> None:
        if "bbox" in drawn:
            self.count.regions += 1
        else:
            self.count.peaks += 1
        number = self.count.regions + self.count.peaks
        said = {
            "id": number,
            "image_id": self.count.images,
            "category_id": self._category(label)["id"],
            "iscrowd": 0,
            "score": round(probability, 6),
            "predicted": True,
            "maps_validated": label.has_validated_maps,
        }
        self._write(self.annotations, number, said | drawn)

    def _category(self, label: Label) -> dict[str, Any]:
        made = {
            "id": len(self.categories) + 1,
            "name": label.name,
            "supercategory": "normal" if label.normal else "finding",
            "keypoints": ["peak"],
            "skeleton": [],
        }
        return self.categories.setdefault(label.name, made)

    def _write(self, stream: IO[str], number: int, record: dict[str, Any]) -> None:
        stream.write(f"{',' if number > 1 else ''}\n{json.dumps(record)}")


@contextmanager
def coco_file(target: Path, choice: HeatmapChoice, made_at: str) -> Iterator[CocoFile]:
    """Write a COCO file; memory does not grow with the number of images."""
    info = {"description": DESCRIPTION, "version": __version__, "date_created": made_at, "predicted": True}
    with (
        replacing(target) as temporary,
        temporary.open("w", encoding="utf-8") as stream,
        TemporaryFile("w+", encoding="utf-8", dir=target.parent) as annotations,
    ):
        stream.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n"images": [')
        made = CocoFile(stream, annotations, choice)
        yield made
        stream.write('\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, stream)
        stream.write(f'\n],\n"categories": {json.dumps(list(made.categories.values()))}}}\n')


def _image(identity: int, number: int, image: ImageResult, result: StudyResult) -> dict[str, Any]:
    shape = image.geometry or image.header
    return {
        "id": identity,
        "file_name": image.path,
        "width": shape.columns,
        "height": shape.rows,
        "study_key": result.study_key,
        "image": number,
        "sop_uid": image.header.sop_instance_uid,
        "engine_sha256": result.engine.sha256,
    }


def _peaks(image: ImageResult, label: Label) -> Iterator[dict[str, Any]]:
    for heatmap in image.heatmaps:
        if heatmap.label == label.name and not heatmap.faint:
            yield {"keypoints": _keypoint(heatmap.peak_x, heatmap.peak_y), "num_keypoints": 1}


def _regions(maps: Float32, image: ImageResult, result: StudyResult, place: int) -> Iterator[dict[str, Any]]:
    geometry = image.geometry
    assert geometry is not None, "kept with the maps"
    shape = _grid(geometry)
    activation = activation_on_display(maps[place], geometry, shape, result.engine.cells)
    if is_faint(activation):
        return
    peak = _keypoint(*peak_in_stored(activation, geometry))
    inside = (activation >= CONTOUR_SHARE * activation.max()).astype(np.uint8)
    across, down = geometry.columns / shape[1], geometry.rows / shape[0]
    n_parts, parts, statistics, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    for part in range(1, n_parts):
        left, top, width, height, area = (int(number) for number in statistics[part])
        has_peak = (
            left * across <= peak[0] <= (left + width) * across and top * down <= peak[1] <= (top + height) * down
        )
        yield {
            "bbox": _rounded(left * across, top * down, width * across, height * down),
            "area": round(area * across * down, 1),
            "segmentation": _polygons(parts == part, across, down),
            "keypoints": peak if has_peak else [0, 0, 0],
            "num_keypoints": int(has_peak),
            "peak_share": round(float(activation[parts == part].max() / activation.max()), 4),
        }


def _grid(geometry: Geometry) -> tuple[int, int]:
    factor = min(1.0, REGION_PX / max(geometry.rows, geometry.columns))
    return max(1, round(geometry.rows * factor)), max(1, round(geometry.columns * factor))


def _polygons(part: np.ndarray[Any, np.dtype[np.bool_]], across: float, down: float) -> list[list[float]]:
    """Return the outlines of bool [H,W] as lists of x, y, x, y, ... in stored pixels, through the pixels' centres."""
    contours, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [np.asarray(contour, np.float64).reshape(-1, 2) + 0.5 for contour in contours]
    return [_rounded(*(outline * (across, down)).reshape(-1)) for outline in outlines if len(outline) >= 3]


def _keypoint(x: float, y: float) -> list[float]:
    return [*_rounded(x, y), 2]


def _rounded(*numbers: float) -> list[float]:
    return [round(float(number), 1) for number in numbers]
