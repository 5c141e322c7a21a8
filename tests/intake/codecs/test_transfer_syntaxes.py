import os
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.intake.codecs import Codestream
from cxrbatch.intake.codecs.jpeg2000 import reduced_size, reducible_levels
from cxrbatch.intake.codecs.transfer_syntaxes import (
    ENCAPSULATED,
    PLUGIN,
    REDUCE_OPTION,
    is_whole,
    read_codestream,
    register_plugin,
)
from tests.factories.encoded import Pixels
from tests.factories.intake import blobs, dataset, jpeg_bytes

SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere")) / "dicom" / "transfer_syntaxes"
needs_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="CXRBATCH_SHARED_DATA is not set")
LOSSLESS = [JPEG2000Lossless, HTJ2KLossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless]


def decode(made: Dataset, **options: Any) -> Pixels:
    decoder = get_decoder(made.file_meta.TransferSyntaxUID)
    return decoder.as_array(made, index=0, raw=True, decoding_plugin=PLUGIN, **options)[0]


def test_registering_twice_is_harmless_and_covers_every_syntax() -> None:
    register_plugin()
    register_plugin()
    assert all(PLUGIN in get_decoder(uid).available_plugins for uid in ENCAPSULATED)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_lossless_syntaxes_are_bit_equal(syntax: UID, bits: int) -> None:
    pixels = blobs(bits=bits)
    np.testing.assert_array_equal(decode(dataset(pixels, transfer_syntax=syntax)), pixels)


@needs_shared_data
@pytest.mark.parametrize("name", ["RG3_RLE", "RG3_JLSL", "RG3_JPLL"])
def test_the_nema_radiograph_is_bit_equal_in_lossless_syntaxes(name: str) -> None:
    reference = pydicom.dcmread(SHARED / "RG3_UNC").pixel_array
    np.testing.assert_array_equal(decode(pydicom.dcmread(SHARED / name)), reference)


@needs_shared_data
@pytest.mark.parametrize(("name", "tolerance"), [("RG3_JLSN", 4), ("RG3_JPLY", 48)])
def test_the_nema_radiograph_is_close_in_lossy_syntaxes(name: str, tolerance: int) -> None:
    reference = pydicom.dcmread(SHARED / "RG3_UNC").pixel_array.astype(int)
    decoded = decode(pydicom.dcmread(SHARED / name), correct_unused_bits=False).astype(int)
    assert np.abs(decoded - reference).max() == tolerance


@pytest.mark.parametrize("level", [1, 2])
def test_a_reduced_jpeg_2000_is_a_small_copy(level: int) -> None:
    pixels = blobs(640, 512, bits=12)
    rows, columns = reduced_size(640, level), reduced_size(512, level)
    made = dataset(pixels, transfer_syntax=JPEG2000Lossless)
    decoder = get_decoder(JPEG2000Lossless)
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        REDUCE_OPTION: level,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": 16,
        "bits_stored": 12,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
    }
    small, _ = decoder.as_array(made.PixelData, index=0, raw=True, validate=False, decoding_plugin=PLUGIN, **options)
    blocks = pixels.reshape(rows, 1 << level, columns, 1 << level).mean(axis=(1, 3))
    assert np.abs(small.astype(float) - blocks).mean() < 2


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000, HTJ2KLossless, JPEGLSLossless, JPEGLosslessSV1])
def test_the_codestream_says_its_size(syntax: UID) -> None:
    frame = get_frame(dataset(blobs(200, 160), transfer_syntax=syntax).PixelData, 0, number_of_frames=1)
    codestream = read_codestream(bytes(frame), syntax)
    assert codestream is not None
    assert (codestream.rows, codestream.columns, codestream.components) == (200, 160, 1)


def test_the_codestream_of_a_colour_jpeg_has_three_components() -> None:
    frame = jpeg_bytes(np.zeros((64, 80, 3), np.uint8))
    assert read_codestream(frame, JPEGBaseline8Bit) == Codestream(64, 80, 3, 8)


def test_a_jp2_file_inside_a_frame_is_read_too() -> None:
    frame = imagecodecs.jpeg2k_encode(blobs(200, 160), codecformat="jp2")
    codestream = read_codestream(bytes(frame), JPEG2000)
    assert codestream is not None
    assert (codestream.rows, codestream.columns) == (200, 160)


def test_rle_has_no_header_of_its_own() -> None:
    assert read_codestream(b"\0" * 64, RLELossless) is None


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x04ab", b"\0" * 200])
@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000])
def test_garbage_is_a_value_or_index_error(frame: bytes, syntax: UID) -> None:
    with pytest.raises((ValueError, IndexError, struct.error)):
        read_codestream(frame, syntax)


@pytest.mark.parametrize(
    ("rows", "columns", "limit", "expected"),
    [(2464, 2022, 1024, 1), (1842, 100, 1024, 0), (1844, 100, 1024, 1), (8192, 100, 1024, 3), (900, 900, 1024, 0),
     (3686, 100, 1024, 1), (3688, 100, 1024, 2)],
)  # fmt: skip
def test_the_long_side_stays_at_nine_tenths_of_what_is_wanted(
    rows: int, columns: int, limit: int, expected: Any
) -> None:
    assert reducible_levels(Codestream(rows, columns, 1, 12, levels=5), 0.9 * limit) == expected


def test_reduction_stops_at_what_the_codestream_holds() -> None:
    assert reducible_levels(Codestream(8192, 8192, 1, 12, levels=1), 1024) == 1
    assert reducible_levels(Codestream(8192, 8192, 1, 12, is_signed=True, levels=5), 1024) == 0
    assert reducible_levels(Codestream(8192, 8192, 1, 12), 1024) == 0


def test_a_jpeg_without_its_end_is_not_whole() -> None:
    frame = jpeg_bytes(blobs(bits=8))
    assert is_whole(frame, JPEGBaseline8Bit)
    assert is_whole(frame + b"\0", JPEGBaseline8Bit)
    assert not is_whole(frame[:-40], JPEGBaseline8Bit)
