from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from cxrbatch.errors import Flag
from cxrbatch.intake.display import Displayed, display_pixels, find_padding, mask_unused_bits, reduce_pixels
from cxrbatch.intake.pixel_look import Lut, PixelLook, Window, WindowFunction, apply_lut, apply_modality, apply_window
from tests.factories.encoded import Pixels
from tests.factories.intake import dataset, lut_item

RAMP12 = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def displayed(pixels: Pixels, **look: Any) -> Displayed:
    return display_pixels(pixels, PixelLook(**{"bits_stored": 12, **look}), 1024)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (700.5, 333), (0, 1000), (3000, 2)])
def test_a_window_is_that_of_pydicom_at_every_level(function: WindowFunction, center: float, width: float) -> None:
    made = dataset(RAMP12, WindowCenter=center, WindowWidth=width, VOILUTFunction=function, BitsStored=12)
    with np.errstate(over="ignore"):  # pydicom lets exp overflow far below the centre
        expected = apply_voi_lut(RAMP12, made) * (255 / 4095)
    ours = apply_window(RAMP12.astype(np.float64), Window(center, width, function))
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_linear_follows_the_example_of_the_standard() -> None:
    """PS3.3 C.11.2.1.2.1: width 1 is a step at center - 0.5; the window of full range leaves values alone."""
    step = apply_window(np.array([99.0, 99.5, 100.0]), Window(100, 1))
    assert step.tolist() == [0, 0, 255]
    full = apply_window(np.arange(256, dtype=np.float64), Window(128, 256))
    np.testing.assert_allclose(full, np.arange(256), atol=1e-9)


@pytest.mark.parametrize(
    ("window", "usable"),
    [
        (Window(10, 1), True),
        (Window(10, 0.5), False),
        (Window(10, 0), False),
        (Window(10, float("nan")), False),
        (Window(float("nan"), 10), False),
        (Window(10, 0.5, "LINEAR_EXACT"), True),
        (Window(10, 0, "SIGMOID"), False),
        (Window(10, -5, "LINEAR_EXACT"), False),
    ],
)
def test_windows_that_the_standard_does_not_define_are_not_used(window: Window, usable: bool) -> None:
    assert window.is_usable is usable


def test_a_modality_lut_is_that_of_pydicom() -> None:
    entries = np.linspace(0, 65535, 1000).astype(np.uint16)[::-1]
    made = dataset(RAMP12, ModalityLUTSequence=lut_item(entries, first=100, bits=16))
    expected = apply_modality_lut(RAMP12, made)
    look = PixelLook(bits_stored=12, modality_lut=Lut(100, entries, 16))
    np.testing.assert_array_equal(apply_modality(RAMP12.astype(np.float64), look), expected)


def test_a_voi_lut_is_that_of_pydicom() -> None:
    entries = np.linspace(0, 1023, 2000).astype(np.uint16)
    made = dataset(RAMP12, VOILUTSequence=lut_item(entries, first=1000, bits=10))
    expected = apply_voi_lut(RAMP12, made)
    np.testing.assert_array_equal(apply_lut(RAMP12.astype(np.float64), Lut(1000, entries, 10)), expected)
    result = displayed(RAMP12, voi_lut=Lut(1000, entries, 10))
    np.testing.assert_array_equal(result.display, np.rint(expected * (255 / 1023)).astype(np.uint8))


def test_a_voi_lut_wins_over_a_window() -> None:
    lut = Lut(0, np.arange(4096, dtype=np.uint16), 12)
    both = displayed(RAMP12, voi_lut=lut, window=Window(500, 200))
    np.testing.assert_array_equal(both.display, displayed(RAMP12, voi_lut=lut).display)


def test_the_table_equals_the_formula_at_every_pixel() -> None:
    look = PixelLook(bits_stored=12, slope=0.5, intercept=-100, window=Window(800, 1500, "SIGMOID"), inverse=True)
    shown = display_pixels(RAMP12, look, 1024).display
    plain = 255 - apply_window(RAMP12.astype(np.float64) * 0.5 - 100.0, look.window or Window(0, 1))
    np.testing.assert_array_equal(shown, np.rint(plain).astype(np.uint8))


def test_inverse_turns_black_into_white() -> None:
    window = Window(2048, 4096)
    upright = displayed(RAMP12, window=window).display
    inverse = displayed(RAMP12, window=window, inverse=True).display
    assert (upright[0, 0], upright[-1, -1]) == (0, 255)
    assert np.abs(upright.astype(int) + inverse - 255).max() <= 1


def test_signed_values_with_a_negative_rescale() -> None:
    pixels = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    shown = displayed(pixels, is_signed=True, slope=-1.0, intercept=0.0, window=Window(0, 4096)).display
    assert (shown[0, 0], shown[-1, -1]) == (255, 0)
    assert np.all(np.diff(shown.ravel().astype(int)) <= 0)


@given(st.floats(-5000, 5000), st.floats(1, 9000), st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
def test_every_window_is_monotonous_and_in_range(center: float, width: float, function: WindowFunction) -> None:
    shown = apply_window(np.arange(-4096, 4096, dtype=np.float64), Window(center, width, function))
    assert np.all(np.diff(shown) >= 0)
    assert shown.min() >= 0
    assert shown.max() <= 255


def test_no_window_stretches_the_middle_99_percent() -> None:
    pixels = np.clip(RAMP12, 1000, 1800)
    shown = displayed(pixels).display
    assert (shown.min(), shown.max()) == (0, 255)
    assert abs(int(shown[pixels == 1400][0]) - 128) <= 1


def test_eight_bits_without_a_window_are_shown_as_they_are() -> None:
    pixels = np.arange(40, 200, dtype=np.uint8).reshape(16, 10)
    shown = display_pixels(pixels, PixelLook(bits_stored=8, full_scale=True), 1024)
    np.testing.assert_array_equal(shown.display, pixels)
    assert shown.flags == ()


@pytest.mark.parametrize(
    "window", [Window(9000, 100), Window(-5000, 10), Window(2048, 2_000_000), Window(2048, 0), Window(0, float("nan"))]
)
def test_a_window_that_shows_nothing_is_ignored_and_said_so(window: Window) -> None:
    shown = displayed(RAMP12, window=window)
    assert shown.flags == (Flag.WINDOW_IGNORED,)
    np.testing.assert_array_equal(shown.display, displayed(RAMP12).display)


def test_noise_on_an_empty_image_is_not_stretched() -> None:
    noise = (2000 + np.random.default_rng(0).integers(0, 3, (64, 64))).astype(np.uint16)
    assert np.ptp(displayed(noise).display) <= 1


def test_padding_is_black_and_out_of_the_statistics() -> None:
    pixels = np.clip(RAMP12, 1000, 1800)
    padded = pixels.copy()
    padded[:10] = 4095
    result = displayed(padded, padding=(4095, 4095))
    assert result.display[:10].max() == 0
    assert result.display[10:].max() == 255
    inverse = displayed(padded, padding=(4095, 4095), inverse=True)
    assert inverse.display[:10].max() == 0


def test_padding_may_be_a_range_in_either_order() -> None:
    assert find_padding(RAMP12, (20, 10)).sum() == 11  # type: ignore[union-attr]
    assert find_padding(RAMP12, (5000, 6000)) is None
    assert find_padding(RAMP12, None) is None


def test_padding_does_not_bleed_into_the_image_when_reduced() -> None:
    pixels = np.full((400, 300), 1000, np.uint16)
    pixels[:, :101] = 65535
    values, padded = reduce_pixels(pixels, find_padding(pixels, (65535, 65535)), 100)
    assert padded is not None
    assert set(np.unique(values[~padded])) == {1000}
    assert padded.sum(axis=1).tolist() == [25] * 100


def test_all_padding_is_black() -> None:
    assert displayed(np.full((64, 64), 7, np.uint16), padding=(7, 7)).display.max() == 0


@pytest.mark.parametrize(
    ("shape", "expected"), [((2464, 2022), (1024, 840)), ((999, 1023), (999, 1023)), ((90, 4096), (22, 1024))]
)
def test_the_long_side_is_reduced_to_the_limit_and_never_enlarged(shape: Any, expected: Any) -> None:
    values, _ = reduce_pixels(np.zeros(shape, np.uint16), None, 1024)
    assert values.shape == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, ">u2"])
def test_reducing_averages_areas_of_every_type(dtype: Any) -> None:
    pixels = np.tile(np.array([[10, 30], [50, 70]], dtype), (128, 128))
    values, _ = reduce_pixels(pixels, None, 128)
    assert values.dtype == np.dtype(dtype)
    assert np.unique(values).tolist() == [40]


def test_bits_above_bits_stored_are_dropped() -> None:
    overlay = (RAMP12 | 0xF000).astype(np.uint16)
    np.testing.assert_array_equal(mask_unused_bits(overlay, 12, 11), RAMP12)


def test_bits_below_an_old_high_bit_are_dropped() -> None:
    np.testing.assert_array_equal(mask_unused_bits((RAMP12 << 4 | 0xF).astype(np.uint16), 12, 15), RAMP12)


def test_the_sign_is_extended_from_the_high_bit() -> None:
    stored = np.array([[0x0FFF, 0x0800, 0x07FF]], np.uint16).view(np.int16)
    assert mask_unused_bits(stored, 12, 11).tolist() == [[-1, -2048, 2047]]


def test_clean_pixels_are_not_copied() -> None:
    assert mask_unused_bits(RAMP12, 12, 11) is RAMP12
