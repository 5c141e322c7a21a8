"""The ledger of a folder that somebody may be working on, read without making, changing or holding up anything.

`view_ledger` counts what is in it; `copy_ledger` makes a copy that one may do with as one likes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cxrbatch.errors import RunError, UsageError
from cxrbatch.output.ledger.arrivals import MEMORY, ArrivalMemory, read_memory
from cxrbatch.output.ledger.ledger import RETRIED, TROUBLE
from cxrbatch.output.ledger.schema import SCHEMA_VERSION
from cxrbatch.output.ledger.store import LOCK_WAIT_S, damaged_ledger

Read = TypeVar("Read")

_ATTEMPTS = 5
_PAUSE_S = 0.1
# Byte 18 of a database file: 2 where it is in WAL mode (https://www.sqlite.org/fileformat2.html#the_database_header).
_HEADER_BYTES, _WRITE_VERSION, _WAL_MODE = 100, 18, 2
_DAMAGED = ("not a database", "malformed", "no such table", "no such column")

_STUDIES = """
SELECT studies.study_key, count(files.path), coalesce(sum(arrivals.cut_short), 0),
    min(arrivals.first_met), max(arrivals.same_since)
FROM studies
LEFT JOIN files ON files.study_key = studies.study_key AND files.present AND +files.status = 'pending'
LEFT JOIN arrivals ON arrivals.path = files.path
WHERE studies.status = 'pending' GROUP BY studies.study_key
"""
_WITHOUT_ARRIVALS = """
SELECT study_key, 0, 0, NULL, NULL FROM studies WHERE status = 'pending' ORDER BY study_key
"""
# Files of which nobody can tell yet to which study they belong, if they are images at all.
_WITHOUT_STUDY = """
SELECT count(*), min(first_met), max(same_since) FROM arrivals JOIN files ON files.path = arrivals.path
WHERE held_back AND files.present AND files.study_key = ''
"""


@dataclass(frozen=True, slots=True)
class WaitingStudy:
    """A study that waits: its files that wait, and how many of them end too early.

    `first_met` and `same_since` are of the file met first, and of the one that changed last, on the clock of the
    memory's `seen`; None where no file was seen arriving. Without a key: files that belong to no study yet.
    """

    study_key: str
    n_files: int = 0
    n_cut_short: int = 0
    first_met: float | None = None
    same_since: float | None = None


@dataclass(frozen=True, slots=True)
class WaitingFacts:
    """The studies that wait, by key; how the daemon waits; when it last retried (JSON); what keeps it from work."""

    studies: tuple[WaitingStudy, ...] = ()
    memory: ArrivalMemory | None = None
    retried: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What a ledger counts.

    `input` is the folder it belongs to; `failures` are messages by study key; `oldest_queued_at` tells since when
    the study that waits longest does, ISO 8601, empty where none waits or the ledger is too old to know; `waiting`
    tells what each study waits for.
    """

    input: str
    studies: dict[str, int]
    files: dict[str, int]
    reasons: dict[str, int]
    failures: dict[str, str]
    oldest_queued_at: str
    waiting: WaitingFacts


def view_ledger(path: Path) -> LedgerFacts:
    """Read what the ledger at `path` counts, as of one moment, also while a run or a daemon writes it.

    Raises:
        UsageError: there is none.
        RunError: it is damaged, a newer cxrbatch wrote it, or it cannot be read now.
    """
    return read_patiently(path, _read)


def copy_ledger(path: Path, target: Path) -> None:
    """Make a new file `target` that is the ledger at `path` as of one moment; raises what `view_ledger` does."""

    def copy(path: Path) -> None:
        with opened_to_read(path) as source, closing(sqlite3.connect(target)) as database:
            _refuse_newer(source, path)
            source.backup(database)

    read_patiently(path, copy)


def read_patiently(path: Path, read: Callable[[Path], Read]) -> Read:
    """Return what `read` makes of the ledger at `path`, trying again while it comes or goes; errs as `view_ledger`."""
    if not path.is_file():
        raise UsageError(f"{path.parent}: no {path.name} there. Name the output folder of a run.")
    for attempt in range(_ATTEMPTS):
        # Whether a run is on may change between looking and opening.
        try:
            return read(path)
        except (sqlite3.DatabaseError, OSError) as error:
            if attempt == _ATTEMPTS - 1 or "locked" in str(error):
                raise _explained(error, path) from error
            time.sleep(_PAUSE_S)
    raise AssertionError  # never: the last attempt returns or raises


def _read(path: Path) -> LedgerFacts:
    with opened_to_read(path) as database, _one_moment(database):
        _refuse_newer(database, path)
        failures = "SELECT study_key, message FROM studies WHERE status = 'failed' ORDER BY study_key"
        return LedgerFacts(
            input=_pairs(database, "SELECT key, value FROM meta WHERE key = 'input'").get("input", ""),
            studies=_pairs(database, "SELECT status, count(*) FROM studies GROUP BY status"),
            files=_pairs(database, "SELECT status, count(*) FROM files GROUP BY status"),
            reasons=_pairs(database, "SELECT reason, count(*) FROM files WHERE reason != '' GROUP BY reason"),
            failures=_pairs(database, failures),
            oldest_queued_at=_oldest_queued_at(database),
            waiting=_read_waiting(database),
        )


def opened_to_read(path: Path) -> closing[sqlite3.Connection]:
    """Open a database that somebody may be writing, to read it: nothing is made or changed, also beside it."""
    return closing(sqlite3.connect(_address(path), uri=True, isolation_level=None, timeout=LOCK_WAIT_S))


def _refuse_newer(database: sqlite3.Connection, path: Path) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{path}: written by a newer cxrbatch (ledger schema {version}, this one knows {SCHEMA_VERSION}). "
            "Update cxrbatch."
        )


def _address(path: Path) -> str:
    """Return the URI that opens the database without making or changing a file.

    In WAL mode even a reader would make the -wal and -shm files where they are missing. They are there as long as
    anybody has the ledger open, and after a kill; otherwise the file alone is the ledger, and nobody changes it.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    uri = f"{path.resolve().as_uri()}?mode=ro"
    if len(header) < _HEADER_BYTES or header[_WRITE_VERSION] != _WAL_MODE:
        return uri
    if path.with_name(f"{path.name}-shm").exists():
        return f"{uri}&readonly_shm=1"
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise sqlite3.OperationalError("there is a -wal file without its -shm file")
    return f"{uri}&immutable=1"


@contextmanager
def _one_moment(database: sqlite3.Connection) -> Iterator[None]:
    """Let everything that is read inside be of the same moment."""
    database.execute("BEGIN")
    yield
    database.execute("COMMIT")


def _pairs(database: sqlite3.Connection, query: str) -> dict[str, Any]:
    return dict(database.execute(query).fetchall())


def _oldest_queued_at(database: sqlite3.Connection) -> str:
    columns = {name for _, name, *_ in database.execute("PRAGMA table_info(studies)")}
    if "queued_at" not in columns:
        return ""
    query = "SELECT min(queued_at) FROM studies WHERE status = 'pending' AND queued_at != ''"
    return str(database.execute(query).fetchone()[0] or "")


def _read_waiting(database: sqlite3.Connection) -> WaitingFacts:
    """Read what there is to say of studies that wait."""
    facts = dict(database.execute("SELECT key, value FROM meta WHERE key IN (?, ?, ?)", (MEMORY, RETRIED, TROUBLE)))
    has_arrivals = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'arrivals'").fetchone()
    studies = [WaitingStudy(*row) for row in database.execute(_STUDIES if has_arrivals else _WITHOUT_ARRIVALS)]
    if has_arrivals:
        n_files, first_met, same_since = database.execute(_WITHOUT_STUDY).fetchone()
        if n_files:
            studies.append(WaitingStudy("", n_files, 0, first_met, same_since))
    memory = read_memory(facts.get(MEMORY, ""))
    return WaitingFacts(tuple(studies), memory, facts.get(RETRIED, ""), facts.get(TROUBLE, ""))


def _explained(error: Exception, path: Path) -> RunError:
    text = str(error)
    if any(sign in text for sign in _DAMAGED):
        return damaged_ledger(path, text)
    return RunError(
        f"{path}: cannot be read now ({text}). Check its permissions, and try again in a moment; after a run was "
        "killed, the next run puts the ledger in order."
    )
