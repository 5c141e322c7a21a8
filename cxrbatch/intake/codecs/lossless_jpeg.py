"""Whether a lossless JPEG was whole: as many bits as its pixels take must be there.

A lossless frame is a chain of Huffman codes, one a pixel. After damage the decoder reads on out of step, runs out of
data (and repeats the last pixel) or stops before their end, and says nothing of it. But which codes made the pixels it
returned is known from the pixels: the sum of their lengths is held against the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import unpack_from
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.codecs.jpeg_markers import HUFFMAN_TABLES, RESTART_INTERVAL, Segment, find_frame, walk_header

Pixels = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]

# Why a JPEG of any kind is refused whose header is sound, whoever finds it out.
ENDS_EARLY = "the JPEG data end early: a part of the image is missing"
IS_DAMAGED = "the JPEG data are damaged: a part of the image is wrong"

# The last byte of an interval is filled up; at the end of the scan a few zeros may follow.
_PADDING_BITS = 7
_SPARE_BYTES = 4
_NO_CODE = 255
_AT_ONCE_PX = 1 << 20
_ALL_DIFFERENCES = np.arange(0x10000)
# How many bits the size of a difference has, 0 to 16 (ISO/IEC 10918-1 table H.2).
_CATEGORIES = np.frexp(np.minimum(_ALL_DIFFERENCES, 0x10000 - _ALL_DIFFERENCES))[1]
# After its code; category 16, a difference of 32768, has none.
_FURTHER_BITS = np.array([*range(16), 0])


@dataclass(frozen=True, slots=True)
class _Scan:
    """How the one scan of a lossless frame is coded, and where its data start.

    `code_lengths` has the bits of the Huffman code of each of the 17 categories, for each component.
    """

    predictor: int
    first: int
    point_transform: int
    interval_rows: int
    code_lengths: tuple[Counts, ...]
    start: int


def check_entropy_coded_length(content: bytes, pixels: Pixels) -> None:
    """Hold the data of a lossless JPEG against the pixels decoded from it, [H,W] or [H,W,C], uint8 or uint16.

    Raises:
        ImageRejected: the pixels need more bits than there are (truncated_pixels), or less (unreadable_pixels).
        ValueError, IndexError, struct.error: the header makes no sense.
    """
    scan = _read_scan(content, pixels.shape[1])
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    if planes.shape[2] != len(scan.code_lengths):
        # Colours one scan after the other: no radiograph, and not measured.
        return
    lengths = enumerate(scan.code_lengths)
    needed = np.sum([_count_bits(planes[..., index], of_codes, scan) for index, of_codes in lengths], axis=0)
    available, padding = _available_bits(content, scan)
    if len(needed) > len(available) or (needed > available[: len(needed)]).any():
        raise ImageRejected(Reason.TRUNCATED_PIXELS, ENDS_EARLY)
    if len(needed) < len(available) or (available - needed > padding).any():
        raise ImageRejected(Reason.UNREADABLE_PIXELS, IS_DAMAGED)


def _read_scan(content: bytes, columns: int) -> _Scan:
    segments = list(walk_header(content))
    precision = content[find_frame(content).start + 4]
    tables: dict[int, Counts] = {}
    interval = 0
    for segment in segments:
        if segment.marker == HUFFMAN_TABLES:
            tables |= _read_tables(content, segment)
        if segment.marker == RESTART_INTERVAL:
            (interval,) = unpack_from(">H", content, segment.start + 4)
    at = segments[-1].start + 4
    components = content[at]
    chosen = [content[at + 2 + 2 * index] >> 4 for index in range(components)]
    predictor, point_transform = content[at + 1 + 2 * components], content[at + 3 + 2 * components] & 0x0F
    if not 1 <= predictor <= 7 or interval % columns or any(table not in tables for table in chosen):
        raise ValueError("the scan's header makes no sense")
    first = 1 << (precision - point_transform - 1)
    lengths = tuple(tables[table] for table in chosen)
    return _Scan(predictor, first, point_transform, interval // columns, lengths, segments[-1].end)


def _read_tables(content: bytes, segment: Segment) -> dict[int, Counts]:
    """Read the code lengths of the tables in one segment (ISO/IEC 10918-1 B.2.4.2); 0 where there is no code."""
    tables: dict[int, Counts] = {}
    at = segment.start + 4
    while at + 17 <= segment.end:
        counts = content[at + 1 : at + 17]
        symbols = content[at + 17 : at + 17 + sum(counts)]
        lengths = np.zeros(256, np.int64)
        lengths[list(symbols)] = np.repeat(np.arange(1, 17), list(counts))[: len(symbols)]
        tables[content[at]] = lengths[:17]
        at += 17 + sum(counts)
    return tables


def _available_bits(content: bytes, scan: _Scan) -> tuple[Counts, Counts]:
    """Count the bits of each restart interval, without what is stuffed in, and how many of them may be padding."""
    data = np.frombuffer(content, np.uint8)[scan.start :]
    marks = np.flatnonzero(data[:-1] == 0xFF)
    after = data[marks + 1]
    is_restart = (after >= 0xD0) & (after <= 0xD7) if scan.interval_rows else np.zeros(len(after), bool)
    # The scan ends with a marker that is no restart; FF may be repeated before it, the first of them ends the data.
    ends = np.flatnonzero((after != 0) & ~is_restart)
    within = int(ends[0]) if len(ends) else len(marks)
    size = int(marks[within]) if len(ends) else len(data)
    restarts = marks[:within][is_restart[:within]]
    bounds = np.concatenate(([-2], restarts, [size]))
    stuffed = np.diff(np.searchsorted(marks[:within][after[:within] == 0], bounds))
    padding = np.full(len(bounds) - 1, _PADDING_BITS)
    tail = data[max(0, size - _SPARE_BYTES) : size].tobytes()
    padding[-1] += 8 * (len(tail) - len(tail.rstrip(b"\0")))
    return 8 * (np.diff(bounds) - 2 - stuffed), padding


def _count_bits(plane: Pixels, code_lengths: Counts, scan: _Scan) -> Counts:
    """Sum up, for each restart interval, how long the codes of one component's pixels are.

    A pixel without a code was not decoded but made up; it counts as longer than any that was.
    """
    lengths = np.where(code_lengths, code_lengths + _FURTHER_BITS, _NO_CODE)
    if not scan.interval_rows:
        return np.array([(_count_categories(plane, scan) * lengths).sum()])
    of_differences = lengths.astype(np.uint8)[_CATEGORIES]
    rows = [of_differences[_differences(plane, block, scan)].sum(axis=1, dtype=np.int64) for block in _blocks(plane)]
    return np.add.reduceat(np.concatenate(rows), np.arange(0, len(plane), scan.interval_rows))


def _blocks(plane: Pixels) -> Iterator[slice]:
    """Yield some rows at a time: what fits the cache is counted twice as fast."""
    height = max(1, _AT_ONCE_PX // plane.shape[1])
    return (slice(start, start + height) for start in range(0, len(plane), height))


def _count_categories(plane: Pixels, scan: _Scan) -> Counts:
    counts = np.zeros(0x10000, np.int64)
    for block in _blocks(plane):
        # OpenCV counts in float32, exact to 2**24; it is five times faster than np.bincount.
        part = cv2.calcHist([_differences(plane, block, scan)], [0], None, [0x10000], [0, 0x10000])
        counts += part.ravel().astype(np.int64)
    return np.bincount(_CATEGORIES, weights=counts, minlength=17).astype(np.int64)


def _differences(plane: Pixels, rows: slice, scan: _Scan) -> NDArray[np.uint16]:
    """Return what was coded of some rows, modulo 65536: pixels less their prediction (ISO/IEC 10918-1 H.1.2)."""
    before = min(rows.start, 1)
    samples = plane[rows.start - before : rows.stop].astype(np.uint16)
    if scan.point_transform:
        samples >>= scan.point_transform
    differences = np.empty_like(samples)
    here, left, above, corner = samples[1:, 1:], samples[1:, :-1], samples[:-1, 1:], samples[:-1, :-1]
    np.subtract(here, _predict(left, above, corner, scan.predictor), out=differences[1:, 1:], casting="unsafe")
    differences[1:, 0] = samples[1:, 0] - samples[:-1, 0]
    # Each interval begins like the image: its first row is predicted from the left, its first pixel by half the range.
    at = np.arange(rows.start - before, rows.start - before + len(samples))
    starts = np.flatnonzero(at % scan.interval_rows == 0 if scan.interval_rows else at == 0)
    differences[starts, 1:] = samples[starts, 1:] - samples[starts, :-1]
    differences[starts, 0] = samples[starts, 0] - np.uint16(scan.first)
    return differences[before:]


def _predict(left: Pixels, above: Pixels, corner: Pixels, predictor: int) -> Pixels:
    """Predict by selection value 1 to 7 (ISO/IEC 10918-1 table H.1)."""
    if predictor <= 3:
        return (left, above, corner)[predictor - 1]
    if predictor == 4:
        return left + above - corner
    left, above, corner = (samples.astype(np.int32) for samples in (left, above, corner))
    halves = {5: left + (above - corner >> 1), 6: above + (left - corner >> 1), 7: left + above >> 1}
    return halves[predictor]
