"""Rows for results that are found on disk, such that nothing is scored again.

`Restorer` fills a ledger that is made anew. The functions say what the ledger has of one study whose report folder may
be ahead of it, as after a kill, and bring it level.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cxrbatch.errors import Reason
from cxrbatch.intake.patient import identify
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.schema_growth import UNKNOWN_PRIORS
from cxrbatch.output.ledger.standing import standing
from cxrbatch.output.ledger.store import LedgerStore, storable
from cxrbatch.records import Header, ImageResult, PrintedStudy, RefusedImage, SourceFile, StudyResult
from cxrbatch.system.record_json import to_json

UNKNOWN = -1
"""mtime_ns of a file whose result.json does not say it: the next index reads it again."""

TAKEN_OVER = "one of its files belongs to another study now"

UNPRINTED = "its report was not printed to the end"
"""Why a study failed whose pictures and result are there: the next run, or `report`, prints it without its image."""

LOST = "its report is missing from the output folder"


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study as its report folder tells: its result, its reports relative to OUT, and why it is to be done again."""

    result: StudyResult
    report_html: str
    report_pdf: str
    reported_at: str
    failure: str = ""


@dataclass(slots=True)
class Restorer:
    """Puts studies into an empty ledger, one by one, in any order; what is in two results goes to the later one."""

    store: LedgerStore
    scored_at: dict[str, str] = field(default_factory=dict)
    overruled: set[str] = field(default_factory=set)

    def put(self, study: FoundStudy) -> None:
        """Put the study and its files into the ledger."""
        result = study.result
        self.scored_at[result.study_key] = result.scored_at
        self._put_study(study)
        for source in _sources(result):
            if self._is_ours(source.path, result):
                self._put_file(source, result)

    def finish(self) -> int:
        """Let studies that lost a file to a later one be done again; return how many studies there are."""
        for key in self.overruled:
            self.store.execute(
                "UPDATE studies SET status = 'failed', message = ?, revision = max(revision - 1, 0) "
                "WHERE study_key = ? AND status = 'reported'",
                (TAKEN_OVER, key),
            )
        self.store.execute(
            "DELETE FROM studies WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key)"
        )
        return int(self.store.value("SELECT count(*) FROM studies"))

    def _is_ours(self, path: str, result: StudyResult) -> bool:
        other = self.store.value("SELECT study_key FROM files WHERE path = ?", (os.fsencode(path),))
        if other is None or other == result.study_key:
            return True
        later = self.scored_at[other] <= result.scored_at
        self.overruled.add(other if later else result.study_key)
        return later

    def _put_study(self, study: FoundStudy) -> None:
        result = study.result
        self.store.execute(
            "INSERT INTO studies (study_key, status, revision, message, engine_sha256, report_html, report_pdf, "
            "reported_at, result, priors, arrived_at, priority, strength) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                result.study_key,
                "failed" if study.failure else "reported",
                result.revision - 1 if study.failure else result.revision,
                study.failure,
                result.engine.sha256,
                study.report_html,
                study.report_pdf,
                study.reported_at,
                self.store.engines.text(result),
                UNKNOWN_PRIORS if identify(result.header).patient_id else "",
                result.scored_at,
                *standing(result),
            ),
        )

    def _put_file(self, source: SourceFile, result: StudyResult) -> None:
        image = next((image for image in result.images if image.path == source.path), None)
        refusal = next((image for image in result.refused if image.path == source.path), None)
        said = _scored(image, result) if image else _refused(refusal, source)
        columns = {
            "path": os.fsencode(source.path),
            "size_bytes": source.size_bytes,
            "mtime_ns": source.mtime_ns,
            "study_key": result.study_key,
            # What had gone before it could be scored is gone still, or comes back and is queued.
            "present": refusal is None or refusal.reason != Reason.VANISHED.value,
            "refused_by_header": source.refused_by_header,
            "header": to_json(source.header or (image.header if image else Header())),
            **said,
        }
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        self.store.execute(f"INSERT OR REPLACE INTO files ({names}) VALUES ({places})", tuple(columns.values()))


def _sources(result: StudyResult) -> Iterator[SourceFile]:
    """Yield every file of a study; of a result that does not know them, its paths, as files to be read again."""
    if result.files:
        yield from result.files
        return
    paths = [*(image.path for image in result.images), *(image.path for image in result.refused)]
    yield from (SourceFile(path, 0, UNKNOWN) for path in paths)


def _scored(image: ImageResult, result: StudyResult) -> dict[str, str | float | None]:
    engine = result.engine
    return {
        "status": "scored",
        "flags": to_json(image.flags),
        "engine": engine.name,
        "engine_sha256": engine.sha256,
        "backend": engine.backend,
        "precision": engine.precision,
        "probabilities": to_json(image.probabilities),
        "disagreement": to_json(image.disagreement),
        "places": to_json(image.places),
        "scored_at": result.scored_at,
        "distance": image.distance,
        "grey": image.grey,
    }


def _refused(refusal: RefusedImage | None, source: SourceFile) -> dict[str, str | float | None]:
    if refusal is None:
        return {"status": "pending", "flags": to_json(source.flags)}
    return {
        "status": refusal.status,
        "reason": refusal.reason,
        "message": storable(refusal.message),
        "flags": to_json(source.flags),
    }


@dataclass(frozen=True, slots=True)
class KnownStudy:
    """What the ledger has of a study: its status, the result that its rows are of, and where its reports lie."""

    status: str
    result: StudyResult | None
    report_html: str
    report_pdf: str


def known_study(ledger: Ledger, study_key: str) -> KnownStudy | None:
    """Return what the ledger has of this study; None where it does not know it."""
    query = "SELECT status, result, report_html, report_pdf FROM studies WHERE study_key = ?"
    for status, result, report_html, report_pdf in ledger.store.rows(query, (study_key,)):
        known = ledger.store.parse_result(result) if result else None
        return KnownStudy(status, known, report_html, report_pdf)
    return None


def adopt(ledger: Ledger, printed: PrintedStudy, *, failure: str, is_known: bool) -> None:
    """Record a result that is whole on the disk as if the commit that was missed had come.

    Its files get the size and time that the result was made of, so that the next index tells whether they changed.
    """
    result, store = printed.result, ledger.store
    if not is_known:
        with store.transaction(durable=True):
            Restorer(store).put(FoundStudy(result, printed.report_html, printed.report_pdf, result.scored_at, failure))
        return
    with store.transaction():
        for file in result.files:
            store.execute(
                "UPDATE files SET size_bytes = ?, mtime_ns = ? WHERE path = ? AND study_key = ?",
                (file.size_bytes, file.mtime_ns, os.fsencode(file.path), result.study_key),
            )
        if result.deidentified:
            _record_headers(store, result)
    ledger.results.record(printed, failure=failure)
    with store.transaction():
        store.execute(
            "UPDATE studies SET priors = ? WHERE study_key = ? AND patient != ''", (UNKNOWN_PRIORS, result.study_key)
        )


def record_reports(ledger: Ledger, study_key: str, *, html: str, pdf: str, failure: str) -> None:
    """Record which reports of a known study are really there; with `failure`, that one has to be printed again.

    A study that waits to be scored again goes on waiting, and says meanwhile what it lacks.
    """
    with ledger.store.transaction():
        ledger.store.execute(
            "UPDATE studies SET report_html = ?, report_pdf = ? WHERE study_key = ?", (html, pdf, study_key)
        )
        if failure:
            _fail(ledger.store, study_key, failure)


def record_unprintable(ledger: Ledger, study_key: str, failure: str) -> None:
    """Record that a study's pictures are not there as they were: the next run does it again if its image is there."""
    with ledger.store.transaction():
        _fail(ledger.store, study_key, failure)


def record_lost(ledger: Ledger, study_keys: Iterable[str]) -> int:
    """Record that the report folders of these studies are gone though nobody ordered it; return how many are news."""
    found = 0
    with ledger.store.transaction():
        for study_key in study_keys:
            listed = "status = 'reported' AND (report_html != '' OR report_pdf != '')"
            if not ledger.store.value(f"SELECT count(*) FROM studies WHERE study_key = ? AND {listed}", (study_key,)):
                continue
            found += 1
            _fail(ledger.store, study_key, LOST)
            ledger.store.execute(
                "UPDATE studies SET report_html = '', report_pdf = '' WHERE study_key = ?", (study_key,)
            )
    return found


def unprinted_results(ledger: Ledger) -> list[StudyResult]:
    """Return the results whose reports were not printed to the end."""
    rows = ledger.store.rows(
        "SELECT result FROM studies WHERE status IN ('failed', 'pending') AND result IS NOT NULL "
        "AND message LIKE ? ORDER BY study_key",
        (f"%{UNPRINTED}",),
    )
    return [ledger.store.parse_result(result) for (result,) in rows]


def owners(ledger: Ledger, result: StudyResult) -> set[str | None]:
    """Return the keys of the studies that the result's files belong to now; None for files that nobody knows."""
    paths = [file.path for file in result.files] or [
        *(image.path for image in result.images),
        *(image.path for image in result.refused),
    ]
    query = "SELECT study_key FROM files WHERE path = ?"
    return {ledger.store.value(query, (os.fsencode(path),)) for path in paths}


def _record_headers(store: LedgerStore, result: StudyResult) -> None:
    """Let the files' rows say no more of the patient than the result does."""
    headers = {file.path: file.header for file in result.files if file.header is not None}
    headers |= {image.path: image.header for image in result.images}
    for path, header in headers.items():
        store.execute(
            "UPDATE files SET header = ? WHERE path = ? AND study_key = ?",
            (to_json(header), os.fsencode(path), result.study_key),
        )


def same_result(one: StudyResult | None, other: StudyResult | None) -> bool:
    """Tell whether two results say the same, to the letter."""
    return one is not None and other is not None and to_json(one) == to_json(other)


def _fail(store: LedgerStore, study_key: str, failure: str) -> None:
    store.execute(
        "UPDATE studies SET message = ?, revision = CASE status WHEN 'reported' THEN revision - 1 ELSE revision END, "
        "status = CASE status WHEN 'reported' THEN 'failed' ELSE status END WHERE study_key = ?",
        (failure, study_key),
    )
