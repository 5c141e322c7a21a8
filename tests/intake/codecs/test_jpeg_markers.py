"""The one walk through JPEG's markers: what it passes over, where it stops, and where a picture ends."""

from __future__ import annotations

import struct

import pytest

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.codecs import Codestream
from cxrbatch.intake.codecs.jpeg_markers import (
    APP1,
    NO_JPEG,
    START_OF_SCAN,
    end_of_image,
    find_frame,
    read_frame_header,
    walk_header,
)
from tests.factories.intake import blobs, jpeg_bytes

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
FRAME, HUFFMAN = 0xC0, 0xC4


def segment(marker: int, value: bytes = b"ab") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(value) + 2) + value


SCAN = segment(START_OF_SCAN, b"\x01\x01\x00\x00\x3f\x00") + b"\x12\xff\x00\x34\xff\xd0\x56"
HEADER = segment(FRAME, b"\x08\x00\x02\x00\x03\x01\x01\x11\x00")


def markers(content: bytes) -> list[int]:
    return [found.marker for found in walk_header(content)]


def test_a_segment_spans_its_marker_and_parameters() -> None:
    content = SOI + segment(APP1, b"Exif\0\0") + SCAN
    first, scan = walk_header(content)
    assert (first.marker, first.start, first.end, first.parameters(content)) == (APP1, 2, 12, b"Exif\0\0")
    assert (scan.start, scan.end, scan.parameters(content)) == (12, 22, b"\x01\x01\x00\x00\x3f\x00")


@pytest.mark.parametrize(
    "between",
    [b"", b"\xff", b"\xff" * 300, b"\x00\x12\x34", b"\xff\x00", b"\xff\x01", b"\xff\xd3\xff\xd8"],
    ids=["nothing", "filling", "much filling", "stray bytes", "a stuffed zero", "TEM", "restart and SOI"],
)
def test_what_is_no_segment_is_passed_over_before_the_first_scan(between: bytes) -> None:
    content = SOI + between + segment(HUFFMAN) + between + HEADER + between + SCAN + EOI
    assert markers(content) == [HUFFMAN, FRAME, START_OF_SCAN]
    assert read_frame_header(content) == Codestream(rows=2, columns=3, components=1, precision=8)
    assert end_of_image(content + b"trailer") == len(content)


@pytest.mark.parametrize(
    "content",
    [
        SOI,
        SOI + segment(HUFFMAN),
        SOI + segment(HUFFMAN)[:3],
        SOI + segment(HUFFMAN) + EOI + SCAN,
        SOI + segment(HUFFMAN) * 100_001 + SCAN,
    ],
    ids=["nothing", "no scan", "cut", "an end before the scan", "too many segments"],
)
def test_a_header_that_leads_to_no_scan_is_an_error_and_its_picture_has_no_end(content: bytes) -> None:
    with pytest.raises(NO_JPEG):
        markers(content)
    with pytest.raises(ImageRejected) as raised:
        end_of_image(content + EOI)
    assert raised.value.reason is Reason.TRUNCATED_PIXELS


@pytest.mark.parametrize("length", [0, 1])
def test_a_length_that_is_none_is_passed_over_in_a_frame_and_refused_in_a_file(length: int) -> None:
    odd = bytes([0xFF, 0xE5, 0, length])
    assert markers(SOI + odd + HEADER + SCAN) == [0xE5, FRAME, START_OF_SCAN]
    for content in (SOI + odd + HEADER + SCAN + EOI, SOI + HEADER + SCAN + odd + SCAN + EOI):
        with pytest.raises(ImageRejected) as raised:
            end_of_image(content)
        assert raised.value.reason is Reason.TRUNCATED_PIXELS


def test_tables_are_no_frame_and_that_of_jpeg_ls_is_one() -> None:
    tables = segment(HUFFMAN) + segment(0xC8) + segment(0xCC)
    assert find_frame(SOI + tables + segment(0xF7) + SCAN).marker == 0xF7
    with pytest.raises(ValueError, match="no start of frame"):
        find_frame(SOI + tables + SCAN)


def test_between_two_scans_only_tables_and_data_may_stand() -> None:
    several = SOI + HEADER + SCAN + segment(HUFFMAN) + b"\xff" + SCAN + segment(0xFE, b"a comment") + SCAN + EOI
    assert end_of_image(several + several) == len(several)
    with pytest.raises(ImageRejected) as raised:
        end_of_image(SOI + HEADER + SCAN + HEADER + SCAN + EOI)
    assert raised.value.reason is Reason.UNREADABLE_PIXELS


def test_a_picture_within_a_picture_is_not_its_end() -> None:
    thumbnail, whole = jpeg_bytes(blobs(32, 32, bits=8)), jpeg_bytes(blobs(bits=8))
    content = SOI + segment(APP1, thumbnail) + whole[2:]
    assert end_of_image(content + thumbnail) == len(content)
