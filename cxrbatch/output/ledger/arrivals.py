"""What a daemon knows of files that are arriving, kept in the ledger for the next process that looks at them.

A row is a file that nobody has scored yet. Its times are seconds on the monotonic clock of one start of the machine;
one row of `meta` says of which, and what that clock and the one on the wall showed when it was last written. A row is
written when something about its file changes, not at every look, and goes when its file is scored or gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.system.times import Moment

MEMORY = "arrivals"
# A row whose file is done with, or was, as another process had it: `run` takes studies without asking what arrives.
_STALE = (
    "NOT EXISTS (SELECT 1 FROM files WHERE files.path = arrivals.path AND files.present AND +files.status = 'pending')"
)


@dataclass(frozen=True, slots=True)
class ArrivalRow:
    """A file as it was met last; `first_met` and `same_since` are seconds on the monotonic clock."""

    path: str
    size_bytes: int
    mtime_ns: int
    first_met: float
    same_since: float
    cut_short: bool = False
    held_back: bool = False


@dataclass(frozen=True, slots=True)
class ArrivalMemory:
    """The moment to which the rows' times belong, and how long a file settles and is waited for at most."""

    seen: Moment
    settle_s: float = 0.0
    max_wait_s: float = 0.0


def read_memory(text: str) -> ArrivalMemory | None:
    """Read what is kept under `MEMORY`; None for nothing, or for what another version kept there."""
    try:
        return from_json(text, ArrivalMemory) if text else None
    except ValueError:
        return None


class ArrivalTable:
    """The table `arrivals` of an open ledger."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def memory(self) -> ArrivalMemory | None:
        """Return what was last remembered; None where no daemon has worked here, or one that kept it otherwise."""
        return read_memory(str(self._store.value("SELECT value FROM meta WHERE key = ?", (MEMORY,)) or ""))

    def rows(self) -> list[ArrivalRow]:
        """Return the files that still wait, and remove the others."""
        if self._store.value(f"SELECT 1 FROM arrivals WHERE {_STALE} LIMIT 1"):
            with self._store.transaction():
                self._store.execute(f"DELETE FROM arrivals WHERE {_STALE}")
        query = "SELECT path, size_bytes, mtime_ns, first_met, same_since, cut_short, held_back FROM arrivals"
        return [
            ArrivalRow(os.fsdecode(path), int(size), int(mtime), first_met, same_since, bool(cut), bool(held))
            for path, size, mtime, first_met, same_since, cut, held in self._store.rows(query)
        ]

    def write(self, memory: ArrivalMemory, changed: Iterable[ArrivalRow], gone: Iterable[str]) -> None:
        """Write some rows and remove others, in one transaction, as known at the moment `memory.seen`."""
        with self._store.transaction():
            for path in gone:
                self._store.execute("DELETE FROM arrivals WHERE path = ?", (os.fsencode(path),))
            for row in changed:
                self._store.execute("INSERT OR REPLACE INTO arrivals VALUES (?, ?, ?, ?, ?, ?, ?)", _cells(row))
            self._store.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (MEMORY, to_json(memory)))


def _cells(row: ArrivalRow) -> tuple[bytes | str | float, ...]:
    # As text: a file system may say of a file's time what no integer of SQLite holds.
    seen = (str(row.size_bytes), str(row.mtime_ns))
    return (os.fsencode(row.path), *seen, row.first_met, row.same_since, int(row.cut_short), int(row.held_back))
