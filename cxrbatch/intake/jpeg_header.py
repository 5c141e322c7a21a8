"""The marker segments of a JPEG stream up to its first scan (ISO/IEC 10918-1 annex B)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from

START_OF_SCAN = 0xDA
HUFFMAN_TABLES = 0xC4
RESTART_INTERVAL = 0xDD
_END_OF_IMAGE = 0xD9
# Markers without parameters: TEM, RST0 to RST7, SOI. A stuffed zero is none at all.
_BARE = (0x00, 0x01, *range(0xD0, 0xD9))


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker segment: `start` is where the FF of its marker is, `end` the byte after its parameters."""

    marker: int
    start: int
    end: int


def walk_header(content: bytes) -> list[Segment]:
    """Return the segments up to the first start of scan; bytes between them are passed over, as libjpeg does.

    Raises:
        ValueError, IndexError, struct.error: there is no scan.
    """
    segments: list[Segment] = []
    at = 2
    while not segments or segments[-1].marker != START_OF_SCAN:
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
            segments.append(Segment(marker, at, end))
            at = end
    return segments


def find_frame(segments: list[Segment]) -> Segment:
    """Return the start of frame among the segments of a header.

    Raises:
        ValueError: there is none.
    """
    for segment in segments:
        if is_frame(segment.marker):
            return segment
    raise ValueError("no start of frame")


def is_frame(marker: int) -> bool:
    """Tell whether a marker is a start of frame; C4, C8 and CC share the range but are tables."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
