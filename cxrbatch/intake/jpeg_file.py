"""The segments of a JPEG file, and where its picture really ends (ISO/IEC 10918-1 annex B).

Phones and programs put pictures of their own into a file, each with an end: thumbnails and depth maps before the
scan, further pictures and videos behind it. So the end is what the markers lead to, not the last one in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import unpack_from

from cxrbatch.errors import ImageRejected, Reason

APP1 = 0xE1
# A progressive picture with a profile of megabytes has a few hundred.
_MOST_SEGMENTS = 100_000
_START_OF_SCAN, _EOI = 0xDA, b"\xff\xd9"
# Within a scan, FF 00 is a byte of data, FF D0 to FF D7 are restarts and FF FF is filling; any other marker ends it.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# Markers that begin no segment (B.1.1.3): start and end of a picture, restarts, TEM.
_WITHOUT_DATA = tuple(bytes([marker]) for marker in (0x01, *range(0xD0, 0xDA)))
_FILLING = re.compile(rb"\xff{2,}")
# What may stand between two scans: tables, restart interval, number of lines, comments and application data.
_BETWEEN_SCANS = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}


@dataclass(frozen=True, slots=True)
class Segment:
    """One marker segment: its data are `content[start:end]`, for a scan without what is encoded in it."""

    marker: int
    start: int
    end: int


def read_segments(content: bytes) -> Iterator[Segment]:
    """Yield the segments of a file, or of its beginning, up to the first scan or as far as they lead."""
    at = 2
    while segment := _segment_at(content, at):
        yield segment
        if segment.marker == _START_OF_SCAN:
            return
        at = segment.end


def end_of_image(content: bytes) -> int:
    """Return where the picture of a whole file ends; what is behind that is none of it.

    Raises:
        ImageRejected: the file ends before (truncated_pixels), or its markers lead nowhere (unreadable_pixels).
    """
    at, has_scan = 2, False
    for _ in range(_MOST_SEGMENTS):
        at = _skip_filling(content, at)
        if content[at : at + 2] == _EOI and has_scan:
            return at + 2
        if not has_scan and (passed := _skip_stray_bytes(content, at)) > at:
            at = passed
            continue
        segment = _segment_at(content, at)
        if segment is None:
            break
        if has_scan and segment.marker not in _BETWEEN_SCANS:
            raise ImageRejected(Reason.UNREADABLE_PIXELS, "the JPEG file is damaged: a marker where pixels should be")
        at = segment.end
        if segment.marker == _START_OF_SCAN:
            has_scan = True
            found = _AFTER_SCAN.search(content, at)
            at = found.start() if found else len(content)
    raise ImageRejected(Reason.TRUNCATED_PIXELS, "the JPEG file has no end")


def _segment_at(content: bytes, at: int) -> Segment | None:
    at = _skip_filling(content, at)
    if at + 4 > len(content) or content[at] != 0xFF:
        return None
    length = unpack_from(">H", content, at + 2)[0]
    return Segment(content[at + 1], at + 4, at + 2 + length) if length >= 2 else None


def _skip_stray_bytes(content: bytes, at: int) -> int:
    """Return where the next segment may start: decoders pass over what is none, such as a segment's rest."""
    if content[at : at + 1] != b"\xff":
        found = _MARKER.search(content, at)
        return found.start() if found else len(content)
    return at + 2 if content[at + 1 : at + 2] in _WITHOUT_DATA else at


def _skip_filling(content: bytes, at: int) -> int:
    """Return where a marker really starts: any number of FF may stand before it (B.1.1.2)."""
    filling = _FILLING.match(content, at)
    return filling.end() - 1 if filling else at
