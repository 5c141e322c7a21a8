"""What was freed goes back to the machine where that is asked for."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from cxrbatch.system.memory import giving_back_at_once

# Blocks of 29 MB and less, freed while something small that was asked for later stays.
KEPT_MB = """
import contextlib, sys
import numpy as np
from cxrbatch.system.memory import giving_back_at_once

def resident_kb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

before, small = resident_kb(), []
with giving_back_at_once() if sys.argv[1] == "at once" else contextlib.nullcontext():
    for size_mb in range(29, 0, -1):
        large = np.ones(size_mb << 20, np.uint8)
        small.append(np.ones(100_000, np.uint8))
        del large
    print((resident_kb() - before) // 1024)
"""


def kept_mb(how: str) -> int:
    """Return how much memory a process keeps of what it frees."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", KEPT_MB, how],
        check=True,
        capture_output=True,
        text=True,
        env=given | {"GLIBC_TUNABLES": ""},
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library that cannot be told")
def test_large_blocks_go_back_at_once_where_that_is_asked_for() -> None:
    assert kept_mb("at once") < 8
    assert kept_mb("as usual") > 20


def test_what_it_raises_passes() -> None:
    with pytest.raises(ValueError, match="no model"), giving_back_at_once():
        raise ValueError("no model")
