"""Strips of 1:1000 and tiny and huge sides: scored or refused, drawn and printed, and never left without a row."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, ImageRejected, Reason
from cxrbatch.intake import read
from cxrbatch.intake.anatomy import check_anatomy, measure_anatomy
from cxrbatch.intake.discover import index_file
from cxrbatch.intake.libraries import refusing_malformed
from cxrbatch.intake.preprocess import _LARGEST_CUT, fit_image
from cxrbatch.intake.raster import read_raster
from cxrbatch.intake.read import read_radiograph
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.records import (
    EngineDescription,
    Fit,
    ImageFile,
    ImagePixels,
    ImageResult,
    InputSpec,
    Label,
    StudyResult,
)
from tests.factories.engine import write_tiny_bundle
from tests.factories.geometry import to_input, to_stored
from tests.factories.intake import blobs, png_bytes, write_dicom
from tests.factories.studies import read_rows, run_quietly

strips = pytest.mark.hostile("9.8 strips of 1:1000")
libraries = pytest.mark.hostile("9.8 any error of any library")

SIDES = [(64, 64), (64, 640), (64, 6_400), (64, 65_535), (65_535, 64), (65, 64_000), (64, 100_000), (300_000, 64)]
FITS: list[Fit] = ["pad", "crop", "stretch"]


def strip(rows: int, columns: int) -> Any:
    return (np.add.outer(np.arange(rows) * 7, np.arange(columns) * 3) % 4096).astype(np.uint16)


@strips
@pytest.mark.parametrize(("rows", "columns"), SIDES)
def test_a_strip_is_looked_at_fitted_and_drawn(tmp_path: Path, rows: int, columns: int) -> None:
    (tmp_path / "strip.png").write_bytes(png_bytes((strip(rows, columns) >> 4).astype(np.uint8)))
    radiograph = read_radiograph(tmp_path / "strip.png", Settings())
    assert max(radiograph.display.shape) == min(1024, max(rows, columns))
    assert np.isfinite(measure_anatomy(radiograph.display).likeness)
    for fit in FITS:
        spec = InputSpec(256, fit)
        started = time.process_time()
        pixels, geometry = fit_image(radiograph.display, spec, rows, columns)
        assert time.process_time() - started < 2
        assert pixels.shape == (1, 256, 256)
        assert pixels.dtype == np.uint8
        x, y = to_input(geometry, columns / 3, rows / 3)
        assert to_stored(geometry, x, y) == pytest.approx((columns / 3, rows / 3))
        engine = EngineDescription("e", "0" * 64, "b", "fp32", "a", "multilabel", (Label("A"),), spec)
        image = ImageResult("strip.png", radiograph.header, (), (0.9,), "0" * 64)
        result = StudyResult("0" * 16, 1, engine, (image,), (), "", "")
        cams = np.random.default_rng(0).random((1, 8, 8), np.float32)
        drawn = draw_study(result, (ImagePixels(radiograph.display, cams, geometry),))
        for picture in drawn.pictures.values():
            assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) is not None


@strips
@pytest.mark.parametrize(("height", "width"), [(40, 700), (700, 40), (60, 1024)])
def test_the_middle_that_is_cut_first_is_that_of_the_whole(height: int, width: int) -> None:
    """Compared with a cut of everything enlarged, which is what smaller strips get."""
    display = cv2.GaussianBlur(blobs(height, width, bits=8), (0, 0), 3)
    scale = 96 / min(height, width)
    whole = cv2.resize(display, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
    top, left = (whole.shape[0] - 96) // 2, (whole.shape[1] - 96) // 2
    expected = whole[top : top + 96, left : left + 96]
    assert max(height, width) / min(height, width) > _LARGEST_CUT
    found = fit_image(np.asarray(display, np.uint8), InputSpec(96, "crop"), height, width)[0][0]
    assert np.abs(found.astype(int) - expected).max() <= 2


@strips
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize(("rows", "columns"), [(64, 40_000), (40_000, 64)])
def test_encoded_strips_have_an_outcome(tmp_path: Path, syntax: Any, rows: int, columns: int) -> None:
    write_dicom(tmp_path / "strip.dcm", pixels=strip(rows, columns), transfer_syntax=syntax, BitsStored=12)
    radiograph = read_radiograph(tmp_path / "strip.dcm", Settings())
    assert check_anatomy(radiograph, Settings()).display.shape == radiograph.display.shape


@strips
@pytest.mark.slow
def test_a_run_over_strips_leaves_nothing_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, (rows, columns) in enumerate([(64, 60_000), (60_000, 64), (64, 64)]):
        write_dicom(tmp_path / "images" / f"{number}.dcm", pixels=strip(rows, columns), BitsStored=12)
    engine = str(write_tiny_bundle(tmp_path / "engines"))
    report = run_quietly(tmp_path / "images", tmp_path / "out", engine=engine, pdf=True, pixel_check=True)
    assert report.exit_code == ExitCode.DONE
    assert report.files == {"scored": 3}
    assert all(row["report_pdf"] for row in read_rows(tmp_path / "out" / "studies.csv"))


# --------------------------------------------------------------------------- any error of any library


class Unheard(Exception):
    """What a library may raise some day."""


ERRORS = [
    SyntaxError("broken PNG file"),
    cv2.error("(-215:Assertion failed) !ssize.empty()"),
    AssertionError(),
    KeyError("x"),
    RecursionError(),
    NotImplementedError(),
    BufferError(),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal"),
    StopIteration(),
    EOFError(),
    OSError("cannot identify image file"),
    Unheard("Doe^Jane"),
    Warning("of a library"),
]


@libraries
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["_decode_with_colour", "display_pixels", "assemble_radiograph"])
def test_an_error_on_bytes_that_were_read_is_a_verdict_that_names_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    (tmp_path / "a.png").write_bytes(png_bytes(blobs(bits=8)))
    monkeypatch.setattr(read_raster, place, fail)
    with pytest.raises(ImageRejected) as caught:
        read_radiograph(tmp_path / "a.png", Settings())
    assert caught.value.reason is Reason.UNREADABLE_PIXELS
    assert f"({type(error).__name__})" in caught.value.message
    assert "Doe" not in str(caught.value)


@libraries
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_on_a_header_that_was_read_is_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    (tmp_path / "a.png").write_bytes(png_bytes(blobs(bits=8)))
    monkeypatch.setattr(read, "inspect_raster", fail)
    rejection = index_file(tmp_path, ImageFile("a.png", 0, 0), Settings()).rejection
    assert rejection is not None
    assert rejection.reason is Reason.UNREADABLE_HEADER


@libraries
def test_a_lack_of_memory_says_nothing_about_the_file() -> None:
    for error in (MemoryError(), no_memory_of_opencv()):
        with pytest.raises(MemoryError), refusing_malformed(Reason.UNREADABLE_PIXELS, "damaged"):
            raise error


def no_memory_of_opencv() -> cv2.error:
    error = cv2.error("Failed to allocate 1000000000000 bytes")
    error.code = -4
    return error


@libraries
def test_a_disk_that_fails_says_nothing_about_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(blobs(bits=8)))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Input/output"):
        read_radiograph(tmp_path / "a.png", Settings())
    with pytest.raises(OSError, match="Input/output"):
        index_file(tmp_path, ImageFile("a.png", 0, 0), Settings())
