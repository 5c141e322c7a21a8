"""An operator's templates, tried on made-up studies before a run begins: what is wrong is said once, and at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from cxrbatch.errors import StudyFailed
from cxrbatch.output.report.paper import render_paper
from cxrbatch.output.report.report import PRINT_STYLES, render_report
from cxrbatch.output.sheets.page import render_sheet
from cxrbatch.output.specimen import specimen_engine, specimen_rows, specimen_runs, specimen_studies
from cxrbatch.output.worklist import write_worklist
from cxrbatch.pages.own_templates import OwnTemplates, printing_with
from cxrbatch.pages.page import environment
from cxrbatch.pages.template_rules import (
    PAPER,
    check_names,
    check_style,
    check_template,
    check_version,
    noting_what_is_given,
    refusal,
    refuse_malformed,
)

SHEET = "sheet.html.j2"
_PRINTED = (PAPER, *PRINT_STYLES)
_SHEET_PRINTED = (SHEET, "look.css", "sheet.css")
_AT = "2024-02-01T06:00:00+00:00"


def check_templates(own: OwnTemplates) -> list[str]:
    """Compile these templates and make every page of made-up studies with them; return remarks.

    Raises:
        ConfigurationError: a template cannot be used; it says which, which line and why.
    """
    remarks = [check_version(own, name) for name, _ in own.files]
    templates = [name for name, _ in own.files if name.endswith(".j2")]
    with printing_with(own), noting_what_is_given() as given:
        compiler = environment(own)
        for name, _ in own.files:
            check_template(own, name, compiler) if name in templates else check_style(own, name)
        render_specimens()
        every = {name for pages in given.values() for page in pages for name in page}
        for name in templates:
            of_page = {asked for page in given.get(name, ()) for asked in page}
            check_names(own, name, compiler, of_page or every)
    return list(filter(None, remarks))


def render_specimens() -> None:
    """Make every page of made-up studies and runs.

    Raises:
        ConfigurationError: one of them cannot be made.
    """
    for study in specimen_studies():
        render_report(study.result, heatmaps="all", priors=study.priors)
        render_report(study.result, priors=study.priors)
    for paper in _papers():
        try:
            ET.fromstring(paper)  # noqa: S314  # of our own making, or the operator's
        except ET.ParseError as error:
            refuse_malformed(error, paper)
            raise
    rows = specimen_rows()
    for shown, with_prior in ((rows, frozenset({rows[0].study_key})), ((), frozenset[str]())):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            write_worklist(out, shown, engine=specimen_engine(), generated_at=_AT, with_prior=with_prior)
    list(_sheets())


def check_print(own: OwnTemplates, *, sheet_pdf: bool) -> None:
    """Print made-up studies as PDF, where the templates change anything of that; runs in a worker, which can.

    Raises:
        ConfigurationError: a page asks for something that is not a picture of its study.
    """
    from cxrbatch.output.report.pdf import PictureFetcher, render_pdf
    from cxrbatch.output.sheets.pdf import print_sheet

    names = {name for name, _ in own.files}
    with printing_with(own):
        for paper in _papers() if names.intersection(_PRINTED) or names.difference(_SHEET_PRINTED) else ():
            fetcher = PictureFetcher(_pictures())
            try:
                render_pdf(paper, fetcher, styles=PRINT_STYLES)
            except StudyFailed as error:
                asked = ", ".join(fetcher.refused)
                raise refusal(own.folder, None, f"report.pdf asks for {asked}: nothing is loaded for it") from error
        for page in _sheets() if sheet_pdf and names.intersection(_SHEET_PRINTED) else ():
            try:
                print_sheet(page)
            except Exception as error:
                what = "its PDF asks for something: nothing is loaded for it"
                raise refusal(own.place(SHEET), None, what) from error


def _papers() -> Iterator[str]:
    for study in specimen_studies():
        yield render_paper(study.result, heatmaps="all", priors=study.priors)


def _sheets() -> Iterator[str]:
    for run in specimen_runs():
        yield render_sheet(run.sheet, run.report, run.most_urgent, run.earlier)


def _pictures() -> dict[str, bytes]:
    """Return a grey picture under the name of every picture of the made-up studies."""
    import cv2
    import numpy as np

    grey: bytes = cv2.imencode(".jpg", np.full((64, 64), 128, np.uint8))[1].tobytes()
    images = [image for study in specimen_studies() for image in study.result.images]
    names = [image.image_file for image in images] + [heatmap.file for image in images for heatmap in image.heatmaps]
    return dict.fromkeys(names, grey)
