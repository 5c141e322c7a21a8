"""Pixels encoded as a frame of any transfer syntax; PNG chunks; and lossless JPEG as no library at hand writes it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxrbatch.phantom.dicom import encode_rle

Pixels = NDArray[np.integer[Any]]


def bits_of(pixels: Pixels) -> int:
    """Return how many bits these pixels need, at least 8."""
    return max(8, int(np.abs(pixels).max()).bit_length() + (pixels.dtype.kind == "i"))


def encode_frame(pixels: Pixels, syntax: UID, *, psnr_db: int = 60) -> bytes:
    """Encode [H,W] pixels as the frame of an encapsulated transfer syntax, or as the bytes of a native one.

    `psnr_db` is how good lossy JPEG 2000 is.
    """
    if not syntax.is_encapsulated:
        return pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    bits = bits_of(pixels)
    encoders: dict[UID, Callable[[], Any]] = {
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
        JPEG2000: lambda: imagecodecs.jpeg2k_encode(pixels, level=psnr_db, codecformat="j2k"),
        HTJ2KLossless: lambda: imagecodecs.htj2k_encode(pixels),
        JPEGBaseline8Bit: lambda: imagecodecs.jpeg_encode(pixels, level=92),
        JPEGExtended12Bit: lambda: imagecodecs.jpeg_encode(pixels, level=92, bitspersample=12),
        JPEGLossless: lambda: imagecodecs.jpeg_encode(pixels, lossless=True, predictor=7, bitspersample=bits),
        JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(pixels, level=2),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(pixels),
        JPEGLosslessSV1: lambda: imagecodecs.jpeg_encode(pixels, lossless=True, predictor=1, bitspersample=bits),
        RLELossless: lambda: encode_rle(pixels.view(np.dtype(f"u{pixels.dtype.itemsize}"))),
    }
    return bytes(encoders[syntax]())


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


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
