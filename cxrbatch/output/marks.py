"""What readers leave beside a worklist that is served: what was read, and notes. In `marks.sqlite` beside the ledger.

Not in the ledger itself: one process at a time writes that, `repair` exchanges it, and taking names out or moving it
asks for it alone. A server that wrote it would have to be waited for; so would a run by every reader.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cxrbatch.errors import OutputNotWritable
from cxrbatch.records import now_text
from cxrbatch.system.durable import FILE_MODE

MARKS_FILE = "marks.sqlite"
LONGEST_NOTE = 2000
_WAIT_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS marks (
    study_key TEXT PRIMARY KEY, revision INTEGER NOT NULL, read_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    study_key TEXT PRIMARY KEY, text TEXT NOT NULL, written_at TEXT NOT NULL
) WITHOUT ROWID;
"""

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Mark:
    """A study that somebody read, and which revision of it; times are UTC, ISO 8601."""

    study_key: str
    revision: int
    read_at: str


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody wrote about a study for whoever reads the list next."""

    study_key: str
    text: str
    written_at: str


class Marks:
    """The marks and notes of one output folder; each call opens the file, so that it may go or come at any time."""

    def __init__(self, folder: Path) -> None:
        """Take the folder that the ledger lies in.

        Raises:
            OutputNotWritable: nothing can be kept there.
        """
        self.path = folder / MARKS_FILE
        self._with(lambda _: None)

    def marks(self) -> list[Mark]:
        """Return every study that counts as read."""
        query = "SELECT study_key, revision, read_at FROM marks"
        return self._with(lambda db: [Mark(*row) for row in db.execute(query)])

    def notes(self) -> list[Note]:
        """Return every note."""
        query = "SELECT study_key, text, written_at FROM notes"
        return self._with(lambda db: [Note(*row) for row in db.execute(query)])

    def mark(self, study_key: str, revision: int) -> None:
        """Keep that this revision was read, now."""
        row = (study_key, revision, now_text())
        self._with(lambda db: db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", row))

    def unmark(self, study_key: str) -> None:
        """Keep that a study is to be read."""
        self._with(lambda db: db.execute("DELETE FROM marks WHERE study_key = ?", (study_key,)))

    def note(self, study_key: str, text: str) -> None:
        """Keep a note in place of the one before; an empty one removes it."""
        if text:
            row = (study_key, text, now_text())
            self._with(lambda db: db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", row))
        else:
            self._with(lambda db: db.execute("DELETE FROM notes WHERE study_key = ?", (study_key,)))

    def version(self) -> tuple[int, int, str, str]:
        """Return what changes with every mark and note."""
        query = (
            "SELECT (SELECT count(*) FROM marks), (SELECT count(*) FROM notes), "
            "coalesce((SELECT max(read_at || study_key) FROM marks), ''), "
            "coalesce((SELECT max(written_at || study_key || text) FROM notes), '')"
        )
        return self._with(lambda db: tuple(db.execute(query).fetchone()))

    def _with(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        with _opened(self.path) as database:
            return work(database)


def forget_marks(folder: Path, study_keys: Iterable[str]) -> None:
    """Remove marks and notes of studies that are no more; where nobody left any, nothing is made."""
    if not (path := folder / MARKS_FILE).exists():
        return
    keys = [(key,) for key in study_keys]
    with _opened(path) as database:
        for table in ("marks", "notes"):
            database.executemany(f"DELETE FROM {table} WHERE study_key = ?", keys)  # noqa: S608  # a name of ours


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield the database inside one transaction; what is overwritten in it leaves no trace.

    Raises:
        OutputNotWritable: it cannot be opened or written.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_S)) as database, database:
            database.execute("PRAGMA secure_delete = ON")
            path.chmod(FILE_MODE)
            database.executescript(_SCHEMA)
            yield database
    except (sqlite3.DatabaseError, OSError) as error:
        raise OutputNotWritable(
            f"{path}: cannot be written ({error}). Read marks and notes are kept there: check permissions and free "
            "space, or move it away to begin anew."
        ) from error
