"""The report folder of a study: pictures, result.json, report.html, report.pdf. Start at `print_study`.

`print_study` and `reprint_study` take and return plain records, so that a spawned worker process can run them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import RunError, StudyFailed, error_name
from cxrbatch.output.dicom.object_files import objects_of, referable_images
from cxrbatch.output.folder.place import Place
from cxrbatch.output.report.content import report_content
from cxrbatch.output.report.heatmap import colour_scale
from cxrbatch.output.report.intent import Intent, begin_printing, result_mark
from cxrbatch.output.report.kept_arrays import keep_arrays
from cxrbatch.output.report.manner import Manner
from cxrbatch.output.report.paper import flag_missing_glyphs, render_paper
from cxrbatch.output.report.paper_size import SIZE_STYLES, printing_on
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.output.report.report_files import (
    COULD_NOT_PRINT,
    REPORT_HTML,
    REPORT_PDF,
    is_report_of,
    read_pictures,
    report_folder,
)
from cxrbatch.output.report.write_folder import (
    earlier_object,
    folder_of,
    notes_of,
    open_folder,
    printed_study,
    write_folder,
    write_objects,
    writing,
)
from cxrbatch.pages.language import gettext as _, speaking
from cxrbatch.pages.page import render_page
from cxrbatch.pages.wording import EVIDENCE, NO_VALUE, NOT_FOR_DIAGNOSIS
from cxrbatch.records import ImagePixels, PrintedStudy, PriorStudy, StudyResult
from cxrbatch.system.durable import encode, replace_files

STYLES = ("look.css", "report.css", "viewer.css")
SCRIPT = "report.js"
PRINT_STYLES = ("report-print.css",)
AS_USUAL = Manner()


def print_study(
    result: StudyResult,
    pixels: Sequence[ImagePixels],
    where: Path | Place,
    *,
    html: bool,
    pdf: bool,
    manner: Manner = AS_USUAL,
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
        manner: how; all heatmaps are drawn whichever are shown, so that another choice can be printed later. An object
            of the PDF is made where `pdf` is true.

    Raises:
        OutputNotWritable: the folder is no longer what the run began with.
    """
    if not result.images:
        raise ValueError(f"study {result.study_key} has no scored image, hence no report")
    stage_ms: dict[str, float] = {}
    with _timed(stage_ms, "pictures"):
        kept = keep_arrays(result, pixels)
        drawn = draw_study(kept.result, pixels)
    result = flag_missing_glyphs(drawn.result) if pdf else drawn.result
    page = Page(result, drawn.pictures, manner)
    reports, failure = _render_reports(page, stage_ms, html=html, pdf=pdf)
    folder = report_folder(folder_of(where), result.study_key)
    objects, failed = _render_objects(page, reports.get(REPORT_PDF, b""), folder, stage_ms)
    with _timed(stage_ms, "write"):
        files = {**kept.files, **drawn.pictures}
        write_folder(result, where, pictures=files, reports=reports, objects=objects)
    return replace(printed_study(result, reports, stage_ms, failure or failed, objects), priors=manner.priors)


def reprint_study(
    result: StudyResult, where: Path | Place, *, html: bool, pdf: bool, manner: Manner = AS_USUAL
) -> PrintedStudy:
    """Write the report of an already printed study again, from its result and the pictures on disk.

    Heatmaps that the report did not show are among them.

    Raises:
        StudyFailed: a picture is missing, or not the one that belongs to the result; the study has to be run again.
        OutputNotWritable: the folder is no longer what the run began with.
    """
    out = folder_of(where)
    folder = report_folder(out, result.study_key)
    page = Page(result, read_pictures(result, folder), manner)
    reports, failure = _render_reports(page, {}, html=html, pdf=pdf)
    objects, failed = _render_objects(page, reports.get(REPORT_PDF, b""), folder, {})
    if failure or failed:
        raise StudyFailed(failure or failed)
    with writing(where):
        open_folder(where, result.study_key)
        intent = Intent(result_mark(result), html, pdf, dicom=tuple(objects))
        begin_printing(notes_of(where), result.study_key, intent)
        replace_files(folder, reports)
        write_objects(folder, objects)
    kept = [name for name in (REPORT_HTML, REPORT_PDF) if name in reports or is_report_of(folder / name, result)]
    # Overlays of another choice of heatmaps, or a kind that is not asked for now, would contradict what is new.
    return replace(printed_study(result, kept, {}, "", objects or objects_of(folder, result)), priors=manner.priors)


def render_report(
    result: StudyResult, *, heatmaps: HeatmapChoice = "validated", priors: Sequence[PriorStudy] = ()
) -> str:
    """Return report.html; the same result and earlier studies give the same text."""
    return render_page(
        "report.html.j2",
        styles=STYLES,
        script=SCRIPT,
        mark=result_mark(result),
        report=report_content(result, heatmaps, priors),
        colours=colour_scale(),
        evidence=_(EVIDENCE),
        no_value=NO_VALUE,
        not_for_diagnosis=_(NOT_FOR_DIAGNOSIS),
    )


@dataclass(frozen=True, slots=True)
class Page:
    """What a report is printed of, and how: the result, and its pictures by file name."""

    result: StudyResult
    pictures: Mapping[str, bytes]
    manner: Manner


def _render_reports(page: Page, stage_ms: dict[str, float], *, html: bool, pdf: bool) -> tuple[dict[str, bytes], str]:
    """Return the reports asked for, by file name, and what went wrong: scores and pictures do not wait for a report."""
    reports: dict[str, bytes] = {}
    failures: list[str] = []
    for wanted, name, render in ((html, REPORT_HTML, _render_html), (pdf, REPORT_PDF, _render_pdf)):
        if not wanted:
            continue
        try:
            with _timed(stage_ms, name.rpartition(".")[2]), speaking(page.manner.locale):
                reports[name] = render(page)
        except RunError:  # templates that cannot be used fail every report, not this one
            raise
        except Exception as error:  # noqa: BLE001  # whatever a library cannot print, the study keeps its result
            failures.append(f"{COULD_NOT_PRINT}: {error}")
    return reports, "; ".join(dict.fromkeys(failures))


def _render_objects(page: Page, pdf: bytes, folder: Path, stage_ms: dict[str, float]) -> tuple[dict[str, bytes], str]:
    """Return the DICOM objects asked for, by file name, and what went wrong: nothing else waits for them."""
    kinds = page.manner.dicom
    if not kinds or not referable_images(page.result):
        return {}, ""
    # Imported only here: whoever writes no objects loads nothing for them.
    from cxrbatch.output.dicom.objects import ObjectParts, render_objects

    try:
        with _timed(stage_ms, "dicom"):
            parts = ObjectParts(page.pictures, pdf, earlier_object(folder, page.result))
            return render_objects(page.result, parts, kinds, page.manner.heatmaps), ""
    except Exception as error:  # noqa: BLE001  # whatever a library cannot write, the study keeps its result
        return {}, f"{COULD_NOT_PRINT}: its DICOM objects: {error_name(error)}"


def _render_html(page: Page) -> bytes:
    return encode(render_report(page.result, heatmaps=page.manner.heatmaps, priors=page.manner.priors))


def _render_pdf(page: Page) -> bytes:
    # Imported only here: without Pango it cannot be, and everything but the PDF works all the same.
    from cxrbatch.output.report.pdf import PictureFetcher, render_pdf

    manner, fetcher = page.manner, PictureFetcher(page.pictures)
    with printing_on(manner.paper):
        paper = render_paper(page.result, heatmaps=manner.heatmaps, priors=manner.priors)
    styles = (*PRINT_STYLES, *SIZE_STYLES[manner.paper])
    return render_pdf(paper, fetcher, styles=styles, mark=result_mark(page.result), variant=manner.pdf_variant)


@contextmanager
def _timed(stage_ms: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    stage_ms[stage] = (time.perf_counter() - started) * 1000
