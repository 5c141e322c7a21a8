"""Who is working on an output folder now, told without a lock that would be in anybody's way."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cxrbatch.output.folder.opening import LOCK_FILE


def process_at_work(out: Path) -> str | None:
    """Return the process id of the run or daemon that holds `out`; None where nobody does.

    A shared lock is asked for, and given back at once where it is had. A run that starts at that very moment asks
    a second time (`folder._lock`). Across machines, this is as true as the file system's locks are.

    Raises:
        OSError: that cannot be told.
    """
    try:
        descriptor = os.open(out / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
    else:
        return None
    finally:
        os.close(descriptor)
