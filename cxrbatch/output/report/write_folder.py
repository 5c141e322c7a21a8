"""Writing the report folder of a study: `write_folder`; of one without pictures, `write_result` is all there is to do.

Nothing is drawn or rendered in here, and nothing loaded that does.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from cxrbatch.output.dicom.object_files import keep_earlier_object, object_folder, predecessor
from cxrbatch.output.folder.place import Place
from cxrbatch.output.report.intent import Intent, begin_printing, result_mark
from cxrbatch.output.report.report_files import REPORT_HTML, REPORT_PDF, RESULT_JSON, report_folder
from cxrbatch.records import PrintedStudy, StudyResult
from cxrbatch.system.durable import encode, keep_copy, make_folder, replace_files
from cxrbatch.system.faults import reach
from cxrbatch.system.record_json import from_json, to_json


def write_result(
    result: StudyResult, where: Path | Place, arrays: Mapping[str, bytes] = MappingProxyType({})
) -> PrintedStudy:
    """Write everything in the report folder of a newly scored study without pictures: what is kept, and result.json.

    Raises:
        OutputNotWritable: the folder is no longer what the run began with.
    """
    if not result.images:
        raise ValueError(f"study {result.study_key} has no scored image, hence no result")
    started = time.perf_counter()
    write_folder(result, where, pictures=arrays)
    return printed_study(result, (), {"write": (time.perf_counter() - started) * 1000}, "")


def write_folder(
    result: StudyResult,
    where: Path | Place,
    *,
    pictures: Mapping[str, bytes] = MappingProxyType({}),
    reports: Mapping[str, bytes] = MappingProxyType({}),
    objects: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write what belongs to a result: pictures, result.json, reports, objects; what is stale stays until it is tidied.

    Args:
        result: the study, as it will be recorded.
        where: the output folder; as a `Place` it is not made anew elsewhere than where the run began.
        pictures: by file name.
        reports: by file name.
        objects: DICOM objects, by file name in their own folder.

    Raises:
        OutputNotWritable: the folder is no longer what the run began with.
    """
    reach("report-write")
    record = encode(f"{to_json(result, indent=2)}\n")
    with writing(where):
        folder = open_folder(where, result.study_key)
        keeps_earlier = keeps_earlier_reports(folder, result)
        printed = (REPORT_HTML in reports, REPORT_PDF in reports)
        intent = Intent(result_mark(result), *printed, keeps_earlier, tuple(objects))
        begin_printing(notes_of(where), result.study_key, intent)
        keep_earlier_report(folder, result)
        replace_files(folder, {**pictures, RESULT_JSON: record, **reports})
        write_objects(folder, objects)
    reach("report-written")


def write_objects(folder: Path, objects: Mapping[str, bytes]) -> None:
    """Write DICOM objects beside the reports, in a folder of their own; one that lies there as it is to be is left."""
    place = object_folder(folder)
    new = {name: content for name, content in objects.items() if not _holds(place / name, content)}
    if new:
        make_folder(place, within=folder)
        replace_files(place, new)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False


def folder_of(where: Path | Place) -> Path:
    """Return the output folder."""
    return where.out if isinstance(where, Place) else where


def notes_of(where: Path | Place) -> Path:
    """Return the folder for notes of what is being printed."""
    return where.notes if isinstance(where, Place) else where


def writing(where: Path | Place) -> AbstractContextManager[None]:
    """Write below OUT, where that is still the run's that this process works for."""
    return where.writing() if isinstance(where, Place) else nullcontext()


def open_folder(where: Path | Place, study_key: str) -> Path:
    """Make the study's report folder, unless the output folder went away meanwhile."""
    if isinstance(where, Place):
        where.check()
    folder = report_folder(folder_of(where), study_key)
    make_folder(folder, within=where.out if isinstance(where, Place) else None)
    return folder


def printed_study(
    result: StudyResult,
    reports: Collection[str],
    stage_ms: dict[str, float],
    failure: str,
    objects: Collection[str] = (),
) -> PrintedStudy:
    """Say what was printed: these reports and objects, by file name, and what went wrong with the others."""
    relative = {name: report_folder(Path(), result.study_key) / name for name in reports}
    return PrintedStudy(
        result=result,
        report_html=relative[REPORT_HTML].as_posix() if REPORT_HTML in reports else "",
        report_pdf=relative[REPORT_PDF].as_posix() if REPORT_PDF in reports else "",
        stage_ms=stage_ms,
        failure=failure,
        dicom=tuple(objects),
    )


# --------------------------------------------------------------------------- reports of earlier revisions


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
    """Keep what an earlier revision left in `folder` under its own name, before `result` replaces it: PDF and SR.

    result.json is replaced before report.pdf is, and says whose the PDF is. So whoever is killed in between and
    begins again finds the earlier PDF kept already, and its own revision in result.json: nothing is kept twice.
    """
    if not keeps_earlier_reports(folder, result):
        return
    former, report = _former(folder / RESULT_JSON), folder / REPORT_PDF
    if former is None or former.revision >= result.revision:
        return
    if report.is_file():
        keep_copy(report, folder / f"report-r{former.revision}.pdf")
    keep_earlier_object(folder, former.revision)


def earlier_object(folder: Path, result: StudyResult) -> Path | None:
    """Return the structured report that this result's follows: of the latest revision before that has one."""
    former = _former(folder / RESULT_JSON)
    return predecessor(folder, revision=result.revision, former=former.revision if former else None)


def _former(path: Path) -> _Former | None:
    """Return what result.json says; None where there is none, or none that can be read."""
    try:
        return from_json(path.read_text(encoding="utf-8"), _Former)
    except (OSError, ValueError):
        return None
