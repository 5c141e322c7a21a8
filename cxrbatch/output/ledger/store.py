"""The SQLite file under the ledger: opening, schema, transactions, and errors that tell the way out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cxrbatch.errors import LedgerDamaged, OutputLocked, OutputNotWritable, RunError
from cxrbatch.output.folder.mounts import network_file_system
from cxrbatch.output.ledger.schema import SCHEMA_VERSION, create, migrate, schema_version, table_names, tables_of
from cxrbatch.system.faults import reach

LOCK_WAIT_S = 10.0
_FETCHED_AT_ONCE = 200
_DAMAGE = ("not a database", "malformed", "no such table", "no such column")


class LedgerStore:
    """One SQLite database with one writer: in WAL mode, on a network file system with a rollback journal."""

    def __init__(self, path: Path, *, may_be_empty: Callable[[], bool] = lambda: True) -> None:
        """Open the database at `path`, or create it.

        Args:
            path: the file; where it is missing it is made.
            may_be_empty: asked where the file is there without anything in it: a killed process can leave that
                before its first row, but not after its first report.

        Raises:
            OutputNotWritable: the file cannot be created or written.
            OutputLocked: another process holds it.
            RunError: it is damaged, or a newer cxrbatch wrote it.
        """
        self.path = path
        self.guard: Callable[[], None] = lambda: None
        self._may_be_empty = may_be_empty if path.exists() else lambda: True
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
        """Yield the rows of a query, one by one; some are fetched ahead."""
        with self._explained():
            cursor = self._db.execute(query, parameters)
            fetched = cursor.fetchmany(_FETCHED_AT_ONCE)
        # Whoever leaves half-way, as with a full disk, leaves here: the database may be closed by then.
        while fetched:
            yield from fetched
            with self._explained():
                fetched = cursor.fetchmany(_FETCHED_AT_ONCE)

    def value(self, query: str, parameters: tuple[Any, ...] = ()) -> Any:
        """Return the first cell of a query's first row, or None."""
        return next((row[0] for row in self.rows(query, parameters)), None)

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Commit what is executed inside, or nothing of it; `guard` is asked before both ends of it.

        With `durable` it survives a power cut from here on, and so does every transaction before it.
        """
        self.guard()
        if durable and self._synchronous != "FULL":
            self.execute("PRAGMA synchronous = FULL")
        try:
            self.execute("BEGIN IMMEDIATE")
            yield
            self.guard()
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
        finally:
            if durable and self._synchronous != "FULL":
                with suppress(sqlite3.DatabaseError):
                    self._db.execute(f"PRAGMA synchronous = {self._synchronous}")

    def close(self) -> None:
        """Close the database; an open transaction is rolled back."""
        self._db.close()

    def check(self) -> None:
        """Look through the whole file for damage.

        Raises:
            LedgerDamaged: there is some.
        """
        found = str(self.value("PRAGMA quick_check(1)"))
        if found != "ok":
            raise damaged_ledger(self.path, found.splitlines()[-1])

    def vacuum(self) -> None:
        """Write the database anew with nothing but its rows, and empty the journal beside it.

        Raises:
            OutputLocked: somebody reads it and does not end.
        """
        for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            # The first cell of a checkpoint's answer tells that it could not be made.
            if self.value(statement):
                raise _explained(sqlite3.OperationalError("database is locked by a reader"), self.path)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise _explained(error, self.path) from error

    def _prepare(self) -> None:
        version = schema_version(self._db)
        self._refuse_foreign(version)
        self.path.chmod(0o640)
        # WAL shares memory between processes, which no network file system does; a rollback journal needs none,
        # and is on the disk before the database is touched only when every step is waited for.
        on_network = network_file_system(self.path.parent)
        journal, self._synchronous = ("DELETE", "FULL") if on_network else ("WAL", "NORMAL")
        self._db.execute(f"PRAGMA journal_mode = {journal}")
        self._db.execute(f"PRAGMA synchronous = {self._synchronous}")
        # What is overwritten, such as a patient's name before a de-identified run, leaves no trace in free pages.
        self._db.execute("PRAGMA secure_delete = ON")
        create(self._db) if version == 0 else migrate(self._db)

    def _refuse_foreign(self, version: int) -> None:
        """Refuse what is no ledger, or that of a newer cxrbatch, before anything in it is changed."""
        if version > SCHEMA_VERSION:
            raise RunError(
                f"{self.path}: written by a newer cxrbatch (ledger schema {version}, this one knows "
                f"{SCHEMA_VERSION}). Update cxrbatch, or choose another output folder."
            )
        tables = table_names(self._db)
        if version == 0 and tables:
            raise damaged_ledger(self.path, f"it holds other tables: {', '.join(sorted(tables))}")
        if version == 0 and not self._may_be_empty():
            raise damaged_ledger(self.path, "it is empty, but there are reports")
        if version and (missing := tables_of(version) - tables):
            raise damaged_ledger(self.path, f"it lacks tables: {', '.join(sorted(missing))}")


def damaged_ledger(path: Path, what: str) -> LedgerDamaged:
    """Return the error that says how to go on without this ledger."""
    return LedgerDamaged(
        f"{path}: the ledger is damaged ({what}). `cxrbatch repair OUT` makes it anew from the reports, and nothing is "
        "scored twice. Move it away and run again, and every study is scored anew. The input is not touched.",
        what,
    )


def _explained(error: Exception, path: Path) -> RunError:
    """Turn what SQLite or the file system says into an error that tells the way out."""
    text = str(error)
    if any(sign in text for sign in _DAMAGE):
        return damaged_ledger(path, text)
    # "locking protocol" is what SQLite makes of a file system that promises locks and does not keep them.
    if "locked" in text or "locking protocol" in text:
        return OutputLocked(
            f"{path}: another process holds the ledger ({text}). Wait for it, or end it. If there is none, the file "
            "system has no locks that work: put the ledger on a local disk with --state DIR."
        )
    return OutputNotWritable(
        f"{path}: cannot be written ({text}). Check free space, quota and permissions of the output folder."
    )
