"""The SQLite file under the ledger: opening, schema, transactions, and errors that tell the way out."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from cxrbatch.errors import LedgerDamaged, OutputLocked, OutputNotWritable, RunError
from cxrbatch.output.ledger.engine_table import EngineTable
from cxrbatch.output.ledger.schema import SCHEMA_VERSION, create, migrate, schema_version, table_names, tables_of
from cxrbatch.records import StudyResult
from cxrbatch.system.faults import reach
from cxrbatch.system.record_json import from_json

Parsed = TypeVar("Parsed")

LOCK_WAIT_S = 10.0
# What SQLite can compare a time with; in nanoseconds, the year 2262.
LARGEST_INTEGER = 2**63 - 1
_FETCHED_AT_ONCE = 200
_DAMAGE = ("not a database", "malformed", "no such table", "no such column")

MOUNTINFO = Path("/proc/self/mountinfo")

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "beegfs", "gpfs"),
        *("gfs2", "ocfs2", "orangefs", "pvfs2", "davfs", "vboxsf", "prl_fs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"),
        *("fuse.davfs", "fuse.davfs2", "fuse.smbnetfs", "fuse.vmhgfs-fuse", "fuse.mfs", "fuse.juicefs"),
    }
)
"""Where several machines may write, or memory is not shared between processes: no place for SQLite's WAL mode
(sqlite.org/wal.html: "All processes using a database must be on the same host computer")."""

_OCTAL = re.compile(r"\\([0-7]{3})")


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
        self.engines = EngineTable(self)
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

    def parse(self, text: str, kind: type[Parsed]) -> Parsed:
        """Return the record that a cell holds.

        Raises:
            RunError: the cell was damaged or changed by another hand.
        """
        try:
            return from_json(text, kind)
        except ValueError as error:
            raise damaged_ledger(self.path, f"{kind.__name__}: {error}") from error

    def parse_result(self, text: str) -> StudyResult:
        """Return the result that a cell holds; raises what `parse` does."""
        try:
            return self.engines.result(text)
        except (ValueError, LookupError) as error:
            raise damaged_ledger(self.path, f"StudyResult: {error}") from error

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
            self.engines.forget()
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


def storable(text: str) -> str:
    """Return text that SQLite can hold: lone surrogates (bytes of a name that are not UTF-8) as \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode()


def network_file_system(folder: Path) -> str:
    """Return the type of the network file system that holds `folder`; '' on a local one, or where nobody knows."""
    try:
        mountinfo = MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    kind = file_system_of(PurePosixPath(folder.resolve()), mountinfo)
    return kind if kind in NETWORK_FILE_SYSTEMS else ""


def file_system_of(path: PurePosixPath, mountinfo: str) -> str:
    """Return the type of the file system that holds an absolute path without links, as proc(5) lists mounts.

    A line is `36 35 98:0 /root /mount/point options [tag:value]... - type source options`, with blanks in names as
    octal escapes. The deepest mount point above the path counts, and of several on one point the last.
    """
    found, depth = "", -1
    for line in mountinfo.splitlines():
        place, separator, source = line.partition(" - ")
        fields = place.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = PurePosixPath(_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = source.split(" ")[0], len(point.parts)
    return found
