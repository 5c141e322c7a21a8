"""What the C library does with memory that was freed: glibc can be told, musl and macOS cannot."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Let the C library keep what a task freed for the next one, up to 64 MB, where it can be told to.

    It gives large blocks back at once, and the kernel clears their pages again for the next image: 8 of the 30 ms of
    computing that reading one of 2022 x 2464 pixels took. What is larger than 32 MB still goes back.
    """
    with suppress(AttributeError, OSError):
        tell = ctypes.CDLL(None).mallopt
        tell(_M_MMAP_THRESHOLD, 32 << 20)
        tell(_M_TRIM_THRESHOLD, 64 << 20)


@contextmanager
def giving_back_at_once() -> Iterator[None]:
    """While it is on, give each freed block of 128 kB or more back to the machine, where that can be told.

    For work that frees large blocks of many sizes: what it frees would fit nothing else, and count as taken. What was
    freed before goes back, too.
    """
    give_back_freed_memory()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 << 10)
    try:
        yield
    finally:
        # About what glibc, which learns from what is freed, would have come to.
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 8 << 20)
            ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 16 << 20)


def share_one_arena() -> None:
    """Let threads that are still to be started share the memory of those that are there, where that can be told.

    Each would take 64 MB of addresses for itself, and keep them: what a worker may take at all is counted in addresses.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Give back to the machine what was freed, once: after work that needed much of it and does not come again."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
