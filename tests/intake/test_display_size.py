"""What is displayed is one thing, what is scored another: no size of the display image moves an engine's input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from cxrbatch.config import Settings
from cxrbatch.intake import preprocess
from cxrbatch.intake.anatomy import measure_anatomy
from cxrbatch.intake.dicom import pixel_data, read_dicom
from cxrbatch.intake.display import SOURCE_PX
from cxrbatch.intake.preprocess import prepare, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import InputSpec
from tests.factories.intake import blobs, write_dicom

SPEC = InputSpec(size_px=96)
SIZES = (256, 1024, 2048, 8192)


def settings(px: int) -> Settings:
    return Settings(max_display_px=px, pixel_check=False)


def write_image(path: Path, kind: str, rows: int, columns: int) -> Path:
    pixels = blobs(rows, columns)
    if kind == "png":
        cv2.imwrite(str(path.with_suffix(".png")), pixels.astype(np.uint16))
        return path.with_suffix(".png")
    syntax: UID = {"j2k": JPEG2000Lossless, "rle": RLELossless, "plain": ExplicitVRLittleEndian}[kind]
    return write_dicom(path, pixels=pixels, transfer_syntax=syntax)


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [("j2k", 2100, 1700), ("j2k", 4100, 1300), ("j2k", 1900, 1500), ("j2k", 900, 700), ("plain", 2100, 1701),
     ("rle", 1025, 900), ("png", 2100, 1300), ("png", 300, 200)],
)  # fmt: skip
def test_the_engine_sees_the_same_whatever_is_displayed(tmp_path: Path, kind: str, rows: int, columns: int) -> None:
    path = write_image(tmp_path / "image", kind, rows, columns)
    read = [read_radiograph(path, settings(px)) for px in SIZES]
    inputs = [prepare(radiograph, SPEC).pixels for radiograph in read]
    assert all(np.array_equal(inputs[0], other) for other in inputs[1:])
    assert inputs[0].std() > 10
    # What refuses, flags and finds duplicates goes by the same pixels as what scores.
    assert len({(radiograph.flags, radiograph.display_sha256, radiograph.stored_sha256) for radiograph in read}) == 1
    assert len({measure_anatomy(radiograph.judged) for radiograph in read}) == 1
    shown = [max(radiograph.display.shape) for radiograph in read]
    # A half of 1900 pixels is enough for 1024, not for 2048.
    assert shown == [950 if (kind, rows, px) == ("j2k", 1900, 1024) else min(px, max(rows, columns)) for px in SIZES]


@pytest.mark.parametrize("px", SIZES)
def test_every_display_image_shows_the_same(tmp_path: Path, px: int) -> None:
    path = write_image(tmp_path / "image", "j2k", 2100, 1700)
    shown, usual = (read_radiograph(path, settings(each)).display for each in (px, SOURCE_PX))
    first, second = (cv2.resize(each, (120, 150), interpolation=cv2.INTER_AREA).astype(int) for each in (shown, usual))
    assert np.abs(first - second).mean() < 3.0 < first.std() / 10


def test_at_the_usual_size_nothing_is_kept_twice(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image", "plain", 1500, 1200)
    assert read_radiograph(path, settings(SOURCE_PX)).source is None
    small = read_radiograph(path, settings(256))
    assert small.source is not None
    assert prepare(small, SPEC).radiograph.source is None
    assert prepare(small, SPEC).radiograph.display is small.display


def test_a_large_image_is_decoded_reduced_and_only_once_where_that_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "image", "j2k", 4100, 1300)
    decoded: list[tuple[int, ...]] = []

    def decode(*arguments: object) -> object:
        stored = pixel_data.decode_pixels(*arguments)  # type: ignore[arg-type]  # passed on
        decoded.append(stored.shape)
        return stored

    monkeypatch.setattr(read_dicom, "decode_pixels", decode)
    for px in (256, 1024, 2048):
        read_radiograph(path, settings(px))
    assert decoded == [(1025, 325), (1025, 325), (1025, 325), (2050, 650)]


def test_a_larger_input_is_read_at_its_own_size(tmp_path: Path) -> None:
    large = InputSpec(size_px=1536)
    assert [source_side(spec) for spec in (SPEC, InputSpec(size_px=1024), large)] == [1024, 1024, 1536]
    path = write_image(tmp_path / "image", "plain", 2100, 1700)
    read = [read_radiograph(path, settings(px), source_px=source_side(large)) for px in SIZES]
    assert {max(radiograph.judged.shape) for radiograph in read} == {1536}
    inputs = [prepare(radiograph, large).pixels for radiograph in read]
    assert all(np.array_equal(inputs[0], other) for other in inputs[1:])
    blurred = preprocess.fit_image(read_radiograph(path, settings(1024)).judged, large, 2100, 1700)[0]
    assert not np.array_equal(inputs[0], blurred)
