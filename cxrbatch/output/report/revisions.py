"""Reports of earlier revisions: the PDF is kept beside the new one, as report-r<N>.pdf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrbatch.records import StudyResult
from cxrbatch.system.durable import keep_copy
from cxrbatch.system.faults import reach
from cxrbatch.system.record_json import from_json

RESULT_JSON = "result.json"
REPORT_PDF = "report.pdf"
EARLIER_REPORTS = "report-r*.pdf"


@dataclass(frozen=True, slots=True)
class _Former:
    """What of an earlier result.json decides whether its report is kept."""

    revision: int
    deidentified: bool = False


def keeps_earlier_reports(folder: Path, result: StudyResult) -> bool:
    """Tell whether reports of earlier revisions may stay once the ledger has `result`.

    A de-identified result keeps nothing that may name the patient: no report of an identified revision, nor one
    of which nobody knows.
    """
    former = _former(folder / RESULT_JSON)
    return not result.deidentified or (former is not None and former.deidentified)


def keep_earlier_report(folder: Path, result: StudyResult) -> None:
    """Keep the PDF that an earlier revision left in `folder` under its own name, before `result` replaces it.

    result.json is replaced before report.pdf is, and says whose the PDF is. So whoever is killed in between and
    begins again finds the earlier PDF kept already, and its own revision in result.json: nothing is kept twice.
    """
    if not keeps_earlier_reports(folder, result):
        return
    former, report = _former(folder / RESULT_JSON), folder / REPORT_PDF
    if former is not None and former.revision < result.revision and report.is_file():
        keep_copy(report, folder / f"report-r{former.revision}.pdf")


def remove_earlier_reports(folder: Path, *, since: int = 0) -> None:
    """Remove the kept reports of earlier revisions, from revision `since` on."""
    for report in folder.glob(EARLIER_REPORTS):
        number = report.stem.removeprefix("report-r")
        if number.isdecimal() and int(number) >= since:
            reach("earlier-remove")
            report.unlink(missing_ok=True)
            reach("earlier-removed")


def _former(path: Path) -> _Former | None:
    """Return what result.json says; None where there is none, or none that can be read."""
    try:
        return from_json(path.read_text(encoding="utf-8"), _Former)
    except (OSError, ValueError):
        return None
