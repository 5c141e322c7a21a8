"""Damage done to coded pixels: pieces overwritten, left out, exchanged or cut off."""

from __future__ import annotations

import random
from collections.abc import Callable

HOLE_BYTES = 4096

# The coded bytes, and at which fraction of them the damage is.
Damage = Callable[[bytes, float], bytes]


def overwrite(coded: bytes, start: int, content: bytes) -> bytes:
    """Put other bytes in the place of those from `start` on."""
    return coded[:start] + content + coded[start + len(content) :]


def leave_out(coded: bytes, start: int, size: int) -> bytes:
    """Leave `size` bytes out."""
    return coded[:start] + coded[start + size :]


def exchange(coded: bytes, start: int, size: int) -> bytes:
    """Exchange two neighbouring pieces of `size` bytes."""
    middle, end = start + size, start + 2 * size
    return coded[:start] + coded[middle:end] + coded[start:middle] + coded[end:]


def hole(filling: str, size: int = HOLE_BYTES) -> Damage:
    """Overwrite `size` bytes with 00, FF or random ones."""
    content = {"00": bytes(size), "FF": b"\xff" * size, "random": random.Random(1).randbytes(size)}[filling]

    def apply(coded: bytes, where: float) -> bytes:
        return overwrite(coded, round(where * (len(coded) - size)), content)

    return apply


def end_early(coded: bytes, where: float) -> bytes:
    """Cut, and write an end marker that makes the rest look whole."""
    return coded[: round(where * len(coded))] + b"\xff\xd9"


def drop(coded: bytes, where: float) -> bytes:
    """Leave 4 KiB out."""
    return leave_out(coded, round(where * (len(coded) - HOLE_BYTES)), HOLE_BYTES)


def swap(coded: bytes, where: float) -> bytes:
    """Exchange two neighbouring pieces of 4 KiB."""
    return exchange(coded, round(where * (len(coded) - 2 * HOLE_BYTES)), HOLE_BYTES)
