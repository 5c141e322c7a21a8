"""Folders of INPUT that were quiet when they were walked over: what tells later that nothing in them changed.

A row says when a folder changed last. It is kept only where that, and the last change of every file in it, lay
`TRUSTED_AFTER_S` back when the walk began: a coarse clock, or one that lags behind, hides no change within that time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cxrbatch.intake.walking import MetFolder, RememberedFolder
from cxrbatch.output.ledger.known import KnownFiles
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.system.record_json import to_json

TRUSTED_AFTER_S = 600.0
"""How long ago a folder, and all that is in it, must have changed last."""


class FolderTable:
    """The table `folders`, during one walk."""

    def __init__(
        self, store: LedgerStore, known: KnownFiles, *, trusts: bool, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """With `trusts`, folders that did not change are not looked into; without, they are remembered all the same."""
        self._store, self._known, self._trusts = store, known, trusts
        self._quiet_before_ns = clock_ns() - round(TRUSTED_AFTER_S * 10**9)
        # What the walk meets counts only when all of it is in the ledger: until then it lies beside the database.
        store.execute("CREATE TEMP TABLE IF NOT EXISTS folders_met (path BLOB PRIMARY KEY, mtime_ns, folders)")
        store.execute("DELETE FROM folders_met")

    def remembered(self, path: str) -> RememberedFolder | None:
        """Return what tells whether a folder changed; None where it, or a file in it, is to be looked at."""
        if not self._trusts or not self._known.is_settled(path.rstrip("/")):
            return None
        rows = self._store.rows("SELECT mtime_ns, folders FROM folders WHERE path = ?", (os.fsencode(path),))
        for mtime_ns, folders in rows:
            return RememberedFolder(mtime_ns, self._store.parse(folders, tuple[str, ...]))
        return None

    def meet(self, folder: MetFolder) -> int:
        """Take note of a folder; return how many files of it are there as they were, not having been looked at."""
        if folder.is_unchanged:
            return self._known.meet_folder(folder.path.rstrip("/"))
        is_quiet = folder.youngest_ns is not None and folder.youngest_ns < self._quiet_before_ns
        # What was remembered of one that is not quiet goes: its time may be set back to what it was.
        row = (os.fsencode(folder.path), folder.mtime_ns if is_quiet else None, to_json(folder.folders))
        self._store.execute("INSERT OR REPLACE INTO folders_met VALUES (?, ?, ?)", row)
        return 0

    def settle(self) -> None:
        """Remember what was met: every file of it is in the ledger."""
        with self._store.transaction():
            self._store.execute("DELETE FROM folders WHERE path IN (SELECT path FROM folders_met)")
            self._store.execute("INSERT INTO folders SELECT * FROM folders_met WHERE mtime_ns IS NOT NULL")
        self._store.execute("DELETE FROM folders_met")
