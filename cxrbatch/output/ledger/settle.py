"""What the ledger says of one study whose report folder may be ahead of it, and how it is brought level."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.restore import FoundStudy, Restorer
from cxrbatch.output.ledger.rows import parse
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import PrintedStudy, StudyResult
from cxrbatch.system.record_json import to_json

UNPRINTED = "its report was not printed to the end"
"""Why a study failed whose pictures and result are there: the next run, or `report`, prints it without its image."""

LOST = "its report is missing from the output folder"


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
        known = parse(ledger.store, result, StudyResult) if result else None
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
    ledger.record_study(printed, failure=failure)


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
    return [parse(ledger.store, result, StudyResult) for (result,) in rows]


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
