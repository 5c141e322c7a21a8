"""Little data that inflates to much. Zeros are deflated once and repeated: to deflate gigabytes would take seconds."""

from __future__ import annotations

import zlib

_BLOCK_BYTES = 1_000_000


def deflated_zeros(size: int, *, start: bytes = b"") -> bytes:
    """Return `start` and `size` zeros as a raw deflate stream (RFC 1951)."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # What comes after a full flush refers to nothing before it.
    head = deflater.compress(start) + deflater.flush(zlib.Z_FULL_FLUSH)
    block = deflater.compress(bytes(_BLOCK_BYTES)) + deflater.flush(zlib.Z_FULL_FLUSH)
    rest = deflater.compress(bytes(size % _BLOCK_BYTES)) + deflater.flush()
    return head + block * (size // _BLOCK_BYTES) + rest


def compressed_zeros(size: int) -> bytes:
    """Return `size` zeros as a zlib stream (RFC 1950)."""
    # The checksum of zeros: a sum that stays 1, and how often it was added.
    checksum = (size % 65521) << 16 | 1
    return b"\x78\xda" + deflated_zeros(size) + checksum.to_bytes(4, "big")
