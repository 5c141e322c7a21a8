"""The marker segments of a JPEG stream (ISO/IEC 10918-1 annex B), in a file or in a DICOM frame.

`walk_header` walks them up to the first scan; JPEG-LS has the same. Phones and programs put pictures of their own into
a file, each with an end: thumbnails and depth maps before the scan, further pictures and videos behind it. So the end
of a file's picture is what the markers lead to (`end_of_image`), not the last one in the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from struct import unpack_from

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.codecs import Codestream

START_OF_SCAN = 0xDA
HUFFMAN_TABLES = 0xC4
RESTART_INTERVAL = 0xDD
APP1 = 0xE1

# What a stream raises that leads nowhere.
NO_JPEG = (ValueError, IndexError, struct.error)

# A progressive picture with a profile of megabytes has a few hundred.
_MOST_SEGMENTS = 100_000
_END_OF_IMAGE, _EOI = 0xD9, b"\xff\xd9"
# Markers without parameters: TEM, RST0 to RST7, SOI. A stuffed zero is none at all.
_BARE = (0x00, 0x01, *range(0xD0, 0xD9))
# Within a scan, FF 00 is a byte of data, FF D0 to FF D7 are restarts and FF FF is filling; any other marker ends it.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FILLING = re.compile(rb"\xff{2,}")
# What may stand between two scans: tables, restart interval, number of lines, comments and application data.
_BETWEEN_SCANS = {HUFFMAN_TABLES, 0xCC, START_OF_SCAN, 0xDB, 0xDC, RESTART_INTERVAL, 0xFE, *range(0xE0, 0xF0)}


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker segment: `start` is where the FF of its marker is, `end` the byte after its parameters.

    What is encoded in a scan is not part of it.
    """

    marker: int
    start: int
    end: int

    @property
    def has_length(self) -> bool:
        """Whether its length counts at least itself, as it must; libjpeg goes on behind a smaller one."""
        return self.end >= self.start + 4

    def parameters(self, content: bytes) -> bytes:
        """Return what it says, behind its marker and its length."""
        return content[self.start + 4 : self.end]


def walk_header(content: bytes) -> Iterator[Segment]:
    """Yield the segments up to the first start of scan; bytes between them are passed over, as libjpeg does.

    Raises:
        ValueError, IndexError, struct.error: there is no scan.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        at = _find_marker(content, at)
        segment = _read_segment(content, at)
        yield segment
        if segment.marker == START_OF_SCAN:
            return
        at = segment.end
    raise ValueError("the JPEG stream has too many segments")


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


def read_frame_header(content: bytes) -> Codestream:
    """Read the start of frame of a JPEG or JPEG-LS stream.

    Raises:
        ValueError, IndexError, struct.error: there is none.
    """
    precision, rows, columns, components = unpack_from(">BHHB", content, find_frame(content).start + 4)
    return Codestream(rows, columns, components, precision)


def ends_with_image(frame: bytes) -> bool:
    """Tell whether a frame ends with the end of its image, or some padding behind it."""
    return _EOI in frame[-16:]


def end_of_image(content: bytes) -> int:
    """Return where the picture of a whole file ends; what is behind that is none of it.

    Raises:
        ImageRejected: the file ends before (truncated_pixels), or its markers lead nowhere (unreadable_pixels).
    """
    with suppress(*NO_JPEG):
        header = list(walk_header(content))
        if not all(segment.has_length for segment in header):
            raise ValueError("a length that is none")
        at = _end_of_scan(content, header[-1])
        for _ in range(_MOST_SEGMENTS):
            at = _skip_filling(content, at)
            if content[at : at + 2] == _EOI:
                return at + 2
            segment = _read_segment(content, at)
            if not segment.has_length:
                break
            if segment.marker not in _BETWEEN_SCANS:
                raise ImageRejected(
                    Reason.UNREADABLE_PIXELS, "the JPEG file is damaged: a marker where pixels should be"
                )
            at = _end_of_scan(content, segment) if segment.marker == START_OF_SCAN else segment.end
    raise ImageRejected(Reason.TRUNCATED_PIXELS, "the JPEG file has no end")


def _find_marker(content: bytes, at: int) -> int:
    """Return where the next segment of a header starts: decoders pass over what is none, such as a segment's rest."""
    while True:
        at = _skip_filling(content, content.index(b"\xff", at))
        marker = content[at + 1]
        if marker == _END_OF_IMAGE:
            raise ValueError("the JPEG stream ends before its first scan")
        if marker not in _BARE:
            return at
        at += 2


def _read_segment(content: bytes, at: int) -> Segment:
    start, marker, length = unpack_from(">BBH", content, at)
    if start != 0xFF:
        raise ValueError("no marker segment")
    return Segment(marker, at, at + 2 + length)


def _end_of_scan(content: bytes, scan: Segment) -> int:
    found = _AFTER_SCAN.search(content, scan.end)
    return found.start() if found else len(content)


def _skip_filling(content: bytes, at: int) -> int:
    """Return where a marker really starts: any number of FF may stand before it (B.1.1.2)."""
    filling = _FILLING.match(content, at)
    return filling.end() - 1 if filling else at
