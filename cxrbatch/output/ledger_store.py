"""The SQLite file under the ledger: opening, schema, transactions, and errors that tell the way out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cxrbatch.errors import OutputLocked, OutputNotWritable, RunError
from cxrbatch.faults import reach

SCHEMA_VERSION = 1
LOCK_WAIT_S = 10.0
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    path BLOB PRIMARY KEY,              -- os.fsencode of the input-relative path: names need not be UTF-8
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    study_key TEXT NOT NULL,            -- '' where the file belongs to no study
    present INTEGER NOT NULL DEFAULT 1, -- 0: the last walk did not meet it; what it once gave stands
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    refused_by_header INTEGER NOT NULL, -- 1: a changed engine or a retry cannot change the verdict
    header TEXT NOT NULL,
    flags TEXT NOT NULL,
    engine TEXT NOT NULL DEFAULT '',
    engine_sha256 TEXT NOT NULL DEFAULT '',
    backend TEXT NOT NULL DEFAULT '',
    precision TEXT NOT NULL DEFAULT '',
    probabilities TEXT NOT NULL DEFAULT '[]',
    scored_at TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX files_by_study ON files (study_key, path);
CREATE INDEX files_by_status ON files (status);
CREATE TABLE studies (
    study_key TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    engine_sha256 TEXT NOT NULL DEFAULT '',
    report_html TEXT NOT NULL DEFAULT '',
    report_pdf TEXT NOT NULL DEFAULT '',
    reported_at TEXT NOT NULL DEFAULT '',
    result TEXT
) WITHOUT ROWID;
CREATE INDEX studies_by_status ON studies (status, study_key);
"""


class LedgerStore:
    """One SQLite database in WAL mode, with one writer."""

    def __init__(self, path: Path) -> None:
        """Open the database at `path`, or create it.

        Raises:
            OutputNotWritable: the file cannot be created or written.
            OutputLocked: another process holds it.
            RunError: it is damaged, or a newer cxrbatch wrote it.
        """
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_WAIT_S)
        except sqlite3.DatabaseError as error:
            raise _explained(error, path) from error
        try:
            self._prepare()
        except (sqlite3.DatabaseError, OSError) as error:
            self.close()
            raise _explained(error, path) from error
        except RunError:
            self.close()
            raise

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> None:
        """Run a statement that changes something."""
        with self._explained():
            self._db.execute(statement, parameters)

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, one by one."""
        with self._explained():
            yield from self._db.execute(query, parameters)

    def value(self, query: str, parameters: tuple[Any, ...] = ()) -> Any:
        """Return the first cell of a query's first row, or None."""
        return next((row[0] for row in self.rows(query, parameters)), None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is executed inside, or nothing of it."""
        try:
            self.execute("BEGIN IMMEDIATE")
            yield
            with self._explained():
                reach("ledger-commit")
                self._db.execute("COMMIT")
                reach("ledger-committed")
        except BaseException:
            if self._db.in_transaction:
                # Where the disk fails, that may fail, too; closing the database rolls back all the same.
                with suppress(sqlite3.DatabaseError):
                    self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the database; an open transaction is rolled back."""
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise _explained(error, self.path) from error

    def _prepare(self) -> None:
        self.path.chmod(0o640)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        # What is overwritten, such as a patient's name before a de-identified run, leaves no trace in free pages.
        self._db.execute("PRAGMA secure_delete = ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise RunError(
                f"{self.path}: written by a newer cxrbatch (ledger schema {version}, this one knows "
                f"{SCHEMA_VERSION}). Update cxrbatch, or choose another output folder."
            )
        if version == 0:
            reach("schema-create")
            self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            reach("schema-created")


def damaged_ledger(path: Path, what: str) -> RunError:
    """Return the error that says how to go on without this ledger."""
    return RunError(
        f"{path}: the ledger is damaged ({what}). Move it away and run again: every study is scored anew, "
        "reports are replaced, the input is not touched."
    )


def _explained(error: Exception, path: Path) -> RunError:
    """Turn what SQLite or the file system says into an error that tells the way out."""
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return damaged_ledger(path, text)
    if "locked" in text:
        return OutputLocked(f"{path}: another process holds the ledger ({text}). Wait for it, or end it.")
    return OutputNotWritable(
        f"{path}: cannot be written ({text}). Check free space, quota and permissions of the output folder."
    )
