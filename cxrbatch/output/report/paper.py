"""The report on paper: what report.html says, laid out for printing. Start at `render_paper`.

What WeasyPrint's time goes into is boxes and pieces of text, not pictures: so there are few of either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import Flag
from cxrbatch.output.report.content import Fact, ReportContent, report_content
from cxrbatch.output.report.heatmap import colour_scale
from cxrbatch.output.report.paper_findings import (
    LINE_BREAK,
    Columns,
    Group,
    figures_heading,
    group_findings,
    is_wide,
    measure_columns,
    scores_heading,
)
from cxrbatch.output.report.paper_pictures import PaperPictures, place_pictures
from cxrbatch.pages.language import gettext as _
from cxrbatch.pages.page import render_page
from cxrbatch.pages.wording import EVIDENCE, NOT_FOR_DIAGNOSIS, plain
from cxrbatch.records import ImageResult, PriorStudy, StudyResult
from cxrbatch.system.fonts import missing_glyphs, with_codes

_DENSE_FROM = 9
_FACTS_IN_ROW, _LONG_FACT = 4, 24


@dataclass(frozen=True, slots=True)
class FactCell:
    """A fact and how many of the four columns it takes."""

    fact: Fact
    span: int


@dataclass(frozen=True, slots=True)
class Paper:
    """How the content of a report is arranged on paper."""

    dense: bool
    wide: bool
    patient: tuple[tuple[FactCell, ...], ...]
    columns: Columns
    scores_heading: Markup
    figures_heading: Markup
    groups: tuple[Group, ...]
    pictures: PaperPictures


def render_paper(
    result: StudyResult, *, heatmaps: HeatmapChoice = "validated", priors: Sequence[PriorStudy] = ()
) -> str:
    """Return the page that report.pdf is printed of, as XML; the same result and priors give the same text."""
    content = report_content(result, heatmaps, priors)
    page = render_page(
        "report-print.xml.j2",
        report=content,
        paper=arrange(content),
        line_break=LINE_BREAK,
        colours=colour_scale(),
        evidence=_(EVIDENCE),
        not_for_diagnosis=_(NOT_FOR_DIAGNOSIS),
    )
    # A character without a glyph would be a box, or nothing at all.
    return with_codes(page)


def flag_missing_glyphs(result: StudyResult) -> StudyResult:
    """Return the result with a flag on each image of whose header or path no font here can show a character."""
    return replace(result, images=tuple(map(_flagged, result.images)))


def _flagged(image: ImageResult) -> ImageResult:
    header = image.header
    texts = (header.patient_name, header.patient_id, header.accession_number, header.study_description, image.path)
    shown = all(text.isascii() or not missing_glyphs(plain(text)) for text in texts)
    return image if shown else replace(image, flags=tuple(dict.fromkeys((*image.flags, Flag.MISSING_GLYPHS))))


def arrange(content: ReportContent) -> Paper:
    """Arrange the content of a report: facts in rows, findings in rows and groups, columns as wide as they need."""
    dense = len(content.findings) >= _DENSE_FROM
    columns = measure_columns(content)
    groups = tuple(group_findings(content, columns, dense=dense))
    return Paper(
        dense=dense,
        wide=is_wide(content),
        patient=tuple(_fact_rows(content.patient)),
        columns=columns,
        scores_heading=scores_heading(content),
        figures_heading=figures_heading(content),
        groups=groups,
        pictures=place_pictures(content, sum(group.height_mm for group in groups) + 7),
    )


def _fact_rows(facts: Iterable[Fact]) -> Iterator[tuple[FactCell, ...]]:
    """Lay facts in rows of four columns, of which a long one takes two."""
    row: list[FactCell] = []
    for fact in facts:
        cell = FactCell(fact, 2 if len(fact.value) > _LONG_FACT else 1)
        if sum(each.span for each in row) + cell.span > _FACTS_IN_ROW:
            yield tuple(row)
            row = []
        row.append(cell)
    if row:
        yield tuple(row)
