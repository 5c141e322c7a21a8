"""Where the lungs roughly lie: told of phantoms, whose lungs are known, and of nothing that is no chest."""

from __future__ import annotations

import numpy as np
import pytest

from cxrbatch.intake.lungs import Lungs, find_lungs
from cxrbatch.phantom.anatomy import SIDES, Side, Stream, draw_patient, lung_outline, open_stream
from cxrbatch.phantom.draw import _pose, draw_phantom
from cxrbatch.phantom.pictures import windowed
from cxrbatch.records import Gray8

SEEDS = (900_000_000, 900_000_004, 900_000_009, 900_000_020)
SIZE_PX = 256


def phantom(seed: int) -> Gray8:
    return windowed(draw_phantom(seed, rows=SIZE_PX, findings=()))


def middle_of_lung(seed: int, side: Side) -> tuple[float, float]:
    """Return the middle of a phantom's lung, as shares of the image's sides."""
    patient = draw_patient(open_stream(seed, Stream.PATIENT))
    outline = lung_outline(patient, side)
    grid = _pose(open_stream(seed, Stream.POSE), patient, SIZE_PX, SIZE_PX)
    across, down = grid.to_px(np.array([(outline[:, 0].min() + outline[:, 0].max()) / 2, patient.dome(side) / 2]))
    return float(across) / SIZE_PX, float(down) / SIZE_PX


@pytest.mark.parametrize("seed", SEEDS)
def test_the_middle_of_each_lung_is_its_mid_zone(seed: int) -> None:
    lungs = find_lungs(phantom(seed))
    assert lungs is not None
    for side, half in zip(SIDES, ("image_left", "image_right"), strict=True):
        assert lungs.place(*middle_of_lung(seed, side)) == (half, "mid")


def test_a_mirrored_image_has_its_lungs_mirrored() -> None:
    display = phantom(SEEDS[0])
    as_is, mirrored = find_lungs(display), find_lungs(np.ascontiguousarray(display[:, ::-1]))
    assert as_is is not None
    assert mirrored is not None
    assert mirrored.midline == pytest.approx(1 - as_is.midline, abs=0.04)
    assert (mirrored.top, mirrored.bottom) == pytest.approx((as_is.top, as_is.bottom), abs=0.08)


def test_of_what_is_no_chest_nothing_is_said() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (SIZE_PX, SIZE_PX)).astype(np.uint8)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis], 256, axis=0)
    for display in (noise, ramp, np.zeros((64, 64), np.uint8), 255 - phantom(SEEDS[0])):
        assert find_lungs(display) is None


def test_places_are_thirds_and_what_is_near_belongs_to_the_nearest() -> None:
    lungs = Lungs(midline=0.5, half_width=0.4, top=0.1, bottom=0.7, fit=1)
    assert lungs.place(0.3, 0.2) == ("image_left", "upper")
    assert lungs.place(0.3, 0.4) == ("image_left", "mid")
    assert lungs.place(0.7, 0.69) == ("image_right", "lower")
    assert lungs.place(0.5, 0.4) == "between"
    assert lungs.place(0.95, 0.75) == ("image_right", "lower")
    assert lungs.place(0.3, 0.99) == "outside"
    assert lungs.place(1.1, 0.4) == "outside"
