"""Boxes of 1024 px originals meet maps of images of any size and fit."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.errors import UsageError
from cxrbatch.intake.preprocess import fit_image
from cxrbatch.model.data.boxes import Box, boxes_of, find_boxes, read_boxes
from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.evaluate.localisation import (
    box_iou,
    heatmap_box,
    measure_pointing,
    spread_map,
)
from cxrbatch.model.evaluate.scoring import ImageMap, ScoredImages
from cxrbatch.records import Fit, Float32, InputSpec

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
NO_RESAMPLES = np.empty((0, 1), np.uint8)


def image_map(cam: Float32, *, rows: int = 256, columns: int = 256, fit: Fit = "pad") -> ImageMap:
    image = np.zeros((rows, columns), np.uint8)
    _, geometry = fit_image(image, InputSpec(64, fit), rows, columns)
    return ImageMap(cam[np.newaxis], geometry)


def scored(image: ImageMap, name: str = "a.png") -> ScoredImages:
    nothing = np.zeros((1, 1), np.float32)
    sizes = np.array([[image.geometry.rows, image.geometry.columns]])
    return ScoredImages((Sample(Path(name), "test", (1.0,)),), sizes, nothing, nothing, {0: image})


def peaked(row: int, column: int, cells: int = 8, logit: float = 40.0) -> Float32:
    cam = np.zeros((cells, cells), np.float32)
    cam[row, column] = logit
    return cam


@pytest.mark.parametrize("zipped", [False, True])
def test_boxes_are_read_in_parts_of_the_original(tmp_path: Path, zipped: bool) -> None:
    text = HEADER + "a.png,Infiltrate,256,512,128,64\na.png,Mass,0,0,10,10\na.png,Infiltrate,0,0,1024,1024\n"
    path = tmp_path / ("BBox_List_2017.csv.gz" if zipped else "BBox_List_2017.csv")
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    boxes = read_boxes(path)
    # The table of labels writes Infiltration, the list of boxes Infiltrate.
    assert boxes_of(boxes, "a.png", "Infiltration") == (Box(0.25, 0.5, 0.125, 0.0625), Box(0, 0, 1, 1))
    assert boxes_of(boxes, "b.png", "Mass") == ()
    assert find_boxes(tmp_path) == path


def test_what_is_no_list_of_boxes_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"boxes\.csv.*BBox_List_2017"):
        read_boxes(path)
    assert find_boxes(tmp_path) is None


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        (Box(0, 0, 0.5, 0.5), 1.0),
        (Box(0.25, 0, 0.5, 0.5), 1 / 3),
        (Box(0.5, 0.5, 0.5, 0.5), 0.0),
        (Box(0.1, 0.1, 0.1, 0.1), 0.04),
    ],
)
def test_iou_of_boxes(other: Box, iou: float) -> None:
    assert box_iou(Box(0, 0, 0.5, 0.5), other) == pytest.approx(iou)
    assert box_iou(other, Box(0, 0, 0.5, 0.5)) == pytest.approx(iou)


def test_the_heatmap_box_encloses_the_region_of_the_peak_alone() -> None:
    activation = np.zeros((100, 200), np.float32)
    activation[10:30, 40:90] = 6.0
    activation[20, 50] = 10.0
    activation[60:90, 150:190] = 7.0  # as strong, but another region
    activation[10:30, 90:120] = 4.9  # below half of the peak
    assert heatmap_box(activation) == Box(0.2, 0.1, 0.25, 0.2)


@pytest.mark.parametrize(
    ("rows", "columns", "fit", "where"),
    [
        # Cell (2, 5) of 8x8 has its centre at (5.5, 2.5) / 8 of the square, which is the whole square image.
        (256, 256, "pad", (0.6875, 0.3125)),
        (1024, 1024, "pad", (0.6875, 0.3125)),
        # A landscape image is padded above and below: 2.5/8 of the square is (2.5/8 - 1/4) * 2 of its height.
        (128, 256, "pad", (0.6875, 0.125)),
        # A portrait image is padded left and right.
        (256, 128, "pad", (0.875, 0.3125)),
        (128, 256, "stretch", (0.6875, 0.3125)),
        (256, 128, "crop", (0.6875, 0.40625)),
    ],
)
def test_the_peak_lands_where_the_box_of_the_original_is(
    rows: int, columns: int, fit: Fit, where: tuple[float, float]
) -> None:
    image = image_map(peaked(2, 5), rows=rows, columns=columns, fit=fit)
    x, y = where
    around = {("a.png", "mass"): (Box(x - 0.02, y - 0.02, 0.04, 0.04),)}
    beside = {("a.png", "mass"): (Box(x + 0.1, y - 0.02, 0.04, 0.04),)}
    for boxes, hits in ((around, 1.0), (beside, 0.0)):
        (figures,) = measure_pointing(scored(image), {"Mass": 0}, boxes, {"Mass": None}, NO_RESAMPLES)
        assert figures.hits.value == hits
        assert figures.images == 1


def test_iou_of_a_known_map_with_its_box() -> None:
    # A plateau over the cells 2..5 of 8 in both directions: half of the image's width and height.
    cam = np.zeros((8, 8), np.float32)
    cam[2:6, 2:6] = 20.0
    image = image_map(cam)
    boxes = {("a.png", "mass"): (Box(0.25, 0.25, 0.5, 0.5), Box(0.9, 0.9, 0.1, 0.1))}
    (figures,) = measure_pointing(scored(image), {"Mass": 0}, boxes, {"Mass": np.array([True])}, NO_RESAMPLES)
    assert figures.box_iou.value == pytest.approx(1.0, abs=0.06)
    assert figures.chance == pytest.approx(0.25 + 0.01, abs=0.005)
    assert (figures.called, figures.called_hits) == (1, 1.0)
    assert spread_map(image, 0).shape == (256, 256)


def test_a_faint_map_points_at_nothing_and_labels_without_boxes_are_left_out() -> None:
    faint = image_map(peaked(4, 4, logit=0.05))
    everywhere = {("a.png", "mass"): (Box(0, 0, 1, 1),)}
    columns = {"Mass": 0, "Nodule": 0}
    (figures,) = measure_pointing(scored(faint), columns, everywhere, dict.fromkeys(columns), NO_RESAMPLES)
    assert (figures.label, figures.hits.value, figures.box_iou.value, figures.chance) == ("Mass", 0.0, 0.0, 1.0)
    assert (figures.called, figures.called_hits) == (0, None)
