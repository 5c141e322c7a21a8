"""JPEG 2000 and HTJ2K frames decoded, whole or reduced, and refused where they are damaged.

`decode_jpeg_2000` is where to start. What can be told of damage is told from the bytes: OpenJPEG notices little, and
warns of less. The arithmetic decoder reads any bits, so that a hole in a code-block becomes a wrong patch. But what an
encoder writes holds no markers (ISO/IEC 15444-1 B.10.1 and C.2) and no long runs, as a hole does; and packets end
where the tile-part ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from struct import pack_into, unpack_from
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.codecs import Codestream
from cxrbatch.intake.libraries import refuse_cut_images

Pixels = NDArray[np.integer[Any]]

ENOUGH, ENOUGH_OF_QUARTER = 0.9, 0.6
"""The share of the wanted long side that a reduced image has at least; where somebody asked for a quarter."""

_JP2_BOX = b"\x00\x00\x00\x0cjP  "
_SOC_SIZ = b"\xff\x4f\xff\x51"
_COD = 0xFF52

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


def decode_jpeg_2000(frame: bytes, precision: int, level: int = 0) -> Pixels:
    """Decode a frame at 1/2**level of its size.

    Args:
        frame: the codestream, bare or in a JP2 file.
        precision: bits of a sample.
        level: how often it is halved while it is decoded: at most `reducible_levels`.

    Returns:
        [H,W] or [H,W,C].

    Raises:
        ImageRejected: the coded data end early (truncated_pixels) or are damaged (unreadable_pixels).
        ValueError, struct.error, RuntimeError: a header makes no sense, or the decoder gives up.
    """
    parts = check_codestream(frame, _find_marker(frame, max(0, frame.find(_SOC_SIZ)) + 2, _SOT))
    whole = read_size_marker(frame)
    if level:
        array = _decode_reduced(frame, whole, precision, level)
    else:
        array = np.asarray(imagecodecs.jpeg2k_decode(frame, numthreads=1))
    if has_unread_packets(frame, parts, (whole.columns, whole.rows), whole.levels):
        raise _damaged("packets are left over")
    return array


def reducible_levels(codestream: Codestream, least_px: float) -> int:
    """Return how often a frame may be halved while decoding, with a long side of at least `least_px`.

    That is `ENOUGH` of what is wanted, not all of it: else images of just under twice that would be decoded whole, in
    four times the time of the larger ones.

    Signed streams are decoded whole: Pillow shifts them into unsigned ones. And Pillow 13 rounds a reduced side
    to the nearest pixel where the standard rounds up: it fails where the two differ, so such a level is left out.
    """
    if codestream.is_signed:
        return 0
    sides = (codestream.rows, codestream.columns)
    fitting = [
        level
        for level in range(1, codestream.levels + 1)
        if max(sides) >> level >= least_px and all(_rounds_up(side, level) for side in sides)
    ]
    return max(fitting, default=0)


def _rounds_up(pixels: int, level: int) -> bool:
    return reduced_size(pixels, level) == pixels + (1 << level >> 1) >> level


def reduced_size(pixels: int, level: int) -> int:
    """Return a side after `level` halvings, rounded up (ISO/IEC 15444-1 B.5)."""
    return -(-pixels >> level)


def read_size_marker(frame: bytes) -> Codestream:
    """Read the SIZ and COD markers of a JPEG 2000 codestream, bare or in a JP2 file (ISO/IEC 15444-1 A.5, A.6)."""
    start = frame.find(_SOC_SIZ) if frame.startswith(_JP2_BOX) else 0
    if start < 0 or frame[start : start + 4] != _SOC_SIZ:
        raise ValueError("no JPEG 2000 codestream")
    right, bottom, left, top = unpack_from(">4L", frame, start + 8)
    components, precision = unpack_from(">HB", frame, start + 40)
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(precision & 0x7F) + 1,
        is_signed=bool(precision & 0x80),
        levels=_read_levels(frame, start + 2),
    )


def _read_levels(frame: bytes, at: int) -> int:
    """Return how often the image was halved, which the COD marker says."""
    return int(frame[_find_marker(frame, at, _COD) + 9])


def _find_marker(frame: bytes, at: int, wanted: int) -> int:
    """Walk the main header from marker to marker, the last of which is followed by SOT."""
    while True:
        marker, length = unpack_from(">HH", frame, at)
        if marker == wanted:
            return at
        if marker == _SOT:
            raise ValueError("a marker is missing")
        at += 2 + length


def _decode_reduced(frame: bytes, whole: Codestream, precision: int, level: int) -> Pixels:
    """Decode at 1/2**level of the size. Pillow gives 9 to 15 bits shifted up to 16; this shifts back.

    Then it is laid where it belongs, or an engine would see the image shifted.
    """
    array: Pixels = np.asarray(decode_coarsely(frame, (whole.columns, whole.rows), level))
    unused_bits = int(array.dtype.itemsize * 8 - precision)
    return _over_all(np.right_shift(array, unused_bits), whole.rows, whole.columns, level)


def _over_all(low_band: Pixels, rows: int, columns: int, level: int) -> Pixels:
    """Move the samples of a low band, [h,w] uint8 or uint16, to the middles of h x w equal parts of the image.

    They sit on every 2**level-th stored pixel from the first on (ISO/IEC 15444-1 B.5): half a stored pixel and more
    to the top left of those middles, or with an odd number of pixels spread a little wider.
    """
    height, width = low_band.shape
    scales = np.array((columns / width, rows / height)) / (1 << level)
    offsets = (scales - 0.5**level) / 2
    to_low_band = np.array([[scales[0], 0, offsets[0]], [0, scales[1], offsets[1]]])
    size, border = (width, height), cv2.BORDER_REPLICATE
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(low_band, to_low_band, size, flags=flags, borderMode=border), low_band.dtype)


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
