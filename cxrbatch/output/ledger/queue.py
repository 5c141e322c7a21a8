"""The studies that wait to be processed: the queue of the ledger. Start at `StudyQueue`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from cxrbatch.errors import Flag, Reason
from cxrbatch.output.ledger.priors import Priors
from cxrbatch.output.ledger.requeue import REVISION_OF_RESULT, WAITING, Requeue, Told, requeue, requeue_without
from cxrbatch.output.ledger.schema import BY_STUDY, NO_REPORT
from cxrbatch.output.ledger.store import LARGEST_INTEGER, LedgerStore
from cxrbatch.records import Header, ImageFile, IndexedFile, PriorStudy, RefusedImage, SourceFile, now_text

GONE = "gone from the input before it could be scored"


@dataclass(frozen=True, slots=True)
class StudyTask:
    """One study to process: every file of it that may be scored, and those that cannot be, with the reason.

    `headers` are those of all its files, also of the refused ones; what was refused and then removed is settled.
    `sources` are all its files. `attempts`: in how many runs in a row a file failed.
    `priors`: earlier studies of the patient, for the report.
    """

    study_key: str
    revision: int
    files: tuple[IndexedFile, ...]
    refused: tuple[RefusedImage, ...]
    headers: tuple[Header, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    attempts: Mapping[str, int] = field(default_factory=dict)
    priors: tuple[PriorStudy, ...] = ()


class StudyQueue:
    """The studies that are `pending`; each waits until the transaction that records its result commits."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def waiting(self) -> tuple[int, str]:
        """Return how many studies wait, and since when the one that waits longest; '' where none does."""
        ((waiting, oldest),) = self._store.rows("SELECT count(*), min(queued_at) FROM studies WHERE status = 'pending'")
        return int(waiting), str(oldest or "")

    def pending_keys(self, *, newest_first: bool = False, since_ns: int = 0) -> list[str]:
        """Return the keys of the studies that wait, by key or by the time of their newest file.

        Args:
            newest_first: whether the study with the newest file comes first.
            since_ns: leave out studies without a file that was modified since, in nanoseconds since 1970.
        """
        newest = "(SELECT max(mtime_ns) FROM files WHERE files.study_key = studies.study_key)"
        order = f"{newest} DESC, study_key" if newest_first else "study_key"
        rows = self._store.rows(
            f"SELECT study_key FROM studies WHERE status = 'pending' AND (? = 0 OR {newest} >= ?) ORDER BY {order}",
            (int(since_ns > 0), min(since_ns, LARGEST_INTEGER)),
        )
        return [study_key for (study_key,) in rows]

    def take(self, study_keys: Iterable[str], *, with_priors: bool = False) -> Iterator[StudyTask]:
        """Yield the task of each study, read as it is drawn; with the earlier studies of its patient as known then."""
        for study_key in study_keys:
            revision = self._store.value("SELECT revision FROM studies WHERE study_key = ?", (study_key,))
            task = replace(self._study_task(study_key, revision + 1), attempts=self.attempts(study_key))
            if with_priors and task.files:
                task = replace(task, priors=Priors(self._store).of(study_key, task.files[0].header))
            yield task

    def waiting_files(self) -> Iterator[tuple[str, str]]:
        """Yield (study key, path) of every file that is there and waits to be scored, study by study."""
        rows = self._store.rows(
            "SELECT study_key, path FROM files WHERE status = 'pending' AND study_key != '' AND present "
            "ORDER BY study_key, path"
        )
        return ((study_key, os.fsdecode(path)) for study_key, path in rows)

    def _study_task(self, study_key: str, revision: int) -> StudyTask:
        rows = self._store.rows(
            "SELECT path, size_bytes, mtime_ns, header, flags, refused_by_header, present, status, reason, message "
            "FROM files WHERE study_key = ? ORDER BY path",
            (study_key,),
        )
        files, refused, sources, headers = [], [], [], []
        for path, size, mtime, header_text, flags, refused_by_header, present, status, reason, message in rows:
            name, header = os.fsdecode(path), self._store.parse(header_text, Header)
            known_flags = self._store.parse(flags, tuple[Flag, ...])
            sources.append(SourceFile(name, size, mtime, bool(refused_by_header), known_flags, header))
            if present or status != "rejected":
                headers.append(header)
            if refused_by_header:
                refused.append(RefusedImage(name, "rejected", reason, message))
            elif present:
                files.append(IndexedFile(ImageFile(name, size, mtime), study_key, header, known_flags))
            # What was scored before it was gone keeps its row; the next revision is made of what is there.
            elif status not in {"scored", "duplicate"}:
                refused.append(RefusedImage(name, "rejected", Reason.VANISHED.value, GONE))
        return StudyTask(study_key, revision, tuple(files), tuple(refused), tuple(headers), tuple(sources))

    def attempts(self, study_key: str) -> dict[str, int]:
        """Return in how many runs in a row the files of a study failed, by path, where they did."""
        rows = self._store.rows("SELECT path, attempts FROM files WHERE study_key = ? AND attempts > 0", (study_key,))
        return {os.fsdecode(path): attempts for path, attempts in rows}

    def put(self, study_key: str) -> None:
        """Set the study to `pending`; to `unscored` where nothing of it can be scored; drop it without files."""
        self._store.execute(
            f"UPDATE files SET {WAITING} WHERE study_key = ? AND present AND NOT refused_by_header "
            "AND status != 'pending'",
            (study_key,),
        )
        count = "SELECT count(*) FROM files WHERE study_key = ?"
        if not self._store.value(count, (study_key,)):
            self._store.execute("DELETE FROM studies WHERE study_key = ?", (study_key,))
            return
        now = now_text()
        waits = self._store.value(f"{count} AND {BY_STUDY} = 'pending'", (study_key,)) > 0
        self._store.execute(
            "INSERT INTO studies (study_key, status, queued_at, arrived_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (study_key) DO UPDATE SET message = '', status = excluded.status, queued_at = CASE "
            "WHEN studies.status = 'pending' AND excluded.status = 'pending' THEN studies.queued_at "
            "ELSE excluded.queued_at END",
            (study_key, "pending" if waits else "unscored", now if waits else "", now),
        )
        if not waits:
            self._store.execute(f"UPDATE studies SET {NO_REPORT} WHERE study_key = ?", (study_key,))

    def give_up_gone(self) -> None:
        """Let go, inside a transaction, of studies with files that are gone and nothing left that could be scored."""
        self._store.execute(
            f"UPDATE studies SET message = '', {REVISION_OF_RESULT}, "
            "status = CASE WHEN result IS NULL THEN 'unscored' ELSE 'reported' END "
            "WHERE status IN ('pending', 'failed') "
            "AND EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key AND NOT present) "
            "AND NOT EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key "
            "AND present AND NOT refused_by_header "
            # All of a study that failed is tried again: perhaps its scores are there and only the report is not.
            f"AND (studies.status = 'failed' OR {BY_STUDY} IN ('pending', 'failed')))"
        )

    def requeue(
        self, *, engine_sha256: str, retry_failed: bool = True, draws: bool = True, told: Told = lambda _: None
    ) -> None:
        """Queue again what failed, and, as far as all of it is still there, what another engine scored.

        Where this run `draws`, also what was scored without pictures, under the same revision: its scores are the same.
        All of that in slices; `told` is told of each how many more studies wait.
        """
        requeue(self._store, Requeue(engine_sha256, retry_failed, draws), told)
        with self._store.transaction():
            self._store.execute(
                f"UPDATE files SET {WAITING} WHERE present AND NOT refused_by_header AND {BY_STUDY} != 'pending' "
                "AND study_key IN (SELECT study_key FROM studies WHERE status = 'pending')"
            )
            self._requeue_failed_of_other_engines(engine_sha256)
            # Its files went to another study, or were refused since: nothing of it is left to score.
            self._store.execute(
                f"UPDATE studies SET message = '', {REVISION_OF_RESULT}, "
                "status = CASE WHEN result IS NULL THEN 'unscored' ELSE 'reported' END WHERE status = 'pending' "
                "AND NOT EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key "
                "AND present AND NOT refused_by_header)"
            )

    def requeue_without(
        self, kept: Literal["maps", "embeddings"], engine_sha256: str, told: Told = lambda _: None
    ) -> None:
        """Queue what this engine scored and kept none of these of, under the same revision; looks at every result."""
        requeue_without(self._store, kept, engine_sha256, told)

    def _requeue_failed_of_other_engines(self, engine_sha256: str) -> None:
        """Queue the studies of files that another engine gave no number for; this one may."""
        others = "failed_engine != '' AND (failed_engine < ? OR failed_engine > ?)"
        # Named, lest SQLite read all files in the order of their studies, to tell these apart.
        query = f"SELECT study_key FROM files INDEXED BY files_by_failed_engine WHERE present AND {others}"
        for study_key in sorted({key for (key,) in self._store.rows(query, (engine_sha256, engine_sha256))}):
            self.put(study_key)
        self._store.execute(
            f"UPDATE files SET attempts = 0, failed_engine = '' WHERE {others}", (engine_sha256, engine_sha256)
        )

    def requeue_unprinted(self) -> None:
        """Queue the studies whose reports could not be printed, also those that were given up."""
        with self._store.transaction():
            for (study_key,) in list(self._store.rows("SELECT study_key FROM studies WHERE attempts > 0")):
                self.put(study_key)
                self._store.execute("UPDATE studies SET attempts = 0 WHERE study_key = ?", (study_key,))
