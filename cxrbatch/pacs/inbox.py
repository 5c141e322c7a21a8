"""INPUT as a server fills it: every object is there whole, under a safe name, or not at all.

An object is received into a hidden folder of INPUT, which no walk enters, and moved to its place once its bytes are on
the disk. So whoever walks INPUT never meets half a file, and what was acknowledged survives a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import re
import shutil
import threading
import time
from contextlib import ExitStack, suppress
from enum import Enum
from pathlib import Path
from types import TracebackType

from cxrbatch.errors import ConfigurationError
from cxrbatch.pacs.received import seek_data_set
from cxrbatch.system.durable import FILE_MODE, make_folder, sync_folder

INCOMING = ".cxrbatch-incoming"
_LOCK = "lock"
# What is named so in the folder is no object, and stays.
KEPT_PREFIX = "kept-"
# Digits in groups with dots between (PS3.5 section 9.1): no such name is hidden, a path or a device.
_PLAIN_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64
_BLOCK = 1 << 20
# Ten times as long as a line may be silent in the middle of an object.
ABANDONED_S = 600.0


class Taken(Enum):
    """What became of an object: it is new, or its very bytes were there already."""

    STORED = "stored"
    KNOWN = "known"


class NoRoom(Exception):
    """The disk has less left than is to stay free."""


class Inbox:
    """An input folder that this process alone receives into.

    Attributes:
        incoming: where objects are received, on the same file system as their places.
    """

    def __init__(self, root: Path, *, least_free_bytes: int = 0) -> None:
        """Name the folder; entering it opens it.

        Args:
            root: INPUT; it is made where it is missing.
            least_free_bytes: what stays free on its disk.
        """
        self.root, self.incoming = root, root / INCOMING
        self._least_free_bytes = least_free_bytes
        self._naming = threading.Lock()
        self._taken_at = 0.0
        self._held = ExitStack()

    def __enter__(self) -> Inbox:
        """Hold the folder, and remove what a killed process received half.

        Raises:
            ConfigurationError: another process receives into it.
            OSError: it cannot be written.
        """
        make_folder(self.incoming)
        lock = self._held.enter_context((self.incoming / _LOCK).open("w", encoding="utf-8"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise ConfigurationError(
                f"{self.root}: another cxrbatch receives into it. End that one, or give this one a folder of its own."
            ) from None
        self._empty()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._empty()
        self._held.close()

    def require_room(self) -> None:
        """See that the disk has room.

        Raises:
            NoRoom: less is left than is to stay free.
        """
        if not self.has_room():
            raise NoRoom

    def has_room(self) -> bool:
        """Tell whether the disk has as much left as is to stay free."""
        return shutil.disk_usage(self.incoming).free >= self._least_free_bytes

    def stirred_at(self) -> float:
        """Return when something last came, or a part of it; in seconds since 1970, 0 where nothing did yet."""
        times = [self._taken_at]
        with suppress(OSError):
            times += [received.stat().st_mtime for received in self.incoming.glob("*.dcm")]
        return max(times)

    def take(self, received: Path, study_uid: str, sop_uid: str) -> Taken:
        """Put a received file in its place, for good: it is on the disk when this returns.

        The same object sent again is not kept twice. Another one under the same SOP Instance UID, which must not be,
        is: to choose between them is for whoever reads INPUT.

        Args:
            received: a whole DICOM file in `incoming`; it is gone afterwards.
            study_uid: its Study Instance UID.
            sop_uid: its SOP Instance UID.

        Raises:
            OSError: it cannot be written, or its folder leads out of INPUT.
        """
        digest = _digest(received)
        with received.open("rb+") as stream:
            os.fchmod(stream.fileno(), FILE_MODE)
            os.fsync(stream.fileno())
        folder = self.root / safe_name(study_uid)
        make_folder(folder, within=self.root)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "the folder of its study is a link", str(folder))
        name = safe_name(sop_uid)
        with self._naming:
            for target in (folder / f"{name}.dcm", folder / f"{name}-{digest[:16]}.dcm"):
                if not target.exists():
                    received.rename(target)
                    break
                if _digest(target) == digest:
                    received.unlink()
                    return Taken.KNOWN
            else:  # its name is taken by other bytes, by whose hand ever
                raise OSError(errno.EEXIST, "another file has its name", str(folder))
        sync_folder(folder)
        self._taken_at = time.time()
        return Taken.STORED

    def remove_abandoned(self) -> None:
        """Remove what has not grown for longer than a line may be silent: nobody takes it any more."""
        self._empty(before=time.time() - ABANDONED_S)

    def _empty(self, before: float = math.inf) -> None:
        for leftover in self.incoming.iterdir():
            with suppress(FileNotFoundError):
                is_object = leftover.name != _LOCK and not leftover.name.startswith(KEPT_PREFIX)
                if is_object and leftover.stat().st_mtime < before:
                    leftover.unlink()


def safe_name(uid: str) -> str:
    """Return a file's name for a UID: itself where it is one, else a hash: a sender may write anything there."""
    if len(uid) <= _LONGEST_UID and _PLAIN_UID.fullmatch(uid):
        return uid
    return f"uid-{hashlib.sha256(uid.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _digest(path: Path) -> str:
    """Return what tells data sets apart: the same one that another server or version wrote is the same object."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        seek_data_set(stream)
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
