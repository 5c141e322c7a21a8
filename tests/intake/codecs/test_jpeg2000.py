"""JPEG 2000 is decoded at a fraction of its size; a score must not notice (gate: 0.01 of a probability).

The same is measured with a real engine by `make bench-intake BENCH_INTAKE_ARGS="--engine NAME"`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless

from cxrbatch.config import Settings
from cxrbatch.intake.codecs.jpeg2000 import ENOUGH
from cxrbatch.intake.preprocess import prepare, reading_for
from cxrbatch.intake.read import read_radiograph
from cxrbatch.phantom.draw import draw_phantom
from cxrbatch.records import Gray8, InputSpec, Radiograph
from tests.factories.intake import blobs, write_dicom

GATE = 0.01
# An engine's input beside the display image, as 224 pixels beside 1024; smaller, so that small images do.
DISPLAY_PX, SPEC = 512, InputSpec(size_px=112)
SHARED = os.environ.get("CXRBATCH_SHARED_DATA", "")


def reduced_and_whole(path: Path) -> tuple[Radiograph, Radiograph]:
    """Read an image as a run does, and the same with the decoder's reduction switched off."""
    settings = Settings(max_display_px=DISPLAY_PX, pixel_check=False)
    reduced = read_radiograph(path, settings, source_px=DISPLAY_PX)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cxrbatch.intake.dicom.pixel_data.reducible_levels", lambda *_: 0)
        whole = read_radiograph(path, settings, source_px=DISPLAY_PX)
    assert ENOUGH * max(whole.display.shape) <= max(reduced.display.shape) <= max(whole.display.shape)
    assert reduced.display_sha256 != whole.display_sha256, "the image is large enough to be reduced while decoding"
    return reduced, whole


def small_engine(pixels: Gray8) -> NDArray[Any]:
    """Score like a network: 32 random 7x7 filters at two scales, rectified, averaged; eight sigmoids of them."""
    random = np.random.default_rng(0)
    unit = pixels.astype(np.float32) / 255
    features = []
    for scale in (1, 2):
        shown = cv2.resize(unit, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        for _ in range(32):
            kernel = random.normal(0, 1, (7, 7)).astype(np.float32)
            features.append(np.maximum(cv2.filter2D(shown, -1, kernel - kernel.mean()), 0).mean())
    values = np.array(features)
    logits = random.normal(0, 1, (8, len(values))) @ ((values - values.mean()) / values.std())
    return np.asarray(1 / (1 + np.exp(-logits / 4)))


def change(path: Path) -> float:
    """Return by how much a probability moves at most."""
    scores = [small_engine(prepare(image, SPEC).pixels[0]) for image in reduced_and_whole(path)]
    assert scores[0].std() > 0.1, "the engine tells something"
    return float(np.abs(scores[0] - scores[1]).max())


def test_the_small_engine_notices_an_image_that_is_less_sharp_or_has_other_contrast() -> None:
    shown = np.asarray(cv2.resize(draw_phantom(3, rows=512).stored / 16, (112, 112)), np.uint8)
    for changed in (cv2.GaussianBlur(shown, (5, 5), 0), np.minimum(shown, 150)):
        assert np.abs(small_engine(shown) - small_engine(np.asarray(changed, np.uint8))).max() > GATE


@pytest.mark.parametrize("rows", [1024, 1025, 2048, 2049], ids=["half", "half, odd", "quarter", "quarter, odd"])
def test_a_reduced_image_is_not_shifted(tmp_path: Path, rows: int) -> None:
    pixels = blobs(rows=rows, columns=rows)
    look = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
    path = write_dicom(tmp_path / "image", pixels=pixels, transfer_syntax=JPEG2000Lossless, **look)
    reduced, whole = (shown.display.astype(np.float32) for shown in reduced_and_whole(path))
    half = DISPLAY_PX // 2
    for part in np.s_[:half, :half], np.s_[:half, half:], np.s_[half:, :half], np.s_[half:, half:]:
        for slope in np.gradient(whole[part]):
            shift = (slope * (whole - reduced)[part]).sum() / (slope**2).sum()
            assert abs(shift) < 0.03


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("seed", range(4))
def test_phantoms_score_alike(tmp_path: Path, seed: int, syntax: Any) -> None:
    phantom = draw_phantom(seed, rows=1024)
    look = {"WindowCenter": phantom.window_center, "WindowWidth": phantom.window_width, "BitsStored": 12}
    path = write_dicom(tmp_path / "image", pixels=phantom.stored, transfer_syntax=syntax, **look)
    assert change(path) <= GATE


@pytest.mark.parametrize("rows", [922, 1023])
def test_a_half_that_is_little_less_than_wanted_scores_alike(tmp_path: Path, rows: int) -> None:
    phantom = draw_phantom(1, rows=rows)
    look = {"WindowCenter": phantom.window_center, "WindowWidth": phantom.window_width, "BitsStored": 12}
    path = write_dicom(tmp_path / "image", pixels=phantom.stored, transfer_syntax=JPEG2000Lossless, **look)
    assert max(reduced_and_whole(path)[0].display.shape) == -(-rows // 2)
    assert change(path) <= GATE


@pytest.mark.parametrize(
    ("rows", "half", "quarter"), [(1232, 616, 308), (1200, 600, 600), (977, 489, 489), (2500, 625, 313)]
)
def test_a_quarter_is_read_where_somebody_asks_and_it_is_large_enough(
    tmp_path: Path, rows: int, half: int, quarter: int
) -> None:
    pixels = blobs(rows=rows, columns=100)
    path = write_dicom(tmp_path / "image", pixels=pixels, transfer_syntax=JPEG2000Lossless, BitsStored=12)
    usual = Settings(max_display_px=2048, pixel_check=False)
    for settings, read in ((usual, half), (replace(usual, jpeg2000="quarter"), quarter)):
        radiograph = read_radiograph(path, settings, source_px=DISPLAY_PX)
        # What is read larger than wanted is reduced to that.
        assert radiograph.judged.shape[0] == min(read, DISPLAY_PX)
        # A larger display is decoded by itself, as ever.
        assert radiograph.display.shape[0] == min(rows, 2048)


def test_an_input_larger_than_a_quarter_is_made_of_a_half() -> None:
    asked = Settings(jpeg2000="quarter")
    assert reading_for(asked, InputSpec(512)) is asked
    assert reading_for(asked, InputSpec(614)) is asked
    assert reading_for(asked, InputSpec(640)).jpeg2000 == "half"


def test_a_quarter_scores_nearly_alike(tmp_path: Path) -> None:
    phantom = draw_phantom(1, rows=1232)
    look = {"WindowCenter": phantom.window_center, "WindowWidth": phantom.window_width, "BitsStored": 12}
    path = write_dicom(tmp_path / "image", pixels=phantom.stored, transfer_syntax=JPEG2000Lossless, **look)
    choices = (Settings(pixel_check=False), Settings(pixel_check=False, jpeg2000="quarter"))
    images = [read_radiograph(path, each, source_px=DISPLAY_PX) for each in choices]
    assert [max(image.judged.shape) for image in images] == [512, 308]
    half, quarter = (small_engine(prepare(image, SPEC).pixels[0]) for image in images)
    assert 0 < np.abs(half - quarter).max() <= GATE


@pytest.mark.skipif(not SHARED, reason="CXRBATCH_SHARED_DATA is not set")
@pytest.mark.parametrize("number", range(0, 120, 12))
def test_real_images_score_alike(tmp_path: Path, number: int) -> None:
    source = sorted((Path(SHARED) / "nih1024").rglob("*.png"))[number]
    pixels = np.asarray(cv2.imread(str(source), cv2.IMREAD_GRAYSCALE), np.uint8)
    path = write_dicom(tmp_path / "image", pixels=pixels, transfer_syntax=JPEG2000Lossless)
    assert change(path) <= GATE


@pytest.mark.skipif(not SHARED, reason="CXRBATCH_SHARED_DATA is not set")
def test_a_real_jpeg_2000_image_scores_alike() -> None:
    assert change(Path(SHARED) / "dicom" / "chest" / "rg1_cr_pa_mono1_15bit_j2k.dcm") <= GATE
