"""A wire between two made hosts that is slow and loses packets: two taps, and this process that carries frames across.

For kernels without `tc … netem`. Started by `hosts_machine`; as root.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import random
import select
import struct
import time
from collections import deque

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_FRAME_BYTES = 65_536


def open_tap(process: int, name: str) -> int:
    """Make a network device in the network namespace of a process; return what its frames are read from."""
    namespace = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns to process {process}")
    os.close(namespace)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


def carry(taps: tuple[int, int], delay_s: float, loss: float) -> None:
    """Hand each frame on to the other side after a while, but for those that are lost; until killed."""
    underway: deque[tuple[float, int, bytes]] = deque()
    chance = random.Random(7)  # noqa: S311  # it decides about no secret
    while True:
        wait_s = max(0.0, underway[0][0] - time.monotonic()) if underway else None
        for tap in select.select(taps, (), (), wait_s)[0]:
            frame = os.read(tap, _FRAME_BYTES)
            if chance.random() >= loss:
                underway.append((time.monotonic() + delay_s, taps[tap == taps[0]], frame))
        while underway and underway[0][0] <= time.monotonic():
            _, to, frame = underway.popleft()
            try:
                os.write(to, frame)
            except OSError:
                continue  # that side is down


def main() -> None:
    """Make both ends, say so, and carry frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ends", nargs=4, metavar="PROCESS NAME PROCESS NAME")
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--loss-percent", type=float, default=0)
    given = parser.parse_args()
    one, another = (open_tap(int(given.ends[at]), given.ends[at + 1]) for at in (0, 2))
    print("ready", flush=True)
    carry((one, another), given.delay_ms / 1000, given.loss_percent / 100)


if __name__ == "__main__":
    main()
