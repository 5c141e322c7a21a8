"""Earlier studies of a study's patient: what a report says of them, and whose reports say what is no longer so.

Triggers of the schema note a patient whenever a result or report of theirs changes (`patients_due`). At the end of
a run their reports are compared with what they would say now, and printed again where that differs. So the reports end
up the same in whatever order studies were scored, and however often the run was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from cxrbatch.intake.patient import are_same_patient, identify
from cxrbatch.output.ledger.store import LedgerStore, storable
from cxrbatch.records import Header, PriorStudy, StudyResult
from cxrbatch.system.record_json import to_json

UNKNOWN_PRIORS = "?"
"""Kept of a report that was taken over from the disk, where nobody knows which priors it names: it is printed again."""

MOST_PRIORS = 5
"""So many earlier studies a report names, the latest."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A study whose reports say of its priors what is no longer so, and which of them are to be printed again."""

    result: StudyResult
    priors: tuple[PriorStudy, ...]
    html: bool
    pdf: bool


@dataclass(frozen=True, slots=True)
class _Known:
    result: StudyResult
    report: str
    priors: str
    html: bool
    pdf: bool


class Priors:
    """What the ledger knows of the other studies of a patient."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def of(self, study_key: str, header: Header) -> tuple[PriorStudy, ...]:
        """Return the latest earlier studies of the patient that a header names, the latest first.

        Earlier is by Study Date; of the same day counts as well. De-identified studies have no dates: theirs are all
        other studies. A patient without an ID has no priors.
        """
        patient = identify(header).patient_id
        return _priors_of(study_key, header, self._of_patient(patient)) if patient else ()

    def overtaken(self) -> Iterator[Overtaken]:
        """Yield the studies whose reports are to be printed again; what is noted of their patients stays noted."""
        for patient in self.due():
            known = self._of_patient(patient)
            for study in known:
                priors = _priors_of(study.result.study_key, study.result.header, known)
                if (study.html or study.pdf) and study.result.pictures and text_of(priors) != study.priors:
                    yield Overtaken(study.result, priors, study.html, study.pdf)

    def due(self) -> list[str]:
        """Return the patients of whom anything changed."""
        return [patient for (patient,) in self._store.rows("SELECT patient FROM patients_due ORDER BY patient")]

    def settled(self, patients: Iterable[str]) -> None:
        """Forget, in one transaction, that anything changed of these patients: their reports are as they should be."""
        with self._store.transaction():
            for patient in patients:
                self._store.execute("DELETE FROM patients_due WHERE patient = ?", (patient,))

    def _of_patient(self, patient: str) -> list[_Known]:
        rows = self._store.rows(
            "SELECT result, report_html, report_pdf, priors FROM studies WHERE patient = ? AND result IS NOT NULL",
            (storable(patient),),
        )
        studies = [
            _Known(self._store.parse(text, StudyResult), PurePosixPath(html or pdf).name, priors, bool(html), bool(pdf))
            for text, html, pdf, priors in rows
        ]
        return sorted(studies, key=lambda study: (_descending(study.result.header.study_date), study.result.study_key))


def text_of(priors: Sequence[PriorStudy]) -> str:
    """Return what the ledger keeps of the priors that a report was printed with; '' for none."""
    return to_json(priors) if priors else ""


def _priors_of(study_key: str, header: Header, known: Sequence[_Known]) -> tuple[PriorStudy, ...]:
    """Return the priors of a study among those of patients with its ID, which are sorted, the latest first."""
    own, found = identify(header), []
    for study in known:
        other = study.result.header
        if study.result.study_key == study_key or not _is_earlier(other, header):
            continue
        if are_same_patient(own, identify(other)):
            found.append(_prior(study))
        if len(found) == MOST_PRIORS:
            break
    return tuple(found)


def _is_earlier(other: Header, header: Header) -> bool:
    if header.identity is not None:
        return other.identity is not None
    dates = other.study_date, header.study_date
    return all(len(date) == 8 and date.isdecimal() for date in dates) and dates[0] <= dates[1]


def _prior(study: _Known) -> PriorStudy:
    result = study.result
    verdict = result.verdict
    return PriorStudy(
        study_key=result.study_key,
        study_date=result.header.study_date,
        priority=verdict.priority,
        engine=result.engine.name,
        engine_sha256=result.engine.sha256,
        probabilities=result.probabilities,
        findings=tuple(label.name for label in verdict.findings),
        report=study.report,
    )


def _descending(date: str) -> tuple[int, str]:
    # What is no date comes last, and is no prior of what has one.
    return (-int(date), "") if len(date) == 8 and date.isdecimal() else (1, date)
