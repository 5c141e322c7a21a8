"""What became of files and studies: results, reports, and the rows of the tables. Start at `StudyResults`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from cxrbatch.output.ledger.attempts import ATTEMPTS
from cxrbatch.output.ledger.outbox import Outbox, forget_announcements
from cxrbatch.output.ledger.priors import text_of
from cxrbatch.output.ledger.rows import FILE_COLUMNS, file_row
from cxrbatch.output.ledger.schema import BY_STUDY, NO_REPORT
from cxrbatch.output.ledger.standing import standing
from cxrbatch.output.ledger.store import LedgerStore, storable
from cxrbatch.records import FileRow, Header, ImageResult, PrintedStudy, RefusedImage, StudyResult, StudyRow, now_text
from cxrbatch.system.record_json import to_json

# Says of a file that its row is not about it any more: the next index reads its header again, whatever its times say.
CHANGED = "cannot be read now: it changed since it was indexed"

_NOT_SCORED = (
    "engine = '', engine_sha256 = '', backend = '', precision = '', probabilities = '[]', disagreement = '[]', "
    "scored_at = '', distance = NULL, grey = NULL, places = '[]'"
)
_ORDER = "remove/"


class StudyResults:
    """What every file and study of the ledger came to, as recorded, counted, listed and forgotten."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def record(self, printed: PrintedStudy, *, failure: str = "", unprinted: str = "") -> str:
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
                "report_pdf = ?, reported_at = ?, result = ?, attempts = ?, priors = ?, priority = ?, strength = ? "
                "WHERE study_key = ?",
                (
                    "failed" if failure else "reported",
                    result.revision - 1 if failure else result.revision,
                    storable(failure or note),
                    result.engine.sha256,
                    printed.report_html,
                    printed.report_pdf,
                    now_text() if printed.is_printed or not failure else "",
                    self._store.engines.text(result),
                    attempts,
                    text_of(printed.priors),
                    *standing(result),
                    result.study_key,
                ),
            )
            Outbox(self._store).announce(result)
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
                f"UPDATE studies SET status = ?, message = ?{'' if failure else f', {NO_REPORT}'} WHERE study_key = ?",
                ("failed" if failure else "unscored", storable(failure), study_key),
            )

    def record_printed(self, printed: PrintedStudy) -> None:
        """Record where the reports of a scored study lie after printing them again.

        A study that failed in printing only is done with that; one with an image that failed still waits.
        """
        key = printed.result.study_key
        with self._store.transaction():
            self._store.execute(
                "UPDATE studies SET report_html = ?, report_pdf = ?, reported_at = ?, attempts = 0, priors = ?, "
                "message = CASE WHEN status = 'reported' THEN '' ELSE message END WHERE study_key = ?",
                (printed.report_html, printed.report_pdf, now_text(), text_of(printed.priors), key),
            )
            self._store.execute(
                "UPDATE studies SET status = 'reported', revision = ?, message = '' WHERE study_key = ? "
                "AND status = 'failed' AND NOT EXISTS "
                f"(SELECT 1 FROM files WHERE study_key = ? AND {BY_STUDY} IN ('failed', 'pending'))",
                (printed.result.revision, key, key),
            )

    def _record_image(self, image: ImageResult, result: StudyResult) -> None:
        engine = result.engine
        self._store.execute(
            "UPDATE files SET status = 'scored', reason = '', message = '', flags = ?, engine = ?, "
            "engine_sha256 = ?, backend = ?, precision = ?, probabilities = ?, disagreement = ?, scored_at = ?, "
            "distance = ?, grey = ?, places = ?, attempts = 0, failed_engine = '' WHERE path = ?",
            (
                to_json(image.flags),
                engine.name,
                engine.sha256,
                engine.backend,
                engine.precision,
                to_json(image.probabilities),
                to_json(image.disagreement),
                result.scored_at,
                image.distance,
                image.grey,
                to_json(image.places),
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
                    storable(image.message),
                    image.engine_sha256,
                    image.status,
                    int(image.counts),
                    os.fsencode(image.path),
                ),
            )
            if image.message == CHANGED:
                self._store.execute("UPDATE files SET mtime_ns = -1 WHERE path = ?", (os.fsencode(image.path),))

    def count_files(self) -> dict[str, int]:
        """Return how many files have each status."""
        return dict(self._pairs("SELECT status, count(*) FROM files GROUP BY status"))

    def count_reasons(self) -> dict[str, int]:
        """Return how many files were refused for each reason."""
        return dict(self._pairs("SELECT reason, count(*) FROM files WHERE reason != '' GROUP BY reason"))

    def count_unlike_training(self, engine_sha256: str) -> int:
        """Return how many files this engine scored that lie beyond the threshold of its distance."""
        query = "SELECT count(*) FROM files WHERE status = 'scored' AND engine_sha256 = ? AND distance > 1"
        return int(self._store.value(query, (engine_sha256,)) or 0)

    def count_studies(self) -> dict[str, int]:
        """Return how many studies have each status."""
        return dict(self._pairs("SELECT status, count(*) FROM studies GROUP BY status"))

    def failures(self) -> dict[str, str]:
        """Return what went wrong with each study that failed, by study key."""
        return dict(self._pairs("SELECT study_key, message FROM studies WHERE status = 'failed' ORDER BY study_key"))

    def keys_with_report(self) -> set[str]:
        """Return the keys of all studies that have a result, of this revision or the one before."""
        return set(self.keys_with_result())

    def keys_with_result(self) -> Iterator[str]:
        """Yield the same keys, one by one."""
        # Named: what it needs is in this index, and of a million rows each is looked up from any other one.
        query = "SELECT study_key FROM studies INDEXED BY studies_by_reading WHERE strength IS NOT NULL"
        return (key for (key,) in self._store.rows(query))

    def keys_without_pictures(self) -> Iterator[str]:
        """Yield the keys of all studies whose results have no pictures, and so no reports."""
        query = "SELECT study_key FROM studies WHERE json_extract(result, '$.pictures') = 0"
        return (key for (key,) in self._store.rows(query))

    def file_rows(self, only: bytes | None = None) -> Iterator[FileRow]:
        """Yield one row per file that was ever met, by path; with `only`, that one alone."""
        rows = self._store.rows(
            f"SELECT {FILE_COLUMNS} FROM files {'ORDER BY path' if only is None else 'WHERE path = ?'}",
            () if only is None else (only,),
        )
        return (file_row(self._store, row) for row in rows)

    def study_rows(self, study_key: str = "") -> Iterator[StudyRow]:
        """Yield one row per study, by key; with `study_key`, that one only."""
        chosen = ("WHERE study_key = ?", (study_key,)) if study_key else ("", ())
        return self.select_studies(f"{chosen[0]} ORDER BY study_key", chosen[1])

    def reported_since(self, moment: str) -> Iterator[StudyRow]:
        """Yield the studies whose report is from after `moment` (UTC, as `now_text`), the earliest first."""
        # Named: of a million studies, those of a night are looked up.
        which = "INDEXED BY studies_by_report WHERE reported_at > ? AND reported_at != ''"
        return self.select_studies(f"{which} ORDER BY reported_at, study_key", (moment,))

    def study_rows_by_arrival(self) -> Iterator[StudyRow]:
        """Yield one row per study, the one that came first first: what comes later changes nothing before it."""
        # Named, lest SQLite sort all results, which are most of the ledger.
        return self.select_studies("INDEXED BY studies_by_arrival ORDER BY arrived_at, study_key", ())

    def select_studies(self, which: str, parameters: tuple[str, ...]) -> Iterator[StudyRow]:
        """Yield the studies that the end of a query selects, in its order."""
        rows = self._store.rows(
            "SELECT study_key, status, revision, message, report_html, report_pdf, reported_at, result, arrived_at "
            f"FROM studies {which}",
            parameters,
        )
        for key, status, revision, message, html, pdf, reported_at, result, arrived_at in rows:
            files = list(self._store.rows("SELECT status, reason FROM files WHERE study_key = ?", (key,)))
            known = self._store.parse_result(result) if result else None
            yield StudyRow(
                study_key=key,
                header=known.header if known else self._first_header(key),
                revision=revision,
                status=status,
                n_images=len(files),
                n_scored=sum(file_status == "scored" for file_status, _ in files),
                reasons=tuple(sorted({reason for _, reason in files if reason})),
                message=message,
                report_html=html,
                report_pdf=pdf,
                thumbnail=_thumbnail(known) if known else "",
                reported_at=reported_at,
                result=known,
                arrived_at=arrived_at,
            )

    def _first_header(self, study_key: str) -> Header:
        text = self._store.value("SELECT header FROM files WHERE study_key = ? ORDER BY path LIMIT 1", (study_key,))
        return self._store.parse(text, Header) if text else Header()

    def _pairs(self, query: str) -> Iterator[tuple[str, Any]]:
        return ((first, second) for first, second in self._store.rows(query))

    def forget(self, study_keys: Iterable[str]) -> None:
        """Remove all rows of these studies, as if they had never been met: all of them, or none."""
        with self._store.transaction(durable=True):
            for study_key in study_keys:
                self.order_removal(study_key)
                forget_announcements(self._store, study_key)
                self._store.execute("DELETE FROM files WHERE study_key = ?", (study_key,))
                self._store.execute("DELETE FROM studies WHERE study_key = ?", (study_key,))

    def order_removal(self, study_key: str) -> None:
        """Order, inside a transaction, that the study's report folder goes.

        The order stands from the transaction in which the rows go until the folder is gone. A report folder of which
        the ledger has no row may be one that was finished just before a crash: only an order tells that from one that
        was meant to go.
        """
        self._store.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, '')", (_ORDER + study_key,))

    def ordered_removals(self) -> list[str]:
        """Return the keys of the studies whose report folders are to go."""
        query = "SELECT key FROM meta WHERE key >= ? AND key < ? ORDER BY key"
        return [key.removeprefix(_ORDER) for (key,) in self._store.rows(query, (_ORDER, _ORDER + "~"))]

    def removals_done(self, study_keys: list[str]) -> None:
        """Forget the orders: the folders are gone."""
        if not study_keys:
            return
        with self._store.transaction():
            for study_key in study_keys:
                self._store.execute("DELETE FROM meta WHERE key = ?", (_ORDER + study_key,))


def _thumbnail(result: StudyResult) -> str:
    name = result.images[0].thumbnail_file
    return f"reports/{result.study_key}/{name}" if name else ""
