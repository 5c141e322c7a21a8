"""Which DICOM objects were sent where, and what became of each: `sent.sqlite` beside the ledger.

Not in the ledger itself, though one table there would do: the ledger has one writer, the run or daemon that holds OUT,
and `repair` makes it anew from reports, which do not say what was sent. So whoever sends would have to wait for the
daemon to end, and after a repair everything would go out twice. Here one row follows each answer of a peer. A process
that is killed between answer and row sends that one object again: the same bytes under the same UID, which an archive
keeps once.

No patient and no original UID stands here: study keys and the UIDs of our own objects are hashes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cxrbatch.errors import OutputLocked, OutputNotWritable, RunError
from cxrbatch.output.ledger.store import network_file_system
from cxrbatch.output.ledger.view import opened_to_read
from cxrbatch.output.sent_facts import SENT_FILE, PeerFacts, Status, peer_facts
from cxrbatch.records import now_text
from cxrbatch.system.durable import FILE_MODE

_LOCK = ".cxrbatch-sending-{}.lock"
_SCHEMA_VERSION = 1
_WAIT_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sent (
    peer TEXT NOT NULL,
    uid TEXT NOT NULL,
    study_key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    code TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (peer, uid)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sent_by_study ON sent (study_key, peer);
CREATE INDEX IF NOT EXISTS sent_by_status ON sent (peer, status, kind);
CREATE TABLE IF NOT EXISTS settled (
    peer TEXT NOT NULL, study_key TEXT NOT NULL, stamp INTEGER NOT NULL, PRIMARY KEY (peer, study_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commitments (
    transaction_uid TEXT NOT NULL, uid TEXT NOT NULL, peer TEXT NOT NULL, PRIMARY KEY (transaction_uid, uid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS peers (
    peer TEXT PRIMARY KEY, studies_left INTEGER NOT NULL, trouble TEXT NOT NULL, at TEXT NOT NULL,
    reached_at TEXT NOT NULL
) WITHOUT ROWID;
"""

DONE: frozenset[Status] = frozenset({"stored", "committed", "refused"})


@dataclass(frozen=True, slots=True)
class SentObject:
    """One object and what its peer said last: `code` is the status of its answer in hex, empty where none came."""

    uid: str
    study_key: str
    revision: int
    kind: str
    status: Status
    code: str = ""
    attempts: int = 1
    at: str = ""


class SentObjects:
    """What was sent to one peer from one output folder, by this process alone."""

    def __init__(self, folder: Path, peer: str, *, only_to_read: bool = False) -> None:
        """Take the folder that the ledger lies in; entering opens it.

        Args:
            folder: where the ledger lies.
            peer: what tells this receiver from others, however it is reached.
            only_to_read: make and hold nothing.
        """
        self.path, self.peer, self._only_to_read = folder / SENT_FILE, peer, only_to_read
        self._held = -1
        self._lock = folder / _LOCK.format(hashlib.sha256(peer.encode()).hexdigest()[:12])

    def __enter__(self) -> SentObjects:
        """Hold the peer, and open the file.

        Raises:
            OutputLocked: another process sends to this peer from here.
            OutputNotWritable: nothing can be kept there.
            RunError: a newer cxrbatch wrote it.
        """
        with _explained(self.path):
            if self._only_to_read:
                self._db = _opened_to_read(self.path)
                return self
            self._hold()
            try:
                self._db = _open(self.path)
            except BaseException:
                os.close(self._held)
                raise
        return self

    def _hold(self) -> None:
        self._held = os.open(self._lock, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._held)
            raise OutputLocked(
                f"{self.path.parent}: another cxrbatch sends from here to {self.peer}. Wait for it, or end it."
            ) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(sqlite3.DatabaseError):
            self._db.close()
        if self._held >= 0:
            os.close(self._held)

    def of_study(self, study_key: str) -> dict[str, SentObject]:
        """Return what is known of a study's objects, by UID."""
        query = (
            "SELECT uid, study_key, revision, kind, status, code, attempts, at FROM sent "
            "WHERE study_key = ? AND peer = ?"
        )
        return {row[0]: SentObject(*row) for row in self._rows(query, study_key, self.peer)}

    def settled(self) -> dict[str, int]:
        """Return, by study key, at which state of its folder there was nothing left to send of a study."""
        return dict(self._rows("SELECT study_key, stamp FROM settled WHERE peer = ?", self.peer))

    def tried(self) -> set[str]:
        """Return the keys of the studies with an object that was tried in vain, and is to be tried again."""
        query = "SELECT DISTINCT study_key FROM sent WHERE peer = ? AND status = 'waiting'"
        return {key for (key,) in self._rows(query, self.peer)}

    def note(self, *objects: SentObject) -> None:
        """Keep what became of these objects just now."""
        now = now_text()
        rows = [
            (self.peer, each.uid, each.study_key, each.revision, each.kind, each.status, each.code, each.attempts, now)
            for each in objects
        ]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def settle(self, study_key: str, stamp: int) -> None:
        """Keep that nothing of this study is left to send as long as its folder stays as it is.

        What was tried in vain of an earlier revision is not waited for any more.
        """
        with self._transaction():
            former = "DELETE FROM sent WHERE study_key = ? AND peer = ? AND status = 'waiting'"
            self._db.execute(former, (study_key, self.peer))
            self._db.execute("INSERT OR REPLACE INTO settled VALUES (?, ?, ?)", (self.peer, study_key, stamp))

    def retry_refused(self) -> int:
        """Let what was refused be tried again; return how many objects that are."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM settled WHERE peer = ? AND study_key IN "
                "(SELECT study_key FROM sent WHERE peer = ? AND status = 'refused')",
                (self.peer, self.peer),
            )
            change = "UPDATE sent SET status = 'waiting', attempts = 0 WHERE peer = ? AND status = 'refused'"
            return self._db.execute(change, (self.peer,)).rowcount

    def note_peer(self, studies_left: int, trouble: str, *, reached: bool) -> None:
        """Keep how it stands with the peer, for whoever asks."""
        now = now_text()
        with self._transaction():
            self._db.execute(
                "INSERT INTO peers VALUES (:peer, :left, :trouble, :now, iif(:reached, :now, '')) "
                "ON CONFLICT (peer) DO UPDATE SET studies_left = :left, trouble = :trouble, at = :now, "
                "reached_at = iif(:reached, :now, reached_at)",
                {"peer": self.peer, "left": studies_left, "trouble": trouble, "now": now, "reached": reached},
            )

    def facts(self) -> PeerFacts:
        """Return how it stands with this peer."""
        found = [facts for facts in peer_facts(self._db) if facts.peer == self.peer]
        return found[0] if found else PeerFacts(self.peer, {})

    # ----------------------------------------------------------------------- storage commitment

    def ask_commitment(self, transaction_uid: str, uids: Iterable[str]) -> None:
        """Keep that the peer was asked to answer for these objects, under this transaction."""
        with self._transaction():
            rows = [(transaction_uid, uid, self.peer) for uid in uids]
            self._db.executemany("INSERT OR IGNORE INTO commitments VALUES (?, ?, ?)", rows)

    def note_commitment(self, transaction_uid: str, kept: Iterable[str], lost: Iterable[str]) -> set[str]:
        """Keep what the peer answered: which objects it will keep, and which it does not have.

        What it was not asked for under this transaction counts for nothing. What it does not have is sent again.

        Returns:
            The keys of the studies that have something to be sent again.
        """
        query = "SELECT uid FROM commitments WHERE transaction_uid = ? AND peer = ?"
        asked = {uid for (uid,) in self._rows(query, transaction_uid, self.peer)}
        kept, lost = asked & set(kept), asked & set(lost) - set(kept)
        with self._transaction():
            for uids, status in ((kept, "committed"), (lost, "waiting")):
                change = "UPDATE sent SET status = ?, at = ? WHERE peer = ? AND uid = ? AND status != 'refused'"
                self._db.executemany(change, [(status, now_text(), self.peer, uid) for uid in uids])
            studies = set[str]()
            for uid in lost:
                query = "SELECT study_key FROM sent WHERE peer = ? AND uid = ? AND status = 'waiting'"
                studies.update(key for (key,) in self._db.execute(query, (self.peer, uid)))
            rows = [(self.peer, study_key) for study_key in studies]
            self._db.executemany("DELETE FROM settled WHERE peer = ? AND study_key = ?", rows)
            answered = [(transaction_uid, uid) for uid in kept | lost]
            self._db.executemany("DELETE FROM commitments WHERE transaction_uid = ? AND uid = ?", answered)
        return studies

    def _rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with _explained(self.path):
            return self._db.execute(query, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explained(self.path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield


def forget_sent(folder: Path, study_keys: Iterable[str]) -> None:
    """Forget what was sent of studies that are no more; where nothing was ever sent, nothing is made."""
    if not (path := folder / SENT_FILE).exists():
        return
    keys = [(key,) for key in study_keys]
    with _explained(path), closing(_open(path)) as database, database:
        database.execute("BEGIN IMMEDIATE")
        of_study = "DELETE FROM commitments WHERE uid IN (SELECT uid FROM sent WHERE study_key = ?)"
        database.executemany(of_study, keys)
        for table in ("sent", "settled"):
            database.executemany(f"DELETE FROM {table} WHERE study_key = ?", keys)  # noqa: S608  # a name of ours


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S)
    try:
        path.chmod(FILE_MODE)
        # A power cut may take the last rows away: those objects are sent once more, which hurts nobody.
        database.execute(f"PRAGMA journal_mode = {'DELETE' if network_file_system(path.parent) else 'WAL'}")
        database.execute("PRAGMA synchronous = NORMAL")
        _make_tables(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _opened_to_read(path: Path) -> sqlite3.Connection:
    if path.exists():
        return opened_to_read(path).__enter__()
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(_SCHEMA)
    return database


def _make_tables(database: sqlite3.Connection, path: Path) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > _SCHEMA_VERSION:
        raise RunError(f"{path}: written by a newer cxrbatch (version {version}). Update cxrbatch.")
    if version < _SCHEMA_VERSION:
        database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        raise OutputNotWritable(
            f"{path}: cannot be written ({error}). What was sent is kept there: check permissions and free space. "
            "Without that file everything is sent again, under the same UIDs."
        ) from error
