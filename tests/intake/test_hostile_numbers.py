"""Numbers in DICOM headers that no device should write: an outcome for each, and a picture where there is one."""

import struct
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.discover import index_file
from cxrbatch.intake.display import display_pixels
from cxrbatch.intake.pixel_look import Lut, PixelLook, Window
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import Header, ImageFile, Radiograph
from cxrbatch.system.record_json import from_json, to_json
from tests.factories.intake import blobs, dataset, jpeg_bytes, lut_item, png_bytes

LOOSE = Settings(pixel_check=False)
IMAGE = blobs(bits=12)
PIXEL_TAG = b"\xe0\x7f\x10\x00O"

numbers = pytest.mark.hostile("9.8 numbers that no device should write")
exports = pytest.mark.hostile("9.9 what archives export")


def raw(keyword: str, value: bytes, vr: str = "") -> RawDataElement:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return RawDataElement(tag, vr or dictionary_VR(tag)[:2], len(value), value, 0, False, True)


def written(folder: Path, *elements: RawDataElement, pixels: Any = IMAGE, **keywords: Any) -> Path:
    """Write an image with elements as they are: pydicom converts what it can, so they are put before the pixels."""
    made = dataset(pixels, **keywords)
    for element in elements:
        made.pop(element.tag, None)
    path = folder / "image.dcm"
    made.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    at = content.rindex(PIXEL_TAG)
    path.write_bytes(content[:at] + b"".join(map(encoded, elements)) + content[at:])
    return path


def encoded(element: RawDataElement) -> bytes:
    """Return an element in Explicit VR Little Endian."""
    assert element.value is not None
    tag, vr = struct.pack("<HH", element.tag.group, element.tag.element), (element.VR or "").encode()
    form = "<2xL" if element.VR == "UN" else "<H"
    return tag + vr + struct.pack(form, len(element.value)) + element.value


def outcome(path: Path) -> Radiograph | Reason:
    """Return what becomes of a file, for index and reading alike; its header survives the ledger."""
    indexed = index_file(path.parent, ImageFile(path.name, 0, 0), LOOSE)
    assert from_json(to_json(indexed.header), Header) == indexed.header
    try:
        radiograph = read_radiograph(path, LOOSE)
    except ImageRejected as rejected:
        assert indexed.rejection is None or indexed.rejection.reason is rejected.reason
        return rejected.reason
    assert indexed.rejection is None
    return radiograph


def shown(path: Path) -> Radiograph:
    found = outcome(path)
    assert isinstance(found, Radiograph), found
    assert found.display.dtype == np.uint8
    return found


NOT_A_NUMBER = [b"nan", b"inf", b"-inf", b"", b" ", b"\\", b"127,5", b"abc", b"\xff\xfe", b"0x10", b"\0\0"]
ODD_NUMBERS = [b"0", b"-0", b"-1", b"1e308", b"-1e308", b"1e-308", b"1e400", b"1\\2", b"9" * 20, b"1" * 400, b"1_0"]


@numbers
@pytest.mark.parametrize(
    "keyword",
    ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit"],
)
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
@pytest.mark.parametrize("value", NOT_A_NUMBER + ODD_NUMBERS)
def test_how_an_image_looks_is_decided_whatever_the_number(
    tmp_path: Path, keyword: str, value: bytes, function: str
) -> None:
    look = {"WindowCenter": 2048, "WindowWidth": 4096, "RescaleSlope": 1, "RescaleIntercept": 0, "BitsStored": 12}
    odd = raw(keyword, value, "DS")
    found = shown(written(tmp_path, odd, VOILUTFunction=function, **look))
    spread = np.percentile(found.display, 99) - np.percentile(found.display, 1)
    # Either the number was used, or it is ignored: never a black, white or grey picture.
    assert spread >= 8, found.flags


@numbers
@pytest.mark.parametrize("value", [b"0", b"1e-300", b"1e300", b"nan", b"0,5", b"1e-9"])
@pytest.mark.parametrize("window", [True, False])
def test_a_window_in_unknown_units_is_ignored_and_said(tmp_path: Path, value: bytes, window: bool) -> None:
    stated = {"WindowCenter": 100, "WindowWidth": 50} if window else {}
    found = shown(written(tmp_path, raw("RescaleSlope", value), RescaleIntercept=0, BitsStored=12, **stated))
    plain = shown(written(tmp_path, BitsStored=12))
    np.testing.assert_array_equal(found.display, plain.display)
    assert (Flag.WINDOW_IGNORED in found.flags) == window


@numbers
def test_an_intercept_without_a_slope_counts(tmp_path: Path) -> None:
    stated = {"WindowWidth": 4096, "BitsStored": 12}
    moved = shown(written(tmp_path, RescaleIntercept=-1000, WindowCenter=1048, **stated))
    np.testing.assert_array_equal(moved.display, shown(written(tmp_path, WindowCenter=2048, **stated)).display)


@numbers
@pytest.mark.parametrize(("first", "last"), [(0, 65535), (-32768, 32767), (65535, 0), (0, 4095)])
def test_padding_that_is_all_of_the_image_is_none(tmp_path: Path, first: int, last: int) -> None:
    padding = [
        raw(keyword, np.array(value, np.int64).astype("<u2").tobytes(), "US")
        for keyword, value in (("PixelPaddingValue", first), ("PixelPaddingRangeLimit", last))
    ]
    found = shown(written(tmp_path, *padding, BitsStored=12))
    np.testing.assert_array_equal(found.display, shown(written(tmp_path, BitsStored=12)).display)


ODD_SIZES = {
    "text": (b"320.0", "DS"),
    "text with blanks": (b" 320 ", "IS"),
    "negative": (b"-320", "IS"),
    "65536": (b"65536", "IS"),
    "beyond 64 bits": (b"99999999999999999999", "IS"),
    "300 digits": (b"1e300", "DS"),
    "no number": (b"nan", "DS"),
    "infinite": (b"inf", "DS"),
    "four bytes": (b"\x40\x01\0\0", "UL"),
    "signed": (b"\x40\x01", "SS"),
    "a float": (np.float32(320).tobytes(), "FL"),
    "a float that is none": (np.float64("nan").tobytes(), "FD"),
    "a huge float": (np.float64(1e308).tobytes(), "FD"),
    "empty": (b"", "US"),
    "one byte too many": (b"\x40\x01\0", "US"),
    "two values": (b"\x40\x01\x40\x01", "US"),
    "unknown": (b"\x40\x01", "UN"),
}


@numbers
@pytest.mark.parametrize("keyword", ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsStored", "HighBit"])
@pytest.mark.parametrize("value", ODD_SIZES.values(), ids=ODD_SIZES)
def test_sizes_of_any_type_have_an_outcome(tmp_path: Path, keyword: str, value: tuple[bytes, str]) -> None:
    found = outcome(written(tmp_path, raw(keyword, *value), pixels=blobs(320, 320)))
    if keyword in ("Rows", "Columns") and not isinstance(found, Radiograph):
        assert found in (Reason.INCONSISTENT_HEADER, Reason.TOO_LARGE)


@numbers
@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(
    "descriptor",
    [(0, 0, 0), (0, 0, 16), (1, 0, 16), (65535, 0, 16), (4096, 65535, 16), (4096, 0, 0), (4096, 0, 255), (2, 0, 1)],
)
@pytest.mark.parametrize("entries", [0, 1, 4096])
def test_tables_of_nonsense_leave_a_picture(
    tmp_path: Path, sequence: str, descriptor: tuple[int, ...], entries: int
) -> None:
    item = lut_item(np.arange(entries), 0, 12)
    item[0].LUTDescriptor = [0, 0, 0]
    item[0]["LUTDescriptor"].value = list(descriptor)
    found = outcome(written(tmp_path, **{sequence: item}, BitsStored=12))
    # A modality table of one or two entries leaves one or two levels: that is what the file says.
    assert isinstance(found, Radiograph) or (found is Reason.BLANK and sequence == "ModalityLUTSequence")


@numbers
@pytest.mark.parametrize(
    "keyword", ["AnatomicRegionSequence", "ViewCodeSequence", "ModalityLUTSequence", "VOILUTSequence", "CodeValue"]
)
@pytest.mark.parametrize("vr", ["FD", "US", "DS", "LO", "ZZ", "AT", "UI"])
@pytest.mark.parametrize("value", [b"", b"\1\0", b"abc ", b"\xff" * 9])
def test_a_sequence_that_says_it_is_something_else_is_none(tmp_path: Path, keyword: str, vr: str, value: bytes) -> None:
    assert isinstance(outcome(written(tmp_path, raw(keyword, value, vr), BitsStored=12)), Radiograph)


@exports
@pytest.mark.parametrize("bits_stored", [8, 12, 16])
def test_eight_bit_pixels_in_sixteen_stored_bits_are_not_blank(tmp_path: Path, bits_stored: int) -> None:
    pixels = blobs(bits=8).astype(np.uint16)
    found = shown(written(tmp_path, pixels=pixels, BitsStored=bits_stored))
    assert np.ptp(found.display) > 200


@exports
@pytest.mark.parametrize("level", [0, 60, 900, 30_000])
def test_noise_in_sixteen_stored_bits_stays_blank(tmp_path: Path, level: int) -> None:
    noise = np.random.default_rng(0).normal(level, 15, (320, 256))
    pixels = np.clip(np.rint(noise), 0, 65535).astype(np.uint16)
    assert outcome(written(tmp_path, pixels=pixels, BitsStored=16)) is Reason.BLANK


EXPORTS: dict[str, list[RawDataElement]] = {
    "lower case": [raw("PhotometricInterpretation", b"monochrome2 ")],
    "NULs at the end": [raw("PhotometricInterpretation", b"MONOCHROME2\0")],
    "one frame with a blank": [raw("NumberOfFrames", b"1 ")],
    "no frame": [raw("NumberOfFrames", b"")],
    "frame 0": [raw("NumberOfFrames", b"0 ")],
    "samples absent": [raw("SamplesPerPixel", b"")],
    "several windows": [raw("WindowCenter", b"2048\\400"), raw("WindowWidth", b"4096\\40 ")],
    "more centers than widths": [raw("WindowCenter", b"2048\\1\\2"), raw("WindowWidth", b"4096")],
    "slope with blanks": [raw("RescaleSlope", b" 1.0 "), raw("RescaleIntercept", b"0 ")],
    "class empty": [raw("SOPClassUID", b"")],
    "modality lower case": [raw("Modality", b"cr")],
    "explicit UN": [raw("WindowCenter", b"2048", "UN"), raw("WindowWidth", b"4096", "UN")],
    "UN for a binary number": [raw("BitsStored", b"\x0c\0", "UN")],
    "mark of UTF-8": [raw("PatientName", b"\xef\xbb\xbfDoe^Jane ")],
    "private text": [RawDataElement(Tag(0x00091001), "LO", 8, b"private ", 0, False, True)],
    "length of a group": [RawDataElement(Tag(0x00080000), "UL", 4, b"\x10\0\0\0", 0, False, True)],
    "presentation shape unknown": [raw("PresentationLUTShape", b"WHATEVER")],
}


@exports
@pytest.mark.parametrize("elements", EXPORTS.values(), ids=EXPORTS)
def test_what_archives_write_is_read(tmp_path: Path, elements: list[RawDataElement]) -> None:
    stated = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
    found = shown(written(tmp_path, *elements, **stated))
    assert np.abs(found.display - IMAGE * (255 / 4095)).max() <= 0.51
    assert set(found.flags) <= {Flag.CHARSET_REPLACED}


@exports
@pytest.mark.parametrize(
    "tail",
    [
        b"\0",
        b"\0" * 3,
        b"\xfc\xff\xfc\xffOB\0\0\x20\0\0\0" + bytes(32),
        b"\xfc\xff\xfc\xffOB\0\0\xff\xff\xff\xff" + bytes(10),
        np.random.default_rng(0).bytes(5000),
        bytes(100_000),
    ],
    ids=["one byte", "three bytes", "padding", "padding without an end", "noise", "zeros"],
)
def test_what_is_behind_the_pixels_is_none_of_them(tmp_path: Path, tail: bytes) -> None:
    path = written(tmp_path, BitsStored=12)
    expected = shown(path).display
    path.write_bytes(path.read_bytes() + tail)
    np.testing.assert_array_equal(shown(path).display, expected)


@exports
def test_pixels_of_an_odd_length_are_read(tmp_path: Path) -> None:
    pixels = blobs(65, 65, bits=8)
    path = written(tmp_path, pixels=pixels)
    content = path.read_bytes()
    even = outcome(path)
    path.write_bytes(content[:-1])
    assert isinstance(even, Radiograph)
    np.testing.assert_array_equal(shown(path).display, even.display)


@exports
def test_an_element_that_is_there_twice_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, BitsStored=12, transfer_syntax=ExplicitVRLittleEndian, StudyInstanceUID=generate_uid())
    content = path.read_bytes()
    at = content.index(b"\x28\0\x10\0US")
    path.write_bytes(content[:at] + content[at : at + 10] + content[at:])
    assert isinstance(outcome(path), Radiograph)


@exports
def test_the_private_syntax_of_a_vendor_is_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path)
    old = b"1.2.840.10008.1.2.1\0"
    path.write_bytes(path.read_bytes().replace(old, b"1.2.840.113619.5.2\0\0", 1))
    assert outcome(path) is Reason.UNSUPPORTED_TRANSFER_SYNTAX


# --------------------------------------------------------------------------- whatever is left of a look

anything = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1.0, 1e-12, 1e12, -1e12, 0.5, 4096.0, 65535.0]),
)
slopes = st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)
windows = st.builds(Window, anything, anything, st.sampled_from(["LINEAR", "SIGMOID", "LINEAR_EXACT"]))
tables = st.builds(
    Lut,
    st.integers(-65536, 65535),
    st.lists(st.integers(0, 65535), min_size=1, max_size=20).map(lambda found: np.array(found, np.uint16)),
    st.integers(1, 16),
)
looks = st.builds(
    PixelLook,
    bits_stored=st.integers(1, 16),
    is_signed=st.booleans(),
    padding=st.none() | st.tuples(st.integers(-65536, 65536), st.integers(-65536, 65536)),
    slope=slopes,
    intercept=st.floats(-1e9, 1e9),
    modality_lut=st.none() | tables,
    voi_lut=st.none() | tables,
    window=st.none() | windows,
    inverse=st.booleans(),
    full_scale=st.booleans(),
)
levels = st.lists(st.integers(0, 65535), min_size=1, max_size=64)
kinds = st.sampled_from(["u1", "i1", "u2", "i2"])
shapes = st.sampled_from([(1, 1), (1, 64), (64, 1), (3, 50), (64, 64)])


@numbers
@settings(max_examples=400, deadline=None)
@given(look=looks, found=levels, shape=shapes, kind=kinds, max_px=st.integers(1, 80))
def test_every_look_gives_a_picture_without_a_warning(
    look: PixelLook, found: list[int], shape: tuple[int, int], kind: str, max_px: int
) -> None:
    stored = np.resize(np.array(found, np.uint16), shape).astype("u2").view("u2").astype(kind, casting="unsafe")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        display = display_pixels(stored, look, max_px).display
    assert display.dtype == np.uint8
    assert max(display.shape) == min(max_px, max(shape))


# --------------------------------------------------------------------------- headers without an end

endless = pytest.mark.hostile("9.8 files of any size")


@endless
@pytest.mark.parametrize("kept", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [200 * 2**20, 6 * 2**30])
def test_a_header_that_goes_on_as_zeros_costs_no_time(tmp_path: Path, kept: float, size: int) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * content.rindex(PIXEL_TAG))])
    with path.open("rb+") as stream:
        stream.truncate(size)
    started = time.process_time()
    rejection = index_file(tmp_path, ImageFile(path.name, 0, 0), LOOSE).rejection
    assert time.process_time() - started < 2
    assert rejection is not None
    # Reasons of a file that may still be arriving.
    assert rejection.reason in (Reason.NO_PIXEL_DATA, Reason.UNREADABLE_HEADER)


@endless
def test_a_header_of_millions_of_elements_is_refused_in_time(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = path.read_bytes()
    at = content.rindex(PIXEL_TAG)
    path.write_bytes(content[:at] + b"\x29\0\x01\0LO\0\0" * 4_000_000 + content[at:])
    started = time.process_time()
    assert outcome(path) is Reason.UNREADABLE_HEADER
    assert time.process_time() - started < 5


@endless
@pytest.mark.parametrize("content", [png_bytes(blobs(bits=8)), jpeg_bytes(blobs(bits=8)), b"", b"\0" * 200])
def test_a_file_larger_than_any_limit_is_refused_unread(tmp_path: Path, content: bytes) -> None:
    with (tmp_path / "large").open("wb") as stream:
        stream.write(content)
        stream.truncate(9 * 2**30)
    with pytest.raises(ImageRejected) as caught:
        read_radiograph(tmp_path / "large", LOOSE)
    assert caught.value.reason is Reason.TOO_LARGE
