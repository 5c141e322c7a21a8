"""The marker segments of a JPEG stream up to its first scan (ISO/IEC 10918-1 annex B)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import unpack_from

START_OF_SCAN = 0xDA
HUFFMAN_TABLES = 0xC4
RESTART_INTERVAL = 0xDD
_END_OF_IMAGE = 0xD9
# Markers without parameters: TEM, RST0 to RST7, SOI. A stuffed zero is none at all.
_BARE = (0x00, 0x01, *range(0xD0, 0xD9))

# Why a frame is refused whose header is sound, whoever finds it out.
ENDS_EARLY = "the JPEG data end early: a part of the image is missing"
IS_DAMAGED = "the JPEG data are damaged: a part of the image is wrong"


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker segment: `start` is where the FF of its marker is, `end` the byte after its parameters."""

    marker: int
    start: int
    end: int


def walk_header(content: bytes) -> Iterator[Segment]:
    """Yield the segments up to the first start of scan; bytes between them are passed over, as libjpeg does.

    Raises:
        ValueError, IndexError, struct.error: there is no scan.
    """
    at = 2
    marker = 0
    while marker != START_OF_SCAN:
        at = content.index(b"\xff", at)
        marker = content[at + 1]
        if marker == _END_OF_IMAGE:
            raise ValueError("the JPEG stream ends before its first scan")
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            end = at + 2 + unpack_from(">H", content, at + 2)[0]
            yield Segment(marker, at, end)
            at = end


def find_frame(content: bytes) -> Segment:
    """Return the start of frame of a JPEG or JPEG-LS stream (ISO/IEC 10918-1 B.2.2).

    Raises:
        ValueError, IndexError, struct.error: there is none.
    """
    for segment in walk_header(content):
        if is_frame(segment.marker):
            return segment
    raise ValueError("no start of frame")


def is_frame(marker: int) -> bool:
    """Tell whether a marker is a start of frame; C4, C8 and CC share the range but are tables, F7 is JPEG-LS."""
    return (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7
