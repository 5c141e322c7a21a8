from __future__ import annotations

import numpy as np
import pytest

from cxrbatch.output.report.heatmap import (
    FAINT_LOGITS,
    activation_on_display,
    colour_scale,
    draw_heatmap,
    find_peak,
    is_faint,
    peak_in_stored,
)
from cxrbatch.records import CellGrid, Fit, Float32
from tests.factories.geometry import to_stored
from tests.factories.output import make_cam, make_geometry


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("rows", "columns"), [(2000, 1600), (1600, 2000), (1024, 1024)])
def test_peak_lands_where_geometry_says(fit: Fit, rows: int, columns: int) -> None:
    geometry = make_geometry(rows, columns, fit)
    row, column = 2, 4
    activation = activation_on_display(make_cam(row=row, column=column), geometry, (rows // 2, columns // 2))
    expected = to_stored(geometry, (column + 0.5) * geometry.size_px / 7, (row + 0.5) * geometry.size_px / 7)
    # One display pixel is two stored ones.
    assert peak_in_stored(activation, geometry) == pytest.approx(expected, abs=2.01)


def test_a_cell_in_the_corner_covers_the_corner_of_the_radiograph() -> None:
    cam = np.full((7, 7), -1, np.float32)
    cam[0, 6] = 3
    activation = activation_on_display(cam, make_geometry(700, 700), (350, 350))
    assert activation[24:26, 324:326] == pytest.approx(np.full((2, 2), 3), abs=0.06)
    assert activation[:25, -25:].min() > 2.9
    assert activation[130:, :].max() == 0


def test_values_at_cell_centres_are_those_of_the_map() -> None:
    cam = np.random.default_rng(1).uniform(0, 5, (5, 5)).astype(np.float32)
    activation = activation_on_display(cam, make_geometry(125, 125), (125, 125))
    np.testing.assert_allclose(activation[12::25, 12::25], cam, rtol=1e-5)


def test_a_constant_map_stays_constant() -> None:
    activation = activation_on_display(np.full((7, 7), 2, np.float32), make_geometry(600, 512, "stretch"), (300, 256))
    np.testing.assert_allclose(activation, 2, rtol=1e-6)


def test_outside_a_centre_crop_there_is_no_evidence() -> None:
    activation = activation_on_display(np.ones((7, 7), np.float32), make_geometry(1000, 500, "crop"), (500, 250))
    assert activation[:124].max() == 0
    assert activation[126:374].min() == pytest.approx(1)
    assert activation[376:].max() == 0


def test_evidence_against_a_finding_is_not_drawn() -> None:
    activation = activation_on_display(np.full((7, 7), -4, np.float32), make_geometry(300, 300), (300, 300))
    assert activation.max() == 0
    assert is_faint(activation)
    assert peak_in_stored(activation, make_geometry(300, 300)) == (150, 150)


def test_a_faint_map_leaves_the_radiograph_as_it_is() -> None:
    display = np.arange(10000, dtype=np.uint8).reshape(100, 100)
    overlay = draw_heatmap(display, np.full((100, 100), FAINT_LOGITS / 2, np.float32))
    for channel in range(3):
        np.testing.assert_array_equal(overlay[:, :, channel], display)


def test_the_overlay_colours_the_peak_and_spares_what_is_far_from_it() -> None:
    display = np.full((700, 700), 90, np.uint8)
    activation = activation_on_display(make_cam(row=3, column=3), make_geometry(700, 700), display.shape)
    overlay = draw_heatmap(display, activation)
    assert overlay.shape == (700, 700, 3)
    assert overlay.dtype == np.uint8
    np.testing.assert_array_equal(overlay[:80, :80], 90)
    red, green, blue = overlay[350, 370].astype(int)
    assert red > 130
    assert red > green > blue


def test_only_the_shape_of_a_map_matters_for_its_colours() -> None:
    display = np.full((350, 350), 60, np.uint8)
    cam = make_cam(row=2.3, column=3.1)
    weak, strong = (
        draw_heatmap(display, activation_on_display(cam * factor, make_geometry(350, 350), display.shape))
        for factor in (np.float32(1), np.float32(8))
    )
    np.testing.assert_array_equal(weak, strong)


def test_anatomy_stays_visible_under_the_peak() -> None:
    stripes = np.tile(np.repeat(np.array([60, 160], np.uint8), 5), (700, 70))
    activation = activation_on_display(np.full((7, 7), 5, np.float32), make_geometry(700, 700), stripes.shape)
    overlay = draw_heatmap(stripes, activation).astype(int)
    assert np.ptp(overlay[350, 340:360], axis=0).min() >= 50


def test_the_colour_scale_runs_from_black_to_bright() -> None:
    scale = colour_scale(5)
    assert scale[0] == "rgb(0,0,0)"
    red, green, _ = map(int, scale[-1].removeprefix("rgb(").removesuffix(")").split(","))
    assert red > 200
    assert green > 180


# --------------------------------------------------------------------------- where the cells lie

RESNET, INCEPTION = CellGrid(0.5, 0.5, 32, 32), CellGrid(37.5, 37.5, 32, 32)


def one_cell(row: int, column: int, cells: int = 7) -> Float32:
    cam = np.zeros((cells, cells), np.float32)
    cam[row, column] = 5
    return cam


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize(("grid", "n_cells"), [(RESNET, 7), (INCEPTION, 5), (CellGrid(10, 60, 40, 25), 5)])
def test_the_peak_of_every_cell_is_drawn_at_its_centre(fit: Fit, grid: CellGrid, n_cells: int) -> None:
    geometry = make_geometry(448, 448, fit)
    for row, column in np.ndindex(n_cells, n_cells):
        activation = activation_on_display(one_cell(row, column, n_cells), geometry, (448, 448), grid)
        centre = grid.origin_x + column * grid.stride_x, grid.origin_y + row * grid.stride_y
        # Outermost cells too, whose height goes on to the border: neither border nor undershoot attracts the peak.
        assert peak_in_stored(activation, geometry) == pytest.approx(to_stored(geometry, *centre), abs=1.01)


def test_beyond_the_outermost_cells_the_nearest_one_counts() -> None:
    cam = np.arange(49, dtype=np.float32).reshape(7, 7)
    activation = activation_on_display(cam, make_geometry(224, 224), (224, 224), RESNET)
    # Columns of a ResNet lie at 0.5, 32.5, ... 192.5: a margin of most of a cell is left at the far side.
    np.testing.assert_allclose(activation[::32, ::32], cam, atol=1e-4)
    np.testing.assert_allclose(activation[::32, 192:], np.repeat(cam[:, 6:], 32, axis=1), atol=1e-4)
    narrow = activation_on_display(cam[:5, :5], make_geometry(224, 224), (224, 224), INCEPTION)
    np.testing.assert_allclose(narrow[:38, :38], cam[0, 0], atol=1e-4)
    np.testing.assert_allclose(narrow[165:, 165:], cam[4, 4], atol=1e-4)


def test_a_grid_far_outside_of_the_square_draws_its_nearest_cell() -> None:
    cam = np.arange(4, dtype=np.float32).reshape(2, 2) + 1
    activation = activation_on_display(cam, make_geometry(64, 64), (64, 64), CellGrid(5000, -5000, 32, 32))
    np.testing.assert_allclose(activation, 3)


@pytest.mark.parametrize(("side", "radius"), [(448, 4), (1024, 9), (2048, 18)])
def test_the_ring_is_drawn_at_the_peak_and_takes_the_same_share_of_every_picture(side: int, radius: int) -> None:
    display = np.zeros((side, side), np.uint8)
    activation = activation_on_display(one_cell(6, 6), make_geometry(448, 448), display.shape, RESNET)
    row, column = find_peak(activation)
    assert (row, column) == pytest.approx((384.5 * side / 448, 384.5 * side / 448), abs=side / 448)
    overlay = draw_heatmap(display, activation)
    # To the lower right all is as high as the peak: the ring is where the cell's centre is, in the line's light colour.
    for down, across in ((-radius, 0), (0, -radius), (radius, 0), (0, radius)):
        assert overlay[row + down, column + across].min() > 150


@pytest.mark.parametrize("side", [512, 1024, 2048])
def test_the_line_is_as_wide_in_every_picture_as_long_as_pixels_allow(side: int) -> None:
    hill = np.zeros((7, 7), np.float32)
    hill[:, :3] = 5
    geometry = make_geometry(side, side)
    overlay = draw_heatmap(np.zeros((side, side), np.uint8), activation_on_display(hill, geometry, (side, side)))
    # Along a row far from the ring the line is crossed once.
    light = np.count_nonzero(overlay[side // 7].min(axis=1) > 150)
    assert light / side == pytest.approx(4.5 / 1024, abs=0.6 / 1024)
