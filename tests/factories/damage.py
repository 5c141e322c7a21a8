"""Damage done to coded pixels, and a lossless JPEG encoder for what no library at hand writes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOLE_BYTES = 4096

# The coded bytes, and at which fraction of them the damage is.
Damage = Callable[[bytes, float], bytes]


def hole(filling: str, size: int = HOLE_BYTES) -> Damage:
    """Overwrite `size` bytes with 00, FF or random ones."""
    content = {"00": bytes(size), "FF": b"\xff" * size, "random": random.Random(1).randbytes(size)}[filling]

    def apply(coded: bytes, where: float) -> bytes:
        start = round(where * (len(coded) - size))
        return coded[:start] + content + coded[start + size :]

    return apply


def end_early(coded: bytes, where: float) -> bytes:
    """Cut, and write an end marker that makes the rest look whole."""
    return coded[: round(where * len(coded))] + b"\xff\xd9"


def drop(coded: bytes, where: float) -> bytes:
    """Leave 4 KiB out."""
    start = round(where * (len(coded) - HOLE_BYTES))
    return coded[:start] + coded[start + HOLE_BYTES :]


def swap(coded: bytes, where: float) -> bytes:
    """Exchange two neighbouring pieces of 4 KiB."""
    start = round(where * (len(coded) - 2 * HOLE_BYTES))
    middle, end = start + HOLE_BYTES, start + 2 * HOLE_BYTES
    return coded[:start] + coded[middle:end] + coded[start:middle] + coded[end:]


def lossless_jpeg(
    samples: NDArray[np.integer[Any]], *, bits: int, predictor: int, restart_rows: int = 0, shift: int = 0
) -> bytes:
    """Encode [H,W] samples as lossless JPEG with restart intervals of some rows, and without the lowest `shift` bits.

    By ISO/IEC 10918-1 annex H, sample by sample; every category has a code of five bits.
    """
    rows, columns = samples.shape
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    stream = b"\xff\xd8\xff\xc4" + struct.pack(">H", 2 + len(table)) + table
    stream += b"\xff\xc3" + struct.pack(">HBHHB", 11, bits, rows, columns, 1) + b"\x01\x11\x00"
    if restart_rows:
        stream += b"\xff\xdd" + struct.pack(">HH", 4, restart_rows * columns)
    stream += b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([1, 0, predictor, 0, shift])
    coarse = (samples >> shift).astype(int).tolist()
    step = restart_rows or rows
    for number, top in enumerate(range(0, rows, step)):
        marker = bytes([0xFF, 0xD0 + (number - 1) % 8]) if number else b""
        stream += marker + _interval(coarse[top : top + step], 1 << (bits - shift - 1), predictor)
    return stream + b"\xff\xd9"


def _interval(samples: list[list[int]], first: int, predictor: int) -> bytes:
    bits = ""
    for row, line in enumerate(samples):
        for column, sample in enumerate(line):
            difference = (sample - _prediction(samples, row, column, first, predictor) + 0x8000) % 0x10000 - 0x8000
            category = abs(difference).bit_length()
            bits += f"{category:05b}"
            if 0 < category < 16:
                bits += f"{difference if difference > 0 else difference + (1 << category) - 1:0{category}b}"
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")


def _prediction(samples: list[list[int]], row: int, column: int, first: int, predictor: int) -> int:
    if not row:
        return samples[0][column - 1] if column else first
    above = samples[row - 1][column]
    if not column:
        return above
    left, corner = samples[row][column - 1], samples[row - 1][column - 1]
    return {
        1: left,
        2: above,
        3: corner,
        4: left + above - corner,
        5: left + (above - corner >> 1),
        6: above + (left - corner >> 1),
        7: left + above >> 1,
    }[predictor]
