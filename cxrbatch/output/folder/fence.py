"""The fence of an output folder: what still writes there for a run that is over writes nothing more.

A lock goes with the process that held it. Processes that worked for it may live on, on this machine or another: in a
call that hangs, or cut off from the network. So whoever gets the lock writes a token of its own into OUT, before it
looks at anything else there, and waits for those who are writing at that moment. Whoever works for a run compares the
token with that run's as it begins to write, and keeps the lock of this file, shared, until it is done. Only where the
file system has no locks a moment is left in which a writer that has just compared is overtaken.

A fence of another name is one for a single node of a cluster, raised once its work is given to others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrbatch.errors import OutputLocked
from cxrbatch.system.durable import FILE_MODE, close_for_good
from cxrbatch.system.faults import reach

FENCE_FILE = ".cxrbatch-fence"
# Writing a report takes milliseconds; on a share that hangs it takes until the share is back.
WRITERS_END_S = 30.0
_LOOK_S = 0.05
_TOKEN_BYTES = 8
_HAS_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


def raise_fence(folder: Path, *, name: str = FENCE_FILE, patience_s: float = WRITERS_END_S) -> str:
    """Keep out whoever works for an earlier run; return the token of this one, whose process holds the lock.

    The file is written in place and never replaced: a lock is one of a file, not of a name.

    Raises:
        OSError: the token cannot be written.
        OutputLocked: a process of an earlier run is still writing after `patience_s`.
    """
    token = secrets.token_hex(_TOKEN_BYTES)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        os.fchmod(descriptor, FILE_MODE)
        # First the token, which lets nobody in any more, then the wait for those who are in.
        os.pwrite(descriptor, token.encode(), 0)
        os.fsync(descriptor)
        reach("fence-written")
        if not _waited_for_writers(descriptor, patience_s):
            raise OutputLocked(
                f"{folder}: a process of an earlier run is still writing a report here; it has hung for "
                f"{patience_s:g} s. End it, or wait for the disk or file server that holds it up, then try again."
            )
    finally:
        close_for_good(descriptor)
    return token


def _waited_for_writers(descriptor: int, patience_s: float) -> bool:
    """Tell whether everybody who was writing under the former token is done."""
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_LOOK_S)
        except OSError as error:
            if error.errno not in _HAS_NO_LOCKS:
                raise
            return True
        else:
            return True


@contextmanager
def inside_fence(folder: Path, name: str = FENCE_FILE) -> Iterator[str]:
    """Yield the token of the run that holds `folder`; no other one begins to work there while the block lasts.

    Raises:
        OSError: there is no fence.
    """
    descriptor = os.open(folder / name, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError as error:
            if error.errno not in _HAS_NO_LOCKS:
                raise
        yield _read(descriptor)
    finally:
        close_for_good(descriptor)


def token_of(folder: Path) -> str:
    """Return the token of the run that holds `folder` now.

    Raises:
        OSError: there is no fence.
    """
    descriptor = os.open(folder / FENCE_FILE, os.O_RDONLY)
    try:
        return _read(descriptor)
    finally:
        close_for_good(descriptor)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 2 * _TOKEN_BYTES, 0).decode(errors="replace")
