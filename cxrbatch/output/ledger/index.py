"""What the walk over INPUT met, file by file: the index of the ledger. Start at `FileIndex`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cxrbatch.errors import Reason
from cxrbatch.output.ledger.attempts import failed_again
from cxrbatch.output.ledger.queue import GONE, StudyQueue
from cxrbatch.output.ledger.store import LARGEST_INTEGER, LedgerStore, storable
from cxrbatch.records import Header, ImageFile, IndexedFile, Rejection
from cxrbatch.system.record_json import from_json, to_json

# Reasons that lie in the other files of the study: removing one of those may settle it.
SETTLED_BY_REMOVAL = (
    Reason.CONFLICTING_DUPLICATE.value,
    Reason.PATIENT_CONFLICT.value,
    Reason.TOO_MANY_IMAGES.value,
)


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the ledger remembers of a file; `mtime_ns` -1: its header is yet to be read."""

    size_bytes: int
    mtime_ns: int
    present: bool
    refused: bool = False


class FileIndex:
    """The files of INPUT as the walk met them last; what is news of a file queues its study."""

    def __init__(self, store: LedgerStore, queue: StudyQueue) -> None:
        self._store, self._queue = store, queue

    def known_files(self) -> dict[str, KnownFile]:
        """Return every file that was ever met, by path."""
        rows = self._store.rows("SELECT path, size_bytes, mtime_ns, present, status = 'rejected' FROM files")
        return {
            os.fsdecode(path): KnownFile(size, mtime, bool(present), bool(refused))
            for path, size, mtime, present, refused in rows
        }

    def record(self, entries: Iterable[IndexedFile]) -> None:
        """Record what the index found in new or changed files, and queue the studies that they belong to.

        A file that is refused for the same reason as before is no news for its study.
        """
        with self._store.transaction():
            touched: dict[str, None] = {}
            for entry in entries:
                if self._is_refused_again(entry):
                    continue
                touched |= dict.fromkeys((self._study_of(entry.file.path), entry.study_key))
                self._put_file(entry)
            # Once for each: of a study of thousands of files, each time goes through all of them.
            for study_key in filter(None, touched):
                self._queue.put(study_key)

    def study_of_unchanged(self, file: ImageFile) -> str:
        """Return the key of the study that a file belongs to; '' for a new or changed one."""
        query = "SELECT study_key FROM files WHERE path = ? AND size_bytes = ? AND mtime_ns = ?"
        return self._store.value(query, (os.fsencode(file.path), file.size_bytes, file.mtime_ns)) or ""

    def paths_of(self, study_key: str) -> list[str]:
        """Return the files that a study was ever made of."""
        rows = self._store.rows("SELECT path FROM files WHERE study_key = ? ORDER BY path", (study_key,))
        return [os.fsdecode(path) for (path,) in rows]

    def record_deferred(self, file: ImageFile, message: str) -> None:
        """Record a file that cannot be read now; the next index looks at it again."""
        with self._store.transaction():
            self._store.execute(
                "INSERT INTO files (path, size_bytes, mtime_ns, study_key, status, message, refused_by_header, "
                "header, flags) VALUES (?, ?, -1, '', 'pending', ?, 0, ?, '[]') "
                "ON CONFLICT (path) DO UPDATE SET mtime_ns = -1, message = excluded.message",
                (os.fsencode(file.path), file.size_bytes, storable(message), to_json(Header())),
            )

    def record_failed(self, file: ImageFile, reason: Reason, message: str) -> bool:
        """Record a file whose header could not be read for a reason that may lie in it; the third time it is refused.

        It counts as one file in a row as long as its size and time stay.

        Returns:
            Whether it is refused now.
        """
        name, file = os.fsencode(file.path), _storable_file(file)
        attempted = f"{file.size_bytes} {file.mtime_ns}"
        query = "SELECT attempts FROM files WHERE path = ? AND attempted = ?"
        failed_before = self._store.value(query, (name, attempted)) or 0
        failed = failed_again(file.path, reason, message, failed_before=failed_before)
        if failed.status == "rejected":
            self.record([IndexedFile(file, "", Header(), rejection=Rejection(reason, failed.message))])
            return True
        self.record_deferred(file, failed.message)
        with self._store.transaction():
            self._store.execute(
                "UPDATE files SET attempts = ?, attempted = ? WHERE path = ?", (failed_before + 1, attempted, name)
            )
            self._store.execute(
                "UPDATE files SET status = 'pending', reason = '', refused_by_header = 0 WHERE path = ? "
                "AND study_key = '' AND refused_by_header",
                (name,),
            )
        return False

    def record_gone(self, paths: Iterable[str]) -> None:
        """Record files that the walk did not meet: what they gave stands, what they still owed is given up.

        Where the remaining files of their study were refused on account of them, these are queued again.
        """
        with self._store.transaction():
            gone = list(paths)
            for path in gone:
                self._store.execute("UPDATE files SET present = 0 WHERE path = ?", (os.fsencode(path),))
                # Should its folder come back as it is now, it is looked into.
                folder = path[: path.rfind("/") + 1]
                self._store.execute("DELETE FROM folders WHERE path = ?", (os.fsencode(folder),))
            settled = self._keys_settled_by_removal() if gone else set()
            for study_key in {self._study_of(path) for path in gone} & settled:
                self._queue.put(study_key)
            self._store.execute(
                "UPDATE files SET status = 'scored' WHERE NOT present AND status = 'pending' AND engine_sha256 != ''"
            )
            self._store.execute(
                "UPDATE files SET status = 'rejected', reason = ?, message = ? "
                "WHERE NOT present AND NOT refused_by_header AND status IN ('pending', 'failed')",
                (Reason.VANISHED.value, GONE),
            )
            self._queue.give_up_gone()

    def record_returned(self, paths: Iterable[str]) -> None:
        """Record files that are back as they were; what was given up of them is queued again."""
        with self._store.transaction():
            for path in paths:
                self._store.execute("UPDATE files SET present = 1 WHERE path = ?", (os.fsencode(path),))
            owed = self._store.rows(
                "SELECT DISTINCT study_key FROM files WHERE present AND reason = ? AND reason != ''",
                (Reason.VANISHED.value,),
            )
            for (study_key,) in list(owed):
                self._queue.put(study_key)

    def _keys_settled_by_removal(self) -> set[str]:
        """Return the keys of studies of which a file that is still there was refused because of another one."""
        query = (
            "SELECT DISTINCT study_key FROM files WHERE present AND +status = 'rejected' AND reason != '' "
            "AND reason IN (?, ?, ?)"
        )
        return {key for (key,) in self._store.rows(query, SETTLED_BY_REMOVAL)}

    def _study_of(self, path: str) -> str:
        return self._store.value("SELECT study_key FROM files WHERE path = ?", (os.fsencode(path),)) or ""

    def _is_refused_again(self, entry: IndexedFile) -> bool:
        """Tell whether this entry says of a refused file what its row says; if so note when it was seen last."""
        rejection = entry.rejection
        if rejection is None:
            return False
        known = (entry.study_key, rejection.reason.value, storable(rejection.message), to_json(entry.flags))
        said = self._store.rows(
            "SELECT study_key, reason, message, flags, header FROM files "
            "WHERE path = ? AND present AND refused_by_header",
            (os.fsencode(entry.file.path),),
        )
        if not any(tuple(row) == known and _says(header, entry.header) for *row, header in said):
            return False
        self._store.execute(
            "UPDATE files SET size_bytes = ?, mtime_ns = ? WHERE path = ?",
            (entry.file.size_bytes, entry.file.mtime_ns, os.fsencode(entry.file.path)),
        )
        return True

    def _put_file(self, entry: IndexedFile) -> None:
        rejection = entry.rejection
        self._store.execute(
            "INSERT OR REPLACE INTO files (path, size_bytes, mtime_ns, study_key, status, reason, message, "
            "refused_by_header, header, flags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(entry.file.path),
                entry.file.size_bytes,
                entry.file.mtime_ns,
                entry.study_key,
                "rejected" if rejection else "pending",
                rejection.reason.value if rejection else "",
                storable(rejection.message) if rejection else "",
                rejection is not None,
                to_json(entry.header),
                to_json(entry.flags),
            ),
        )


def _says(text: str, header: Header) -> bool:
    """Tell whether a cell says the same of a header; an earlier version may not have written all of its fields."""
    try:
        return text == to_json(header) or from_json(text, Header) == header
    except ValueError:
        return False


def _storable_file(file: ImageFile) -> ImageFile:
    """Return a file with numbers that SQLite can hold."""
    size, mtime = (max(-LARGEST_INTEGER, min(n, LARGEST_INTEGER)) for n in (file.size_bytes, file.mtime_ns))
    return replace(file, size_bytes=size, mtime_ns=mtime)
