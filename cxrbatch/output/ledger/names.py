"""Rows of a ledger that name patients, written anew without: the part of de-identifying that is one transaction.

Start at `take_names_out`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from cxrbatch.errors import Flag, Reason
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.outbox import forget_announcements
from cxrbatch.output.ledger.schema import NO_REPORT
from cxrbatch.output.ledger.standing import standing
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import Header, StudyResult
from cxrbatch.system.record_json import to_json

TRIED_AGAIN = "it was not finished before names were taken out of here; tried again"


class Names(Protocol):
    """What stands for identities."""

    def study_key(self, study_key: str) -> str:
        """Return the key that a study gets."""

    def header(self, header: Header) -> Header:
        """Return what may be known of a header."""

    def message(self, status: str, reason: str, message: str) -> str:
        """Return what may be said of a file without a score."""


def take_names_out(ledger: Ledger, names: Names) -> None:
    """Rewrite every row that names a patient, and queue again the studies whose pictures show a name."""
    with ledger.store.transaction():
        forget_announcements(ledger.store)
        for study_key in _rewrite_names(ledger.store, names):
            ledger.store.execute(f"UPDATE studies SET {NO_REPORT} WHERE study_key = ?", (study_key,))
            ledger.queue.put(study_key)
        # What was noted so far names patients as they were called.
        ledger.store.execute("DELETE FROM patients_due")
        ledger.store.execute("INSERT INTO patients_due SELECT DISTINCT patient FROM studies WHERE patient != ''")


def _rewrite_names(store: LedgerStore, names: Names) -> list[str]:
    """Replace every name in files and studies; what was done before a kill is not done twice.

    Returns:
        The new keys of studies with an image whose pixels show a name: these have no result any more.
    """
    renamed: dict[str, str] = {}
    paths = [path for (path,) in store.rows("SELECT path FROM files ORDER BY path")]
    for path in paths:
        _rewrite_file(store, path, names, renamed)
    burned_in = []
    for key, new_key in renamed.items():
        text = store.value("SELECT result FROM studies WHERE study_key = ?", (key,))
        result = without_names(store.parse_result(text), names) if text else None
        if result is not None and shows_a_name(result):
            burned_in.append(new_key)
            result = None
        store.execute(
            "UPDATE studies SET study_key = ?, result = ?, report_html = '', report_pdf = '', priors = '', "
            "message = CASE WHEN message = '' THEN '' ELSE ? END, priority = ?, strength = ? WHERE study_key = ?",
            (new_key, store.engines.text(result) if result else None, TRIED_AGAIN, *standing(result), key),
        )
    return burned_in


def without_names(result: StudyResult, names: Names) -> StudyResult:
    """Return a result that names nobody."""
    return replace(
        result,
        study_key=names.study_key(result.study_key),
        images=tuple(replace(image, header=names.header(image.header)) for image in result.images),
        refused=tuple(
            replace(image, message=names.message(image.status, image.reason, image.message)) for image in result.refused
        ),
        files=tuple(replace(file, header=file.header and names.header(file.header)) for file in result.files),
        deidentified=True,
    )


def shows_a_name(result: StudyResult) -> bool:
    """Tell whether a picture of this result may show who the patient is."""
    return any(Flag.BURNED_IN_ANNOTATION in image.flags for image in result.images)


def _rewrite_file(store: LedgerStore, path: bytes, names: Names, renamed: dict[str, str]) -> None:
    ((text, key, status, reason, message, flags),) = store.rows(
        "SELECT header, study_key, status, reason, message, flags FROM files WHERE path = ?", (path,)
    )
    header = store.parse(text, Header)
    if header.identity is not None:
        return
    if key:
        renamed.setdefault(key, names.study_key(key))
    store.execute(
        "UPDATE files SET study_key = ?, header = ?, message = ? WHERE path = ?",
        (renamed.get(key, ""), to_json(names.header(header)), names.message(status, reason, message), path),
    )
    if status != "rejected" and Flag.BURNED_IN_ANNOTATION in store.parse(flags, tuple[Flag, ...]):
        reason = Reason.BURNED_IN_ANNOTATION.value
        store.execute(
            "UPDATE files SET status = 'rejected', reason = ?, message = ?, refused_by_header = 1, engine = '', "
            "engine_sha256 = '', backend = '', precision = '', probabilities = '[]', disagreement = '[]', "
            "scored_at = '' WHERE path = ?",
            (reason, names.message("rejected", reason, ""), path),
        )
