"""The ledger, the one source of truth of an output folder. Start at `Ledger`.

A file is one row under its path; a study is one row under its key. The ledger is also the queue: a study is `pending`
until the transaction that records its result commits, and keeps what an earlier revision said until then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from cxrbatch.errors import Flag, Reason
from cxrbatch.output.folder.place import HeldPlace
from cxrbatch.output.ledger.arrivals import ArrivalTable
from cxrbatch.output.ledger.attempts import ATTEMPTS, failed_again
from cxrbatch.output.ledger.names import Names, rewrite_names
from cxrbatch.output.ledger.removal import order_removal
from cxrbatch.output.ledger.rows import file_rows, parse, study_rows
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import (
    FileRow,
    Header,
    ImageFile,
    ImageResult,
    IndexedFile,
    PrintedStudy,
    RefusedImage,
    Rejection,
    SourceFile,
    StudyResult,
    StudyRow,
    now_text,
)
from cxrbatch.system.record_json import to_json

LEDGER_FILE = "ledger.sqlite"
INPUT, INPUT_SHA256, ENGINE = "input", "input_sha256", "engine"
# Whether nothing here names a patient: "yes"; CONVERTING where that was asked for and is not done yet; or "".
DEIDENTIFIED, CONVERTING = "deidentified", "converting"
# What SQLite can compare a time with; in nanoseconds, the year 2262.
LARGEST_INTEGER = 2**63 - 1
GONE = "gone from the input before it could be scored"
# Says of a file that its row is not about it any more: the next index reads its header again, whatever its times say.
CHANGED = "cannot be read now: it changed since it was indexed"

_NOT_SCORED = "engine = '', engine_sha256 = '', backend = '', precision = '', probabilities = '[]', scored_at = ''"
# Reasons that lie in the other files of the study: removing one of those may settle it.
SETTLED_BY_REMOVAL = (
    Reason.CONFLICTING_DUPLICATE.value,
    Reason.PATIENT_CONFLICT.value,
    Reason.TOO_MANY_IMAGES.value,
)
# What it was scored before stays in the ledger, though in no table: if the file is gone by then, that stands.
# The plus keeps SQLite from looking through all files of a status for those of a study: it cannot know that these
# are few, and the first index of 200,000 files would take time with the square of their number.
_BY_STUDY = "+status"
_WAITING = "status = 'pending', reason = '', message = ''"
# A study that failed is to be done again under the same revision, and counts one less until then.
_REVISION_OF_RESULT = "revision = max(revision, coalesce(json_extract(result, '$.revision'), 0))"
_NO_REPORT = "result = NULL, report_html = '', report_pdf = '', reported_at = ''"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What the ledger remembers of a file, to tell whether it changed; `mtime_ns` -1: its header is yet to be read."""

    size_bytes: int
    mtime_ns: int
    present: bool
    refused: bool = False

    def is_same(self, file: ImageFile) -> bool:
        """Tell whether the file is as it was when its header was read."""
        return (self.size_bytes, self.mtime_ns) == (file.size_bytes, file.mtime_ns)


@dataclass(frozen=True, slots=True)
class StudyTask:
    """One study to process: every file of it that may be scored, and those that cannot be, with the reason.

    `headers` are those of all its files, also of the refused ones; what was refused and then removed is settled.
    `sources` are all its files. `attempts`: in how many runs in a row a file failed.
    """

    study_key: str
    revision: int
    files: tuple[IndexedFile, ...]
    refused: tuple[RefusedImage, ...]
    headers: tuple[Header, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    attempts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OldStudy:
    """A study reported some time ago, its files, and whether the last walk met any of them."""

    study_key: str
    reported_at: str
    is_present: bool
    paths: tuple[str, ...]


class Ledger:
    """What is known of every file and study of one output folder."""

    def __init__(self, folder: Path, *, may_be_empty: Callable[[], bool] = lambda: True) -> None:
        """Open the ledger of `folder`, or start one; arguments and errors are those of `LedgerStore`."""
        self._store = LedgerStore(folder / LEDGER_FILE, may_be_empty=may_be_empty)
        self.home = HeldPlace(folder)
        self.arrivals = ArrivalTable(self._store)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    def stay_in(self, home: HeldPlace) -> None:
        """Record nothing any more once something of `home` is not where it was."""
        self.home = home
        self._store.guard = home.check

    @property
    def store(self) -> LedgerStore:
        """The database, for what sets the ledger right after a kill (`ledger_settle`)."""
        return self._store

    # ----------------------------------------------------------------- index

    def known_files(self) -> dict[str, KnownFile]:
        """Return every file that was ever met, by path."""
        rows = self._store.rows("SELECT path, size_bytes, mtime_ns, present, status = 'rejected' FROM files")
        return {
            os.fsdecode(path): KnownFile(size, mtime, bool(present), bool(refused))
            for path, size, mtime, present, refused in rows
        }

    def record_index(self, entries: Iterable[IndexedFile]) -> None:
        """Record what the index found in new or changed files, and queue the studies that they belong to.

        A file that is refused for the same reason as before is no news for its study.
        """
        with self._store.transaction():
            for entry in entries:
                if self._is_refused_again(entry):
                    continue
                former = self._study_of(entry.file.path)
                self._put_file(entry)
                for study_key in {former, entry.study_key} - {""}:
                    self._queue_study(study_key)

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
                (os.fsencode(file.path), file.size_bytes, _storable(message), to_json(Header())),
            )

    def record_failed_index(self, file: ImageFile, reason: Reason, message: str) -> bool:
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
            self.record_index([IndexedFile(file, "", Header(), rejection=Rejection(reason, failed.message))])
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
            settled = self._keys_settled_by_removal() if gone else set()
            for study_key in {self._study_of(path) for path in gone} & settled:
                self._queue_study(study_key)
            self._store.execute(
                "UPDATE files SET status = 'scored' WHERE NOT present AND status = 'pending' AND engine_sha256 != ''"
            )
            self._store.execute(
                "UPDATE files SET status = 'rejected', reason = ?, message = ? "
                "WHERE NOT present AND NOT refused_by_header AND status IN ('pending', 'failed')",
                (Reason.VANISHED.value, GONE),
            )
            self._store.execute(
                f"UPDATE studies SET message = '', {_REVISION_OF_RESULT}, "
                "status = CASE WHEN result IS NULL THEN 'unscored' ELSE 'reported' END "
                "WHERE status IN ('pending', 'failed') "
                "AND EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key AND NOT present) "
                "AND NOT EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key "
                "AND present AND NOT refused_by_header "
                # All of a study that failed is tried again: perhaps its scores are there and only the report is not.
                f"AND (studies.status = 'failed' OR {_BY_STUDY} IN ('pending', 'failed')))"
            )

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
                self._queue_study(study_key)

    def requeue(self, *, engine_sha256: str, retry_failed: bool = True) -> None:
        """Queue again what failed, and what another engine scored as far as all of it is still there."""
        failed = "status = 'failed' OR " if retry_failed else ""
        with self._store.transaction():
            # Two ranges, not !=, which no index serves: with nothing to do, no study is looked at.
            self._store.execute(
                f"UPDATE studies SET status = 'pending', queued_at = ? WHERE {failed}"
                "(status = 'reported' AND (engine_sha256 < ? OR engine_sha256 > ?) AND NOT EXISTS "
                "(SELECT 1 FROM files WHERE files.study_key = studies.study_key AND NOT present "
                "AND NOT refused_by_header))",
                (now_text(), engine_sha256, engine_sha256),
            )
            self._store.execute(
                f"UPDATE files SET {_WAITING} WHERE present AND NOT refused_by_header AND {_BY_STUDY} != 'pending' "
                "AND study_key IN (SELECT study_key FROM studies WHERE status = 'pending')"
            )
            self._requeue_failed_of_other_engines(engine_sha256)
            # Its files went to another study, or were refused since: nothing of it is left to score.
            self._store.execute(
                f"UPDATE studies SET message = '', {_REVISION_OF_RESULT}, "
                "status = CASE WHEN result IS NULL THEN 'unscored' ELSE 'reported' END WHERE status = 'pending' "
                "AND NOT EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key "
                "AND present AND NOT refused_by_header)"
            )

    def _requeue_failed_of_other_engines(self, engine_sha256: str) -> None:
        """Queue the studies of files that another engine gave no number for; this one may."""
        others = "failed_engine != '' AND (failed_engine < ? OR failed_engine > ?)"
        query = f"SELECT DISTINCT study_key FROM files WHERE present AND {others}"
        for (study_key,) in list(self._store.rows(query, (engine_sha256, engine_sha256))):
            self._queue_study(study_key)
        self._store.execute(
            f"UPDATE files SET attempts = 0, failed_engine = '' WHERE {others}", (engine_sha256, engine_sha256)
        )

    def requeue_unprinted(self) -> None:
        """Queue the studies whose reports could not be printed, also those that were given up."""
        with self._store.transaction():
            for (study_key,) in list(self._store.rows("SELECT study_key FROM studies WHERE attempts > 0")):
                self._queue_study(study_key)
                self._store.execute("UPDATE studies SET attempts = 0 WHERE study_key = ?", (study_key,))

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
        known = (entry.study_key, rejection.reason.value, _storable(rejection.message))
        said = self._store.rows(
            "SELECT study_key, reason, message, header, flags FROM files "
            "WHERE path = ? AND present AND refused_by_header",
            (os.fsencode(entry.file.path),),
        )
        if list(said) != [(*known, to_json(entry.header), to_json(entry.flags))]:
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
                _storable(rejection.message) if rejection else "",
                rejection is not None,
                to_json(entry.header),
                to_json(entry.flags),
            ),
        )

    def _queue_study(self, study_key: str) -> None:
        """Set the study to `pending`; to `unscored` where nothing of it can be scored; drop it without files."""
        self._store.execute(
            f"UPDATE files SET {_WAITING} WHERE study_key = ? AND present AND NOT refused_by_header "
            "AND status != 'pending'",
            (study_key,),
        )
        count = "SELECT count(*) FROM files WHERE study_key = ?"
        if not self._store.value(count, (study_key,)):
            self._store.execute("DELETE FROM studies WHERE study_key = ?", (study_key,))
            return
        waits = self._store.value(f"{count} AND {_BY_STUDY} = 'pending'", (study_key,)) > 0
        self._store.execute(
            "INSERT INTO studies (study_key, status, queued_at) VALUES (?, ?, ?) ON CONFLICT (study_key) "
            "DO UPDATE SET message = '', status = excluded.status, queued_at = CASE WHEN studies.status = 'pending' "
            "AND excluded.status = 'pending' THEN studies.queued_at ELSE excluded.queued_at END",
            (study_key, "pending" if waits else "unscored", now_text() if waits else ""),
        )
        if not waits:
            self._store.execute(f"UPDATE studies SET {_NO_REPORT} WHERE study_key = ?", (study_key,))

    # ----------------------------------------------------------------- queue

    def queue(self) -> tuple[int, str]:
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

    def take(self, study_keys: Iterable[str]) -> Iterator[StudyTask]:
        """Yield the task of each study, read as it is drawn."""
        for study_key in study_keys:
            revision = self._store.value("SELECT revision FROM studies WHERE study_key = ?", (study_key,))
            yield replace(self._study_task(study_key, revision + 1), attempts=self.attempts(study_key))

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
            name, header = os.fsdecode(path), parse(self._store, header_text, Header)
            known_flags = parse(self._store, flags, tuple[Flag, ...])
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

    # ----------------------------------------------------------------- results

    def record_study(self, printed: PrintedStudy, *, failure: str = "", unprinted: str = "") -> str:
        """Record a scored study and all its files in one transaction.

        `failure` says what could not be read, `unprinted` what could not be printed: the scores stand in the tables,
        and the study is tried again in the next run, under the same revision. A report that could not be printed in
        three runs in a row is given up.

        Returns:
            Why the study is tried again; empty where it is done with.
        """
        result = printed.result
        # What it replaces in the report folder is removed next: not even a power cut may undo this.
        with self._store.transaction(durable=True):
            attempts = self._unprinted_before(result.study_key) + 1 if unprinted else 0
            given_up = attempts >= ATTEMPTS and not failure
            note = f"{unprinted}, in {attempts} runs in a row; --retry rejected tries it again" if given_up else ""
            failure = "" if given_up else unprinted or failure
            for image in result.images:
                self._record_image(image, result)
            self._record_refused(result.refused)
            self._store.execute(
                "UPDATE studies SET status = ?, revision = ?, message = ?, engine_sha256 = ?, report_html = ?, "
                "report_pdf = ?, reported_at = ?, result = ?, attempts = ? WHERE study_key = ?",
                (
                    "failed" if failure else "reported",
                    result.revision - 1 if failure else result.revision,
                    _storable(failure or note),
                    result.engine.sha256,
                    printed.report_html,
                    printed.report_pdf,
                    now_text() if printed.is_printed or not failure else "",
                    to_json(result),
                    attempts,
                    result.study_key,
                ),
            )
        return failure

    def _unprinted_before(self, study_key: str) -> int:
        return int(self._store.value("SELECT attempts FROM studies WHERE study_key = ?", (study_key,)) or 0)

    def record_unscored(self, study_key: str, refused: Iterable[RefusedImage], *, failure: str = "") -> None:
        """Record a study none of whose images got a score.

        With `failure` that is for now: it is tried again, and what an earlier revision said stands. Without,
        it is the verdict, and an earlier report is no longer true.
        """
        with self._store.transaction():
            self._record_refused(refused)
            self._store.execute(
                f"UPDATE studies SET status = ?, message = ?{'' if failure else f', {_NO_REPORT}'} WHERE study_key = ?",
                ("failed" if failure else "unscored", _storable(failure), study_key),
            )

    def record_printed(self, printed: PrintedStudy) -> None:
        """Record where the reports of a scored study lie after printing them again.

        A study that failed in printing only is done with that; one with an image that failed still waits.
        """
        key = printed.result.study_key
        with self._store.transaction():
            self._store.execute(
                "UPDATE studies SET report_html = ?, report_pdf = ?, reported_at = ?, attempts = 0, "
                "message = CASE WHEN status = 'reported' THEN '' ELSE message END WHERE study_key = ?",
                (printed.report_html, printed.report_pdf, now_text(), key),
            )
            self._store.execute(
                "UPDATE studies SET status = 'reported', revision = ?, message = '' WHERE study_key = ? "
                "AND status = 'failed' AND NOT EXISTS "
                f"(SELECT 1 FROM files WHERE study_key = ? AND {_BY_STUDY} IN ('failed', 'pending'))",
                (printed.result.revision, key, key),
            )

    def _record_image(self, image: ImageResult, result: StudyResult) -> None:
        engine = result.engine
        self._store.execute(
            "UPDATE files SET status = 'scored', reason = '', message = '', flags = ?, engine = ?, "
            "engine_sha256 = ?, backend = ?, precision = ?, probabilities = ?, scored_at = ?, attempts = 0, "
            "failed_engine = '' WHERE path = ?",
            (
                to_json(image.flags),
                engine.name,
                engine.sha256,
                engine.backend,
                engine.precision,
                to_json(image.probabilities),
                result.scored_at,
                os.fsencode(image.path),
            ),
        )

    def _record_refused(self, refused: Iterable[RefusedImage]) -> None:
        for image in refused:
            self._store.execute(
                "UPDATE files SET status = ?, reason = ?, message = ?, failed_engine = ?, "
                f"attempts = CASE ? WHEN 'duplicate' THEN 0 ELSE attempts + ? END, {_NOT_SCORED} WHERE path = ?",
                (
                    image.status,
                    image.reason,
                    _storable(image.message),
                    image.engine_sha256,
                    image.status,
                    int(image.counts),
                    os.fsencode(image.path),
                ),
            )
            if image.message == CHANGED:
                self._store.execute("UPDATE files SET mtime_ns = -1 WHERE path = ?", (os.fsencode(image.path),))

    # ----------------------------------------------------------------- tables

    def count_files(self) -> dict[str, int]:
        """Return how many files have each status."""
        return dict(self._pairs("SELECT status, count(*) FROM files GROUP BY status"))

    def count_reasons(self) -> dict[str, int]:
        """Return how many files were refused for each reason."""
        return dict(self._pairs("SELECT reason, count(*) FROM files WHERE reason != '' GROUP BY reason"))

    def count_studies(self) -> dict[str, int]:
        """Return how many studies have each status."""
        return dict(self._pairs("SELECT status, count(*) FROM studies GROUP BY status"))

    def failures(self) -> dict[str, str]:
        """Return what went wrong with each study that failed, by study key."""
        return dict(self._pairs("SELECT study_key, message FROM studies WHERE status = 'failed' ORDER BY study_key"))

    def keys_with_report(self) -> set[str]:
        """Return the keys of all studies that have a result, of this revision or the one before."""
        return {key for (key,) in self._store.rows("SELECT study_key FROM studies WHERE result IS NOT NULL")}

    def file_rows(self) -> Iterator[FileRow]:
        """Yield one row per file that was ever met, by path."""
        return file_rows(self._store)

    def study_rows(self, study_key: str = "") -> Iterator[StudyRow]:
        """Yield one row per study, by key; with `study_key`, that one only."""
        return study_rows(self._store, study_key)

    def _pairs(self, query: str) -> Iterator[tuple[str, Any]]:
        return ((first, second) for first, second in self._store.rows(query))

    # ----------------------------------------------------------------- retention

    def reported_before(self, moment: str) -> list[OldStudy]:
        """Return the finished studies whose report is from before `moment` (UTC, as `now_text`), oldest first."""
        studies = self._store.rows(
            "SELECT study_key, reported_at FROM studies WHERE status = 'reported' AND reported_at < ? "
            "AND reported_at != '' ORDER BY reported_at, study_key",
            (moment,),
        )
        return [self._old_study(study_key, reported_at) for study_key, reported_at in studies]

    def forget_studies(self, study_keys: Iterable[str]) -> None:
        """Remove all rows of these studies, as if they had never been met: all of them, or none."""
        with self._store.transaction(durable=True):
            for study_key in study_keys:
                order_removal(self._store, study_key)
                self._store.execute("DELETE FROM files WHERE study_key = ?", (study_key,))
                self._store.execute("DELETE FROM studies WHERE study_key = ?", (study_key,))

    def _old_study(self, study_key: str, reported_at: str) -> OldStudy:
        files = list(self._store.rows("SELECT path, present FROM files WHERE study_key = ?", (study_key,)))
        paths = tuple(os.fsdecode(path) for path, _ in files)
        return OldStudy(study_key, reported_at, any(present for _, present in files), paths)

    # ----------------------------------------------------------------- names

    @property
    def folder(self) -> Path:
        """The folder that the ledger lies in."""
        return self._store.path.parent

    def take_names_out(self, names: Names) -> None:
        """Rewrite every row that names a patient, and queue again the studies whose pictures show a name."""
        with self._store.transaction():
            for study_key in rewrite_names(self._store, names):
                self._store.execute(f"UPDATE studies SET {_NO_REPORT} WHERE study_key = ?", (study_key,))
                self._queue_study(study_key)

    def vacuum(self) -> None:
        """Leave nothing in the ledger's files that is in no row any more."""
        self._store.vacuum()

    def check(self) -> None:
        """Look through the whole ledger for damage; raises LedgerDamaged where there is some."""
        self._store.check()

    # ----------------------------------------------------------------- facts about the folder itself

    def fact(self, key: str) -> str:
        """Return what was remembered under `key`, or an empty string."""
        return str(self._store.value("SELECT value FROM meta WHERE key = ?", (key,)) or "")

    def remember(self, key: str, value: str, *, durable: bool = False) -> None:
        """Keep a fact about this output folder; what is known already is not written again."""
        if self._store.value("SELECT value FROM meta WHERE key = ?", (key,)) == _storable(value):
            return
        with self._store.transaction(durable=durable):
            self._store.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, _storable(value)))


def _storable(text: str) -> str:
    """Return text that SQLite can hold: lone surrogates (bytes of a name that are not UTF-8) as \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode()


def _storable_file(file: ImageFile) -> ImageFile:
    """Return a file with numbers that SQLite can hold."""
    size, mtime = (max(-LARGEST_INTEGER, min(n, LARGEST_INTEGER)) for n in (file.size_bytes, file.mtime_ns))
    return replace(file, size_bytes=size, mtime_ns=mtime)
