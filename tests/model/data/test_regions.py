"""Boxes and masks become regions of the square in which the pixels lie, and what fits nothing is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrbatch.config import Settings
from cxrbatch.errors import UsageError
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.data.boxes import Box, boxes_of, read_boxes
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.regions import REGION_CELLS, mark_regions
from cxrbatch.records import Fit, Gray8, InputSpec

COLUMNS = "image,label,x,y,w,h\n"
# (x, y, width, height) of a white spot on a dark image of 400 x 300 stored pixels.
SPOT = (160, 90, 80, 60)


@pytest.fixture
def images(tmp_path: Path) -> LabelledImages:
    folder = tmp_path / "data"
    for below in ("more", "other"):
        (folder / below).mkdir(parents=True)
    places = [folder / "a.png", folder / "other" / "b.png", folder / "more" / "b.png", folder / "c.png"]
    x, y, width, height = SPOT
    for number, place in enumerate(places):
        image = np.full((300, 400), 20 + number, np.uint8)
        image[y : y + height, x : x + width] = 250
        assert cv2.imwrite(str(place), image)
    nan = float("nan")
    targets = [(1.0, 0.0), (1.0, nan), (1.0, 1.0), (0.0, 1.0)]
    samples = tuple(Sample(path, "train", target) for path, target in zip(places, targets, strict=True))
    return LabelledImages(folder, ("Mass", "Infiltration"), samples)


def table(tmp_path: Path, *rows: str, name: str = "boxes.csv") -> Path:
    path = tmp_path / name
    path.write_text(COLUMNS + "".join(f"{row}\n" for row in rows))
    return path


def of_pixels(images: LabelledImages, image: int, spec: InputSpec) -> Gray8:
    """Return the region of the white spot as the pixels show it."""
    pixels = prepare(read_radiograph(images.samples[image].path, Settings()), spec).pixels[0]
    bright = np.where(pixels > 140, np.uint8(255), np.uint8(0))
    return np.asarray(cv2.resize(bright, (REGION_CELLS, REGION_CELLS), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("size_px", [64, 128, 512])
def test_a_box_lies_where_the_pixels_show_it(tmp_path: Path, images: LabelledImages, fit: Fit, size_px: int) -> None:
    spec = InputSpec(size_px, fit)
    box = ",".join(map(str, SPOT))
    marked = mark_regions(images, spec, table(tmp_path, f"a.png,Mass,{box}"), None)
    assert marked.rows.tolist() == [0, -1, -1, -1]
    assert marked.located.tolist() == [[True, True]]
    shown = of_pixels(images, 0, spec).astype(int)
    assert shown.max() == 255
    # At the rim of the spot a pixel is part of it or not.
    assert np.abs(marked.coverage[0, 0].astype(int) - shown).mean() < 3
    assert marked.coverage[0, 1].max() == 0


def test_a_mask_does_what_its_box_does(tmp_path: Path, images: LabelledImages) -> None:
    x, y, width, height = SPOT
    mask = np.zeros((150, 200), np.uint8)  # at half the size of its image
    mask[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2] = 255
    (tmp_path / "masks" / "mass" / "more").mkdir(parents=True)
    for name in ("a", "more/b"):
        assert cv2.imwrite(str(tmp_path / "masks" / "mass" / f"{name}.png"), mask)
    spec = InputSpec(128)
    masked = mark_regions(images, spec, None, tmp_path / "masks")
    box = ",".join(map(str, SPOT))
    boxed = mark_regions(images, spec, table(tmp_path, f"a.png,Mass,{box}", f"more/b.png,Mass,{box}"), None)
    assert masked.rows.tolist() == boxed.rows.tolist() == [0, -1, 1, -1]
    np.testing.assert_allclose(masked.coverage.astype(int), boxed.coverage.astype(int), atol=90)
    assert np.abs(masked.coverage.astype(int) - boxed.coverage.astype(int)).mean() < 1
    # The other label is there, too, but nobody says where; of the first image it is absent.
    assert masked.located.tolist() == [[True, True], [True, False]]


def test_several_boxes_of_one_finding_add_up(tmp_path: Path, images: LabelledImages) -> None:
    path = table(tmp_path, "a.png,Mass,0,0,100,300", "a.png,mass,300,0,100,300")
    region = mark_regions(images, InputSpec(64, "stretch"), path, None).coverage[0, 0]
    assert region[:, [0, -1]].min() == 255
    assert region[:, REGION_CELLS // 2].max() == 0


def test_nih_list_may_tell_of_images_and_findings_that_the_data_lacks(tmp_path: Path, images: LabelledImages) -> None:
    path = tmp_path / "BBox_List_2017.csv"
    rows = ["a.png,Mass,0,0,512,1024,,,", "z.png,Mass,0,0,9,9,,,", "a.png,Nodule,0,0,9,9,,,", "c.png,Mass,0,0,9,9,,,"]
    path.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + "\n".join(rows) + "\n")
    marked = mark_regions(images, InputSpec(64, "stretch"), path, None)
    # In pixels of the 1024 px originals, whatever the image's own size: the left half.
    assert marked.rows.tolist() == [0, -1, -1, -1]
    assert (marked.coverage[0, 0, :, :15].min(), marked.coverage[0, 0, :, 17:].max()) == (255, 0)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("z.png,Mass,1,1,9,9", r"boxes\.csv: .*data has no such image: z\.png"),
        ("a.png,Nodule,1,1,9,9", r"has no such label: nodule\. Its labels are Mass, Infiltration"),
        ("b.png,Mass,1,1,9,9", r"b\.png is the name of 2 images"),
        ("c.png,Mass,1,1,9,9", r"marks Mass on c\.png, which the data says has none"),
        ("a.png,Mass,400,1,9,9", r"a box begins at \(100%, 0%\).*outside"),
        ("a.png,Mass,1,1,0,9", r"line 2 is no box"),
        ("a.png,Mass,1,1,nan,9", r"line 2 is no box"),
        ("a.png,Mass,left,1,9,9", r"cannot be read as a list of boxes"),
    ],
)
def test_boxes_that_fit_nothing_are_told(tmp_path: Path, images: LabelledImages, row: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        mark_regions(images, InputSpec(64), table(tmp_path, row), None)


def test_masks_that_fit_nothing_are_told(tmp_path: Path, images: LabelledImages) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()

    def refuse(told: str) -> None:
        with pytest.raises(UsageError, match=told):
            mark_regions(images, InputSpec(64), None, folder)

    refuse("holds no masks")
    (folder / "Mass").mkdir()
    mask = folder / "Mass" / "a.png"
    assert cv2.imwrite(str(mask), np.zeros((300, 400), np.uint8))
    refuse(r"a\.png: marks nothing")
    assert cv2.imwrite(str(mask), np.full((400, 300), 255, np.uint8))
    refuse(r"is 300 x 400, its image 400 x 300: not of the same proportions")
    mask.write_text("no picture")
    refuse(r"a\.png: cannot be read as a PNG")
    mask.rename(folder / "Mass" / "z.png")
    refuse(r"no such image: z\.png")
    (folder / "Mass" / "z.png").rename(folder / "Mass" / "b.png")
    refuse("b fits 2 images")
    (folder / "Mass" / "b.png").unlink()
    (folder / "Lump").mkdir()
    refuse("no such label: Lump")


def test_own_boxes_count_in_stored_pixels(tmp_path: Path) -> None:
    boxes = read_boxes(table(tmp_path, "a.png,Mass,100,30,200,60"))
    (box,) = boxes_of(boxes, "a.png", "Mass")
    assert box.in_parts(300, 400) == Box(0.25, 0.1, 0.5, 0.2)
    assert replace(box, in_pixels=False).in_parts(300, 400) == Box(100, 30, 200, 60)
