"""The report folder of a study: pictures, result.json, report.html, report.pdf. Start at `print_study`.

`print_study` and `reprint_study` take and return plain records, so that a spawned worker process can run them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import StudyFailed
from cxrbatch.output.folder.place import Place
from cxrbatch.output.report.content import report_content
from cxrbatch.output.report.heatmap import colour_scale
from cxrbatch.output.report.intent import Intent, begin_printing, result_mark
from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.output.report.report_files import (
    COULD_NOT_PRINT,
    REPORT_HTML,
    REPORT_PDF,
    RESULT_JSON,
    is_report_of,
    read_pictures,
    report_folder,
)
from cxrbatch.pages.page import render_page
from cxrbatch.pages.wording import EVIDENCE, NO_VALUE, NOT_FOR_DIAGNOSIS
from cxrbatch.records import ImagePixels, PrintedStudy, StudyResult
from cxrbatch.system.durable import encode, keep_copy, make_folder, replace_files
from cxrbatch.system.faults import reach
from cxrbatch.system.record_json import from_json, to_json

STYLES = ("look.css", "report.css")
PRINT_STYLES = ("report-print.css",)


def print_study(
    result: StudyResult,
    pixels: Sequence[ImagePixels],
    where: Path | Place,
    *,
    html: bool,
    pdf: bool,
    heatmaps: HeatmapChoice = "validated",
) -> PrintedStudy:
    """Draw and write everything in the report folder of a newly scored study.

    The pictures come first, then result.json, then the reports; what an earlier revision left, and this one does not
    replace, stays until the ledger has the result too (`tidy_report`). Whoever is killed in between leaves two results
    of which at least one is whole, and a note that says where (`intent`).

    Args:
        result: the study; its images name no pictures yet.
        pixels: display image and activation maps of each image, in the same order.
        where: the output folder of the run; as a `Place` it is not made anew elsewhere than where the run began.
        html: write report.html.
        pdf: write report.pdf.
        heatmaps: which of them the reports show; all are drawn, so that another choice can be printed later.

    Raises:
        OutputNotWritable: the folder is no longer what the run began with.
    """
    if not result.images:
        raise ValueError(f"study {result.study_key} has no scored image, hence no report")
    stage_ms: dict[str, float] = {}
    with _timed(stage_ms, "pictures"):
        drawn = draw_study(result, pixels)
    page = Page(drawn.result, drawn.pictures, heatmaps)
    reports, failure = _render_reports(page, stage_ms, html=html, pdf=pdf)
    reach("report-write")
    record = encode(f"{to_json(drawn.result, indent=2)}\n")
    with _timed(stage_ms, "write"):
        out = _folder_of(where)
        folder = _open_folder(where, result.study_key)
        keeps_earlier = keeps_earlier_reports(folder, drawn.result)
        intent = Intent(result_mark(drawn.result), REPORT_HTML in reports, REPORT_PDF in reports, keeps_earlier)
        begin_printing(out, result.study_key, intent)
        keep_earlier_report(folder, drawn.result)
        replace_files(folder, {**drawn.pictures, RESULT_JSON: record, **reports})
    reach("report-written")
    return _printed(drawn.result, reports, stage_ms, failure)


def reprint_study(
    result: StudyResult, where: Path | Place, *, html: bool, pdf: bool, heatmaps: HeatmapChoice = "validated"
) -> PrintedStudy:
    """Write the report of an already printed study again, from its result and the pictures on disk.

    Heatmaps that the report did not show are among them.

    Raises:
        StudyFailed: a picture is missing, or not the one that belongs to the result; the study has to be run again.
        OutputNotWritable: the folder is no longer what the run began with.
    """
    out = _folder_of(where)
    folder = report_folder(out, result.study_key)
    page = Page(result, read_pictures(result, folder), heatmaps)
    reports, failure = _render_reports(page, {}, html=html, pdf=pdf)
    if failure:
        raise StudyFailed(failure)
    _open_folder(where, result.study_key)
    begin_printing(out, result.study_key, Intent(result_mark(result), html, pdf))
    replace_files(folder, reports)
    kept = [name for name in (REPORT_HTML, REPORT_PDF) if name in reports or is_report_of(folder / name, result)]
    return _printed(result, kept, {}, "")


def render_report(result: StudyResult, *, heatmaps: HeatmapChoice = "validated") -> str:
    """Return report.html; the same result gives the same text."""
    return render_page(
        "report.html.j2",
        styles=STYLES,
        mark=result_mark(result),
        report=report_content(result, heatmaps),
        colours=colour_scale(),
        evidence=EVIDENCE,
        no_value=NO_VALUE,
        not_for_diagnosis=NOT_FOR_DIAGNOSIS,
    )


@dataclass(frozen=True, slots=True)
class Page:
    """What a report is printed of: the result, its pictures by file name, and which heatmaps are to be seen."""

    result: StudyResult
    pictures: Mapping[str, bytes]
    heatmaps: HeatmapChoice


def _render_reports(page: Page, stage_ms: dict[str, float], *, html: bool, pdf: bool) -> tuple[dict[str, bytes], str]:
    """Return the reports asked for, by file name, and what went wrong: scores and pictures do not wait for a report."""
    reports: dict[str, bytes] = {}
    failures: list[str] = []
    for wanted, name, render in ((html, REPORT_HTML, _render_html), (pdf, REPORT_PDF, _render_pdf)):
        if not wanted:
            continue
        try:
            with _timed(stage_ms, name.rpartition(".")[2]):
                reports[name] = render(page)
        except Exception as error:  # noqa: BLE001  # whatever a library cannot print, the study keeps its result
            failures.append(f"{COULD_NOT_PRINT}: {error}")
    return reports, "; ".join(dict.fromkeys(failures))


def _render_html(page: Page) -> bytes:
    return encode(render_report(page.result, heatmaps=page.heatmaps))


def _render_pdf(page: Page) -> bytes:
    # Imported only here: without Pango it cannot be, and everything but the PDF works all the same.
    from cxrbatch.output.report.pdf import PictureFetcher, render_pdf

    paper = render_paper(page.result, heatmaps=page.heatmaps)
    return render_pdf(paper, PictureFetcher(page.pictures), styles=PRINT_STYLES, mark=result_mark(page.result))


def _folder_of(where: Path | Place) -> Path:
    return where.out if isinstance(where, Place) else where


def _open_folder(where: Path | Place, study_key: str) -> Path:
    """Make the study's report folder, unless the output folder went away meanwhile."""
    if isinstance(where, Place):
        where.check()
    folder = report_folder(_folder_of(where), study_key)
    make_folder(folder, within=where.out if isinstance(where, Place) else None)
    return folder


def _printed(result: StudyResult, reports: Collection[str], stage_ms: dict[str, float], failure: str) -> PrintedStudy:
    relative = {name: report_folder(Path(), result.study_key) / name for name in reports}
    return PrintedStudy(
        result=result,
        report_html=relative[REPORT_HTML].as_posix() if REPORT_HTML in reports else "",
        report_pdf=relative[REPORT_PDF].as_posix() if REPORT_PDF in reports else "",
        stage_ms=stage_ms,
        failure=failure,
    )


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    stage_ms[stage] = (time.perf_counter() - started) * 1000


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
    """Keep the PDF that an earlier revision left in `folder` under its own name, before `result` replaces it.

    result.json is replaced before report.pdf is, and says whose the PDF is. So whoever is killed in between and
    begins again finds the earlier PDF kept already, and its own revision in result.json: nothing is kept twice.
    """
    if not keeps_earlier_reports(folder, result):
        return
    former, report = _former(folder / RESULT_JSON), folder / REPORT_PDF
    if former is not None and former.revision < result.revision and report.is_file():
        keep_copy(report, folder / f"report-r{former.revision}.pdf")


def _former(path: Path) -> _Former | None:
    """Return what result.json says; None where there is none, or none that can be read."""
    try:
        return from_json(path.read_text(encoding="utf-8"), _Former)
    except (OSError, ValueError):
        return None
