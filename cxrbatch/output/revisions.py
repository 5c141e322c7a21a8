"""A report folder about to get a new revision in; the PDF of the one before kept beside it, as report-r<N>.pdf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrbatch.durable import keep_copy
from cxrbatch.record_json import from_json
from cxrbatch.records import StudyResult

RESULT_JSON = "result.json"
REPORT_PDF = "report.pdf"
EARLIER_REPORTS = "report-r*.pdf"


@dataclass(frozen=True, slots=True)
class _Former:
    """What of an earlier result.json decides whether its report is kept."""

    revision: int
    deidentified: bool = False


def keep_earlier_report(folder: Path, result: StudyResult) -> None:
    """Keep the PDF that an earlier revision left in `folder` under its own name, before `result` replaces it.

    result.json is replaced before report.pdf is, and says whose the PDF is. So whoever is killed in between and
    begins again finds the earlier PDF kept already, and its own revision in result.json: nothing is kept twice.

    A de-identified result keeps nothing that may name the patient: no report of an identified revision, nor one
    of which nobody knows.
    """
    former = _former(folder / RESULT_JSON)
    if result.deidentified and (former is None or not former.deidentified):
        for report in folder.glob(EARLIER_REPORTS):
            report.unlink(missing_ok=True)
        return
    report = folder / REPORT_PDF
    if former is not None and former.revision < result.revision and report.is_file():
        keep_copy(report, folder / f"report-r{former.revision}.pdf")


def _former(path: Path) -> _Former | None:
    """Return what result.json says; None where there is none, or none that can be read."""
    try:
        return from_json(path.read_text(encoding="utf-8"), _Former)
    except (OSError, ValueError):
        return None
