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
from cxrbatch.output.ledger.schema import PATIENTS_DATE
from cxrbatch.output.ledger.schema_growth import MOST_STUDIES, UNKNOWN_PRIORS
from cxrbatch.output.ledger.store import LedgerStore, storable
from cxrbatch.records import Header, PriorStudy, StudyResult
from cxrbatch.system.record_json import to_json

MOST_PRIORS = 5
"""So many earlier studies a report names, the latest."""

# Read at once of a patient's studies; of most patients there are no more.
_PAGE = 16
_OF_PATIENT = "FROM studies WHERE patient = ? AND patient != '' AND result IS NOT NULL"
_KNOWN = "SELECT result, report_html, report_pdf, priors"


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


@dataclass(frozen=True, slots=True)
class WithPrior:
    """The keys of the studies that have a prior one, asked for one by one."""

    priors: Priors

    def __contains__(self, study_key: object) -> bool:
        return isinstance(study_key, str) and self.priors.has_prior(study_key)


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
        return self._of(patient, study_key, header) if patient and not self._is_nobodys(patient) else ()

    def overtaken(self) -> Iterator[Overtaken]:
        """Yield the studies whose reports are to be printed again; what is noted of their patients stays noted."""
        for patient in self.due():
            nobodys = self._is_nobodys(patient)
            # Of an ID that became nobody's only now, some reports name what shared it.
            condition = "AND priors != ''" if nobodys else ""
            keys = list(
                self._store.rows(f"SELECT study_key {_OF_PATIENT} {condition} ORDER BY study_key", (storable(patient),))
            )
            for study in filter(None, map(self._study, keys)):
                result = study.result
                priors = () if nobodys else self._of(patient, result.study_key, result.header)
                if (study.html or study.pdf) and result.pictures and text_of(priors) != study.priors:
                    yield Overtaken(result, priors, study.html, study.pdf)

    def has_prior(self, study_key: str) -> bool:
        """Tell whether the report of a study names an earlier one; of a study without a report, whether it would.

        So a list of studies that marks these says what the reports say, at any moment. What was not scored has neither.
        """
        rows = self._store.rows(f"{_KNOWN} FROM studies WHERE study_key = ? AND result IS NOT NULL", (study_key,))
        for result, html, pdf, priors in rows:
            if priors != UNKNOWN_PRIORS and (priors or html or pdf):
                return bool(priors)
            header = self._store.parse_result(result).header
            return bool(self.of(study_key, header))
        return False

    def due(self) -> list[str]:
        """Return the patients of whom anything changed."""
        return [patient for (patient,) in self._store.rows("SELECT patient FROM patients_due ORDER BY patient")]

    def settled(self, patients: Iterable[str]) -> None:
        """Forget, in one transaction, that anything changed of these patients: their reports are as they should be."""
        with self._store.transaction():
            for patient in patients:
                self._store.execute("DELETE FROM patients_due WHERE patient = ?", (patient,))

    def _is_nobodys(self, patient: str) -> bool:
        counted = f"SELECT count(*) FROM (SELECT 1 {_OF_PATIENT} LIMIT {MOST_STUDIES + 1})"
        return int(self._store.value(counted, (storable(patient),))) > MOST_STUDIES

    def _of(self, patient: str, study_key: str, header: Header) -> tuple[PriorStudy, ...]:
        """Return the priors of a study among those with the ID of its patient."""
        own, found = identify(header), []
        for study in self._others(patient, study_key, header):
            other = study.result.header
            if _is_earlier(other, header) and are_same_patient(own, identify(other)):
                found.append(_prior(study))
                if len(found) == MOST_PRIORS:
                    break
        return tuple(found)

    def _others(self, patient: str, study_key: str, header: Header) -> Iterator[_Known]:
        """Yield other studies with this ID that may be earlier, the latest first; those without dates by their keys."""
        parameters = (storable(patient), study_key, header.study_date)
        for page in range(0, MOST_STUDIES, _PAGE):
            rows = list(
                self._store.rows(
                    f"{_KNOWN} {_OF_PATIENT} AND study_key != ? AND {PATIENTS_DATE} <= ? "
                    f"ORDER BY {PATIENTS_DATE} DESC, study_key LIMIT {_PAGE} OFFSET {page}",
                    parameters,
                )
            )
            yield from map(self._known, rows)
            if len(rows) < _PAGE:
                return

    def _study(self, row: tuple[str]) -> _Known | None:
        rows = self._store.rows(f"{_KNOWN} FROM studies WHERE study_key = ? AND result IS NOT NULL", row)
        return next(map(self._known, rows), None)

    def _known(self, row: tuple[str, str, str, str]) -> _Known:
        result, html, pdf, priors = row
        name = PurePosixPath(html or pdf).name
        return _Known(self._store.parse_result(result), name, priors, bool(html), bool(pdf))


def text_of(priors: Sequence[PriorStudy]) -> str:
    """Return what the ledger keeps of the priors that a report was printed with; '' for none."""
    return to_json(priors) if priors else ""


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
