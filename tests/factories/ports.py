"""Ports for servers that tests start: nobody takes one between the moment it is picked and the one it is listened on.

To bind port 0 and close it again does not do that: the kernel may give the same number to another process next, and
gives it to one pick in 14,000 among two processes that pick at the same time.
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_FIRST, _USUAL_END = 20_000, 32_768
_GIVEN_BY_THE_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")

_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody listens on, and that no other call returns as long as this process lives."""
    return next(port for port in _candidates() if _is_unclaimed(port) and _is_free(port))


def _candidates() -> Iterator[int]:
    """Yield ports below those that the kernel gives away by itself, each process from another one on."""
    begin = int(_GIVEN_BY_THE_KERNEL.read_text().split()[0]) if _GIVEN_BY_THE_KERNEL.exists() else _USUAL_END
    ports = range(_FIRST, begin if begin > _FIRST + 1000 else _USUAL_END)
    first = os.getpid() * 97
    yield from (ports[(first + step) % len(ports)] for step in range(len(ports)))


def _is_unclaimed(port: int) -> bool:
    """Claim a port among all tests of this machine, those of other processes too, until this process ends."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        # No file: the name is gone with the process, and is as far known as its ports are.
        claim.bind(f"\0cxrbatch-tests-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@atexit.register
def _let_go() -> None:
    while _claims:
        _claims.pop().close()
