"""The lock of an output folder: held by the process at work on it, and asked about without being in anybody's way."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrbatch.errors import OutputLocked, OutputNotWritable
from cxrbatch.system.durable import FILE_MODE, close_for_good
from cxrbatch.system.faults import reach

LOCK_FILE = ".cxrbatch.lock"
_ASKING_TAKES_S = 0.1


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold an advisory lock that the kernel drops with the process, so none is ever stale.

    Raises:
        OSError: its file cannot be made or written.
        OutputNotWritable: the file system has no locks.
        OutputLocked: another process holds it.
    """
    descriptor = os.open(out / LOCK_FILE, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        _lock(descriptor)
    except OSError as error:
        holder = ""
        # On SMB a lock keeps others from reading, too.
        with suppress(OSError):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise OutputNotWritable(
                f"{out}: its file system has no locks ({error.strerror}). Put ledger and lock on a local disk with "
                "--state DIR."
            ) from error
        raise OutputLocked(
            f"{out}: another cxrbatch (process {holder or 'unknown'}) is working on this folder. "
            "Wait for it, or end it."
        ) from None
    try:
        os.fchmod(descriptor, FILE_MODE)
        os.ftruncate(descriptor, 0)
        reach("lock-write")
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        reach("lock-written")
        yield
    finally:
        close_for_good(descriptor)


def _lock(descriptor: int) -> None:
    """Lock the file, at the second attempt where somebody only asked whether it is locked (`process_at_work`)."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    time.sleep(_ASKING_TAKES_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def process_at_work(out: Path) -> str | None:
    """Return the process id of the run or daemon that holds `out`; None where nobody does.

    A shared lock is asked for, and given back at once where it is had. A run that starts at that very moment asks
    a second time (`locked`). Across machines, this is as true as the file system's locks are.

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
