"""What came by `pull`, kept in INPUT beside what is being received: nothing is fetched twice, whatever became of it."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cxrbatch.errors import ConfigurationError
from cxrbatch.pacs.inbox import KEPT_PREFIX, Inbox, Taken, safe_name

_FILE = f"{KEPT_PREFIX}pulled.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS object (uid TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_at ON object (at);
CREATE TABLE IF NOT EXISTS series (uid TEXT PRIMARY KEY, objects INTEGER NOT NULL) WITHOUT ROWID;
"""


class PullInbox(Inbox):
    """An inbox that notes what it takes, as soon as it lies in its place."""

    def __init__(self, root: Path, *, least_free_bytes: int = 0, clock: Callable[[], float] = time.time) -> None:
        """Name the folder; entering it opens it.

        Args:
            root: INPUT; it is made where it is missing.
            least_free_bytes: what stays free on its disk.
            clock: seconds since 1970.
        """
        super().__init__(root, least_free_bytes=least_free_bytes)
        self._clock = clock
        self._guard = threading.Lock()

    def __enter__(self) -> PullInbox:
        """Hold the folder, and open what is known of it.

        Raises:
            ConfigurationError: another process receives into it, or what it keeps cannot be read.
            OSError: it cannot be written.
        """
        super().__enter__()
        path = self.incoming / _FILE
        try:
            self._known = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._known.execute("PRAGMA synchronous = FULL")
            self._known.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            super().__exit__(None, None, None)
            raise ConfigurationError(
                f"{path}: what was pulled cannot be read ({error}). Remove it: then INPUT alone tells what came."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._known.close()
        super().__exit__(kind, error, trace)

    def take(self, received: Path, study_uid: str, sop_uid: str) -> Taken:
        """Put a received file in its place, as any inbox does, and note that it came.

        Raises:
            OSError: it cannot be written, or noted; then it lies in its place all the same.
        """
        taken = super().take(received, study_uid, sop_uid)
        try:
            with self._guard:
                self._known.execute("INSERT OR IGNORE INTO object VALUES (?, ?)", (sop_uid, self._clock()))
        except sqlite3.OperationalError as error:
            raise OSError(errno.EIO, f"what came cannot be noted: {error}") from error
        return taken

    def missing(self, study_uid: str, uids: Iterable[str]) -> list[str]:
        """Return which objects of a study never came, by their SOP Instance UIDs.

        One that lies in its place did: whoever killed us may have come between that and the note.
        """
        folder = self.root / safe_name(study_uid)
        with self._guard:
            return [uid for uid in uids if not self._came(uid) and not (folder / f"{safe_name(uid)}.dcm").exists()]

    def _came(self, uid: str) -> bool:
        return self._known.execute("SELECT 1 FROM object WHERE uid = ?", (uid,)).fetchone() is not None

    def arrivals(self, since: float) -> list[float]:
        """Return when objects came after a moment, the earliest first; in seconds since 1970."""
        with self._guard:
            found = self._known.execute("SELECT at FROM object WHERE at > ? ORDER BY at", (since,))
            return [float(row[0]) for row in found]

    def objects_of(self, series_uid: str) -> int:
        """Return how many objects a series had when all of it had come; 0 where it never had."""
        with self._guard:
            found = self._known.execute("SELECT objects FROM series WHERE uid = ?", (series_uid,)).fetchone()
        return int(found[0]) if found else 0

    def note_series(self, series_uid: str, objects: int) -> None:
        """Note that all of a series has come: it is not asked for again until it has another number of objects.

        Where that cannot be noted, it is asked for again.
        """
        with self._guard, suppress(sqlite3.OperationalError):
            self._known.execute("INSERT OR REPLACE INTO series VALUES (?, ?)", (series_uid, objects))
