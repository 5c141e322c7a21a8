"""What can be told of a damaged JPEG 2000 codestream from its bytes: OpenJPEG notices little, and warns of less.

The arithmetic decoder reads any bits, so that a hole in a code-block becomes a wrong patch. But what an encoder writes
holds no markers (ISO/IEC 15444-1 B.10.1 and C.2) and no long runs, as a hole does; and packets end where the tile-part
ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from struct import pack_into, unpack_from

import numpy as np
from PIL import Image

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.pillow import refuse_cut_images

_SOT = 0xFF90
_SOD = 0xFF93
_EOC = b"\xff\xd9"
_SOT_BYTES = 12
# After FF comes at most 8F in coded data and packet headers; start and end of packet may be marked there.
_MARKER = re.compile(rb"\xff[\x90-\xff]")
_PACKET_MARKERS = (0x91, 0x92)
# Coded data look random: the longest run of equal bytes met was 71, of empty packets. A sector of a disk has 512 bytes.
_BLOCK = 128
_BLOCKS_IN_RUN = 3
# Packets that end a few bytes before their tile-part does are padded.
_SPARE_BYTES = 64
# Empty packets take a byte each, of few values; coded data of that many bytes have about 57.
_FEW_VALUES = 32
_COARSEST = 5


@dataclass(frozen=True, slots=True)
class TilePart:
    """Where one tile-part is: its SOT marker, its coded data, and its end."""

    start: int
    data: int
    end: int


def check_codestream(frame: bytes, start: int) -> list[TilePart]:
    """Check the tile-parts of a codestream whose first SOT marker is at `start`.

    Raises:
        ImageRejected: they end early (truncated_pixels), or hold what no encoder writes (unreadable_pixels).
        ValueError, struct.error: a header makes no sense.
    """
    parts = list(_walk_tile_parts(frame, start))
    for part in parts:
        for found in _MARKER.finditer(frame, part.data, part.end):
            if frame[found.start() + 1] not in _PACKET_MARKERS:
                raise _damaged("a marker stands in the coded data")
        if _has_long_run(frame[part.data : part.end]):
            raise _damaged("a hole is in the coded data")
    return parts


def _has_long_run(data: bytes) -> bool:
    """Tell whether blocks in a row consist of one value: every run of 511 bytes is found, none of 383."""
    blocks = np.frombuffer(data, np.uint8, len(data) // _BLOCK * _BLOCK).reshape(-1, _BLOCK)
    # The last column first: of random blocks, few are left for the comparison of the others.
    candidates = np.flatnonzero(blocks[:, 0] == blocks[:, -1])
    constant = candidates[(blocks[candidates] == blocks[candidates, :1]).all(axis=1)]
    span = _BLOCKS_IN_RUN - 1
    return len(constant) > span and bool((constant[span:] - constant[:-span] == span).any())


def has_unread_packets(frame: bytes, parts: list[TilePart], size: tuple[int, int], levels: int) -> bool:
    """Tell whether packets end well before their tile-part does: their headers were damaged and read as empty ones.

    OpenJPEG does not say, but it refuses a stream whose packets run out. So the stream is cut at its end and decoded,
    as coarsely as it can be, which must fail. With several tiles nothing is told.

    Args:
        frame: the codestream, which decodes.
        parts: its tile-parts.
        size: columns and rows.
        levels: how often it was halved.
    """
    last = parts[-1]
    tiles = {frame[part.start + 4 : part.start + 6] for part in parts}
    tail = frame[last.end - _SPARE_BYTES : last.end]
    if len(tiles) > 1 or last.end - last.data < 2 * _SPARE_BYTES or len(set(tail)) < _FEW_VALUES:
        return False
    shortened = bytearray(frame[: last.end - _SPARE_BYTES])
    pack_into(">L", shortened, last.start + 6, last.end - _SPARE_BYTES - last.start)
    try:
        decode_coarsely(bytes(shortened + _EOC), size, min(levels, _COARSEST))
    except OSError:
        return False
    return True


def decode_coarsely(frame: bytes, size: tuple[int, int], level: int) -> Image.Image:
    """Decode at 1/2**level of the size, columns x rows, rounded up as the standard does.

    Pillow 13 rounds to the nearest instead and fails where the two differ: it is told a size that both round alike.
    """
    refuse_cut_images()
    image = Image.open(BytesIO(frame), formats=("JPEG2000",))
    columns, rows = (-(-side >> level) << level for side in size)
    image._size = (columns, rows)
    image.reduce = level  # type: ignore[method-assign, assignment] # an attribute of the JPEG 2000 plugin
    image.load()
    return image


def _walk_tile_parts(frame: bytes, start: int) -> Iterator[TilePart]:
    """Yield the tile-parts to the end of the codestream (ISO/IEC 15444-1 A.4.2)."""
    at = start
    while frame[at : at + 2] == b"\xff\x90":
        (length,) = unpack_from(">L", frame, at + 6)
        # A length of 0 means: to the end of the codestream.
        end = at + length if length else _end_of_codestream(frame)
        if end > len(frame):
            raise ImageRejected(Reason.TRUNCATED_PIXELS, "the JPEG 2000 data end early: a part of the image is missing")
        yield TilePart(at, _find_data(frame, at + _SOT_BYTES, end), end)
        at = end
    if frame[at : at + 2] not in (_EOC, b""):
        raise _damaged("a tile-part does not end where it says")


def _end_of_codestream(frame: bytes) -> int:
    end = frame.rfind(_EOC)
    return end if end >= 0 else len(frame)


def _find_data(frame: bytes, at: int, end: int) -> int:
    """Walk a tile-part's header to the start of its data."""
    while at < end:
        marker, length = unpack_from(">HH", frame, at)
        if marker == _SOD:
            return at + 2
        at += 2 + length
    raise _damaged("a tile-part holds no data")


def _damaged(what: str) -> ImageRejected:
    return ImageRejected(Reason.UNREADABLE_PIXELS, f"the JPEG 2000 data are damaged: {what}")
