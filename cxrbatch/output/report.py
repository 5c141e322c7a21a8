"""A scored study in; its report folder with pictures, result.json, report.html and report.pdf out.

Both functions take and return plain records, so that a spawned worker process can run them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cxrbatch.durable import encode, make_folder, replace_files
from cxrbatch.faults import reach
from cxrbatch.output.content import report_content
from cxrbatch.output.heatmap import colour_scale
from cxrbatch.output.page import render_page
from cxrbatch.output.pictures import draw_study, read_pictures, remove_stale_pictures
from cxrbatch.output.revisions import REPORT_PDF, RESULT_JSON, keep_earlier_report
from cxrbatch.output.wording import EVIDENCE, NO_VALUE, NOT_FOR_DIAGNOSIS
from cxrbatch.record_json import to_json
from cxrbatch.records import ImagePixels, PrintedStudy, StudyResult

REPORTS = "reports"
REPORT_HTML = "report.html"
STYLES = ("look.css", "report.css")


def print_study(
    result: StudyResult, pixels: Sequence[ImagePixels], out: Path, *, html: bool, pdf: bool
) -> PrintedStudy:
    """Draw and write everything in the report folder of a newly scored study.

    What an earlier revision left and this one does not replace goes away last: whoever looks meanwhile finds
    either report, never one that lacks its pictures. Its PDF, which needs no pictures beside it, is kept.

    Args:
        result: the study; its images name no pictures yet.
        pixels: display image and activation maps of each image, in the same order.
        out: the output folder of the run.
        html: write report.html.
        pdf: write report.pdf.
    """
    if not result.images:
        raise ValueError(f"study {result.study_key} has no scored image, hence no report")
    stage_ms: dict[str, float] = {}
    folder = report_folder(out, result.study_key)
    make_folder(folder)
    with _timed(stage_ms, "pictures"):
        drawn = draw_study(result, pixels)
    reports = _render_reports(drawn.result, drawn.pictures, stage_ms, html=html, pdf=pdf)
    reach("report-write")
    record = encode(f"{to_json(drawn.result, indent=2)}\n")
    with _timed(stage_ms, "write"):
        keep_earlier_report(folder, drawn.result)
        replace_files(folder, {**drawn.pictures, RESULT_JSON: record, **reports})
    reach("report-written")
    remove_stale_pictures(drawn.result, folder)
    for name, current in ((REPORT_HTML, html), (REPORT_PDF, pdf)):
        if not current:
            (folder / name).unlink(missing_ok=True)
    reach("report-done")
    return _printed(drawn.result, reports, stage_ms)


def reprint_study(result: StudyResult, out: Path, *, html: bool, pdf: bool) -> PrintedStudy:
    """Write the report of an already printed study again, from its result and the pictures on disk.

    Raises:
        StudyFailed: a picture is missing; the study has to be run again.
    """
    folder = report_folder(out, result.study_key)
    reports = _render_reports(result, read_pictures(result, folder), {}, html=html, pdf=pdf)
    replace_files(folder, reports)
    return _printed(result, reports, {})


def report_folder(out: Path, study_key: str) -> Path:
    """Return the folder that holds everything about one study."""
    return out / REPORTS / study_key


def render_report(result: StudyResult, *, styles: tuple[str, ...] = STYLES) -> str:
    """Return report.html; the same result gives the same text. For the PDF, the style stays outside."""
    return render_page(
        "report.html.j2",
        styles=styles,
        report=report_content(result),
        colours=colour_scale(),
        evidence=EVIDENCE,
        no_value=NO_VALUE,
        not_for_diagnosis=NOT_FOR_DIAGNOSIS,
    )


def _render_reports(
    result: StudyResult, pictures: Mapping[str, bytes], stage_ms: dict[str, float], *, html: bool, pdf: bool
) -> dict[str, bytes]:
    """Return the reports asked for, by file name."""
    reports: dict[str, bytes] = {}
    if html:
        with _timed(stage_ms, "html"):
            reports[REPORT_HTML] = encode(render_report(result))
    if pdf:
        # Imported only here: without Pango it cannot be, and everything but the PDF works all the same.
        from cxrbatch.output.pdf import PictureFetcher, render_pdf

        with _timed(stage_ms, "pdf"):
            page = render_report(result, styles=())
            reports[REPORT_PDF] = render_pdf(page, PictureFetcher(pictures), styles=STYLES)
    return reports


def _printed(result: StudyResult, reports: Mapping[str, bytes], stage_ms: dict[str, float]) -> PrintedStudy:
    relative = {name: report_folder(Path(), result.study_key) / name for name in reports}
    return PrintedStudy(
        result=result,
        report_html=relative[REPORT_HTML].as_posix() if REPORT_HTML in reports else "",
        report_pdf=relative[REPORT_PDF].as_posix() if REPORT_PDF in reports else "",
        stage_ms=stage_ms,
    )


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    stage_ms[stage] = (time.perf_counter() - started) * 1000
