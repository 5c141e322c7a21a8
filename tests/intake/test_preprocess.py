import numpy as np
import pytest
from hypothesis import given, strategies as st

from cxrbatch.intake.preprocess import fit_image, prepare
from cxrbatch.records import Fit, Gray8, Header, InputSpec, Radiograph
from tests.factories.geometry import to_input, to_stored
from tests.factories.intake import blobs

FITS: tuple[Fit, ...] = ("pad", "crop", "stretch")
sides = st.integers(64, 4000)


def empty_display(rows: int, columns: int) -> Gray8:
    scale = min(1.0, 256 / max(rows, columns))
    return np.zeros((max(1, round(rows * scale)), max(1, round(columns * scale))), np.uint8)


@given(sides, sides, st.sampled_from(FITS), st.integers(32, 512), st.floats(0, 1), st.floats(0, 1))
def test_every_stored_point_comes_back(rows: int, columns: int, fit: Fit, size_px: int, x: float, y: float) -> None:
    _, geometry = fit_image(empty_display(rows, columns), InputSpec(size_px, fit), rows, columns)
    there = to_input(geometry, x * columns, y * rows)
    back = to_stored(geometry, *there)
    assert back == pytest.approx((x * columns, y * rows), abs=1e-6)


@given(sides, sides, st.integers(32, 512))
def test_pad_keeps_all_of_the_image_inside(rows: int, columns: int, size_px: int) -> None:
    _, geometry = fit_image(empty_display(rows, columns), InputSpec(size_px, "pad"), rows, columns)
    for corner in ((0, 0), (columns, rows)):
        assert all(-1e-9 <= value <= size_px + 1e-9 for value in to_input(geometry, *corner))


@given(sides, sides, st.integers(32, 512))
def test_crop_fills_the_square(rows: int, columns: int, size_px: int) -> None:
    _, geometry = fit_image(empty_display(rows, columns), InputSpec(size_px, "crop"), rows, columns)
    left, top = to_stored(geometry, 0, 0)
    right, bottom = to_stored(geometry, size_px, size_px)
    assert left >= -1e-6
    assert top >= -1e-6
    assert right <= columns + 1e-6
    assert bottom <= rows + 1e-6


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("rows", "columns"), [(900, 700), (700, 900), (500, 500), (200, 150)])
@pytest.mark.parametrize("size_px", [128, 224, 333])
def test_a_bright_dot_lands_where_the_geometry_says(fit: Fit, rows: int, columns: int, size_px: int) -> None:
    display = np.zeros((rows, columns), np.uint8)
    row, column, side = round(rows * 0.55), round(columns * 0.4), 12
    display[row : row + side, column : column + side] = 255
    pixels, geometry = fit_image(display, InputSpec(size_px, fit), rows, columns)
    weights = pixels[0].astype(float)
    center_x = (weights.sum(0) @ (np.arange(size_px) + 0.5)) / weights.sum()
    center_y = (weights.sum(1) @ (np.arange(size_px) + 0.5)) / weights.sum()
    assert (center_x, center_y) == pytest.approx(to_input(geometry, column + side / 2, row + side / 2), abs=0.6)


def test_geometry_speaks_of_stored_pixels_not_of_the_display() -> None:
    display = np.zeros((512, 400), np.uint8)
    _, geometry = fit_image(display, InputSpec(256, "pad"), rows=2048, columns=1600)
    assert to_input(geometry, 0, 0) == (28, 0)
    assert to_input(geometry, 1600, 2048) == (228, 256)
    assert to_stored(geometry, 128, 128) == (800, 1024)


def test_pad_is_black_on_both_sides() -> None:
    pixels, _ = fit_image(np.full((200, 100), 200, np.uint8), InputSpec(100, "pad"), 200, 100)
    assert pixels.shape == (1, 100, 100)
    assert pixels.dtype == np.uint8
    assert pixels[0, 50].tolist() == [0] * 25 + [200] * 50 + [0] * 25


def test_crop_takes_the_middle() -> None:
    display = np.repeat(np.array([10, 20, 30, 40], np.uint8), 50)[np.newaxis].repeat(100, axis=0)
    pixels, _ = fit_image(display, InputSpec(100, "crop"), 100, 200)
    assert pixels[0, 0].tolist() == [20] * 50 + [30] * 50


def test_prepare_is_deterministic_and_keeps_the_radiograph() -> None:
    radiograph = Radiograph(
        Header(rows=640, columns=512), blobs(320, 256, bits=8).astype(np.uint8), 640, 512, (), "", ""
    )
    first, second = (prepare(radiograph, InputSpec(128)) for _ in range(2))
    assert first.radiograph is radiograph
    assert first.geometry.rows == 640
    np.testing.assert_array_equal(first.pixels, second.pixels)
