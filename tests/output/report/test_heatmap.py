from __future__ import annotations

import numpy as np
import pytest

from cxrbatch.output.report.heatmap import (
    FAINT_LOGITS,
    activation_on_display,
    colour_scale,
    draw_heatmap,
    is_faint,
    peak_in_stored,
)
from cxrbatch.records import Fit
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
