from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, strategies as st

from cxrbatch.errors import ImageRejected
from cxrbatch.intake.codecs.jpeg import decode_jpeg
from cxrbatch.intake.codecs.lossless_jpeg import check_entropy_coded_length
from tests.factories.encoded import lossless_jpeg

pytestmark = pytest.mark.hostile("9.3 damaged pixels")


@given(
    bits=st.integers(9, 16),
    predictor=st.integers(1, 7),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    restart_rows=st.integers(0, 4),
    shift=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_whole_frames_of_every_kind_have_as_many_bits_as_their_pixels(
    bits: int, predictor: int, rows: int, columns: int, restart_rows: int, shift: int, seed: int
) -> None:
    samples = np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns)).astype(np.uint16)
    frame = lossless_jpeg(samples, bits=bits, predictor=predictor, restart_rows=restart_rows, shift=shift)
    np.testing.assert_array_equal(decode_jpeg(frame), samples >> shift << shift)


@pytest.mark.parametrize("restart_rows", [0, 4])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_a_missing_piece_is_noticed_with_every_predictor(predictor: int, restart_rows: int) -> None:
    samples = np.random.default_rng(1).integers(0, 4096, (32, 32)).astype(np.uint16)
    frame = lossless_jpeg(samples, bits=12, predictor=predictor, restart_rows=restart_rows)
    with pytest.raises(ImageRejected):
        decode_jpeg(frame[:800] + frame[820:])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_images_of_more_than_one_block_are_counted_whole(bits: int) -> None:
    samples = np.random.default_rng(2).integers(0, 1 << bits, (1500, 1000)).astype(np.uint8 if bits == 8 else np.uint16)
    frame = bytes(imagecodecs.jpeg_encode(samples, lossless=True, predictor=6, bitspersample=bits))
    np.testing.assert_array_equal(decode_jpeg(frame), samples)


def test_colours_have_their_own_tables() -> None:
    samples = np.random.default_rng(3).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    frame = bytes(imagecodecs.jpeg_encode(samples, lossless=True, predictor=1))
    check_entropy_coded_length(frame, np.asarray(imagecodecs.jpeg_decode(frame)))


def test_pixels_that_no_code_stands_for_were_made_up() -> None:
    flat = np.full((64, 64), 100, np.uint8)
    frame = bytes(imagecodecs.jpeg_encode(flat, lossless=True, predictor=1))
    flat[30, 30] = 200
    with pytest.raises(ImageRejected):
        check_entropy_coded_length(frame, flat)
