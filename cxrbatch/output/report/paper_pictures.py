"""How large the pictures of a report are on paper: as large as lets it end on one page, where it can.

What stands around them is counted in lines, as long as their letters are wide on average. That is right to a few
millimetres; whoever is off by more has a second page, and nothing worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from cxrbatch.output.report.content import ImageSection, ReportPicture
from cxrbatch.output.report.paper_size import height_mm
from cxrbatch.output.report.verdict_lines import VerdictLine

if TYPE_CHECKING:
    from cxrbatch.output.report.content import ReportContent
    from cxrbatch.output.report.priors import PriorsTable

_LARGEST_MM, _SMALLEST_MM = 96.0, 44.0
"""Heights of a row of pictures; where it would be less, there are two pages, and then rows are larger again."""

_ON_TWO_PAGES_MM = 74.0
_SMALLEST_ROW_MM, _SMALL_ROW_MM = 36.0, 50.0
# By the size of a text: how many letters a line of 182 mm has, and how high it is.
_LARGE, _PLAIN, _SMALL = (90, 5.3), (114, 4.3), (146, 3.4)
# Lines of the verdict that say how often they are wrong: in smaller letters, that last part in smaller ones still.
_TOLD, _SMALL_SHARE = (104, 4.8), 0.73
_HEADING_MM = 8.2
_LEAST_MM = 14
# Letters in a line of a caption, by the class of its pictures; below a picture stand 2.4 mm and its lines.
_CAPTION_LETTERS = {"one": 62, "two": 52, "three": 34, "four": 25, "lead": 58, "beside": 44, "pairs": 21}
_CAPTION_GAP_MM, _CAPTION_LINE_MM = 2.4, 4.0
_CAPTION_MM = _CAPTION_GAP_MM + _CAPTION_LINE_MM
# Letters in a line of a fact that takes two columns of four.
_FACT_LETTERS, _FACT_LINE_MM = 50, 4.2
# The table of earlier studies: its first two columns, and the width of a letter of either size.
_PAPER_MM, _PRIOR_COLUMNS_MM = 182.0, (42.0, 22.0)
_PRIOR_LINE_MM, _PRIOR_LETTER_MM, _PRIOR_SMALL_LETTER_MM = 4.0, 1.6, 1.4
_WIDE_LETTERS = "ABCDEFGHJKLMNOPQRSTUVWXYZmw@%&"
_MOST_ACROSS, _MOST_BESIDE = 4, 4


@dataclass(frozen=True, slots=True)
class PictureRows:
    """The pictures of one image: rows of some, or the radiograph large with its heatmaps `beside` it, in rows."""

    lead: ReportPicture | None
    rows: tuple[tuple[ReportPicture, ...], ...]
    width_class: str

    @property
    def count(self) -> int:
        """How many rows of full height these are."""
        return 1 if self.lead else len(self.rows)


@dataclass(frozen=True, slots=True)
class PaperPictures:
    """All pictures in their order, and how high a row of them may be, and one of those beside a radiograph, in mm."""

    images: tuple[PictureRows, ...]
    row_mm: int
    beside_mm: int


def place_pictures(content: ReportContent, rows_mm: float) -> PaperPictures:
    """Lay out the pictures; `rows_mm` is how high the rows of the table of findings are together."""
    if len(content.images) > 1 and not content.has_heatmaps:
        pairs = tuple(image.figures[0] for image in content.images)
        images: tuple[PictureRows, ...] = (PictureRows(None, _batches(pairs, 2), "two"),)
    else:
        images = tuple(_rows_of(image, alone=len(content.images) == 1) for image in content.images)
    row_mm = _row_mm(content, images, rows_mm)
    lead = next((image for image in images if image.lead), None)
    beside_mm = row_mm if lead is None else (row_mm + _CAPTION_MM - _beside_captions_mm(lead)) / len(lead.rows)
    return PaperPictures(images, _step(row_mm), _step(beside_mm))


def _beside_captions_mm(image: PictureRows) -> float:
    """Return how high the captions of all rows beside a radiograph are together."""
    width_class = "pairs" if len(image.rows[0]) > 1 else "beside"
    return sum(_caption_mm(row, width_class) for row in image.rows)


def _captions_mm(image: PictureRows) -> float:
    """Return how high the captions of an image's rows are together; those beside a radiograph take from its height."""
    return _CAPTION_MM if image.lead else sum(_caption_mm(row, image.width_class) for row in image.rows)


def _caption_mm(figures: Iterable[ReportPicture], width_class: str) -> float:
    letters = _CAPTION_LETTERS[width_class]
    lines = max(ceil(_width(f"{figure.title} {figure.detail}") / letters) for figure in figures)
    return _CAPTION_GAP_MM + _CAPTION_LINE_MM * lines


def _step(height_mm: float) -> int:
    """Return a height for which the style sheet has a class."""
    return max(_LEAST_MM, int(height_mm) // 2 * 2)


def _rows_of(image: ImageSection, *, alone: bool) -> PictureRows:
    """Lay out the pictures of one image; the radiograph is large where there is no other one."""
    radiograph, *heatmaps = image.figures
    if not heatmaps or len(heatmaps) == 1:
        return PictureRows(None, (image.figures,), ("one", "two")[len(heatmaps)])
    if alone and len(heatmaps) <= _MOST_BESIDE:
        return PictureRows(radiograph, _batches(heatmaps, 1 if len(heatmaps) == 2 else 2), "lead")
    # As few gaps in the last row as can be, and the larger pictures where that is the same.
    gaps = {across: -len(image.figures) % across for across in (3, _MOST_ACROSS)}
    across = min(gaps, key=lambda each: gaps[each])
    return PictureRows(None, _batches(image.figures, across), ("three", "four")[across - 3])


def _batches(figures: Sequence[ReportPicture], across: int) -> tuple[tuple[ReportPicture, ...], ...]:
    return tuple(tuple(figures[start : start + across]) for start in range(0, len(figures), across))


def _row_mm(content: ReportContent, images: Sequence[PictureRows], rows_mm: float) -> float:
    """Return how high a row of pictures may be for the report to end on one page, or what is fit for two."""
    count = sum(image.count for image in images)
    headings = _CAPTION_MM * len(content.images) if len(content.images) > 1 else 0
    left_mm = height_mm() - _texts_mm(content) - rows_mm - headings - sum(map(_captions_mm, images))
    row_mm = min(left_mm / count, _LARGEST_MM)
    if row_mm >= (_SMALLEST_MM if count == 1 else _SMALLEST_ROW_MM):
        return row_mm
    return _ON_TWO_PAGES_MM if count == 1 else _SMALL_ROW_MM


def _texts_mm(content: ReportContent) -> float:
    """Return how high everything but pictures and the rows of the table of findings is together."""
    head = 14.0 + _lines(content.heading, 44, 6.8) + 8.6 * ceil(len(content.patient) / 4)
    head += sum(_lines(fact.value, _FACT_LETTERS, _FACT_LINE_MM) - _FACT_LINE_MM for fact in content.patient)
    verdict = sum(_verdict_mm(line) for line in content.verdict)
    notice = _mm(content.notice, _PLAIN) + 5 if content.notice else 0
    cautions = sum(_mm(f"{line.source} {line.sentence}", _PLAIN) for line in content.cautions) + 1.5
    legend = 13.5 if content.has_heatmaps else 3.2
    notes = sum(_mm(text, _SMALL) + 1 for text in (" ".join(content.map_notes), content.trust, content.spread) if text)
    remarks = [*content.quality, *content.refused]
    lists = sum(_mm(f"{line.source} {line.sentence}", _PLAIN) for line in remarks)
    lists += _HEADING_MM * (bool(content.quality) + bool(content.refused) + 1)
    priors = _priors_mm(content.priors) if content.priors else 0
    facts = sum(len(fact.name) + len(fact.value) + 4 for fact in content.engine + content.origin)
    foot = 14.0 + _lines("x" * facts, 136, 3.8)
    return head + verdict + _mm(content.summary, _LARGE) + notice + cautions + legend + notes + lists + priors + foot


def _priors_mm(priors: PriorsTable) -> float:
    """Return how high the table of earlier studies is, with its heading and what is said below it."""
    column_mm = (_PAPER_MM - sum(_PRIOR_COLUMNS_MM)) / len(priors.labels)
    rows = max(_lines_in(column_mm, "", label) for label in priors.labels) + 1
    for line in priors.lines:
        cells = [_lines_in(column_mm, cell.probability, cell.change) for cell in line.cells]
        said = _lines_in(column_mm * len(priors.labels), line.said)
        dated, called = _PRIOR_COLUMNS_MM
        rows += max(_lines_in(dated, line.date, line.study_key), _lines_in(called, line.priority_name), said, *cells)
    return _HEADING_MM + _PRIOR_LINE_MM * rows + 0.4 * len(priors.lines) + (1 + _mm(priors.note, _SMALL))


def _lines_in(column_mm: float, text: str, small: str = "") -> int:
    """Return how many lines a cell of the table of earlier studies has: a text, and a small one behind it."""
    width_mm = _PRIOR_LETTER_MM * _width(text) + _PRIOR_SMALL_LETTER_MM * _width(small)
    return max(1, ceil(width_mm / (column_mm - 1)))


def _verdict_mm(line: VerdictLine) -> float:
    letters, line_mm = _TOLD if line.trust else _LARGE
    width = _width(f"{line.said}; {line.where} ") * (1.06 if line.urgent else 1) + _SMALL_SHARE * _width(line.trust)
    return line_mm * ceil(width / letters)


def _mm(text: str, size: tuple[int, float]) -> float:
    return _lines(text, *size)


def _lines(text: str, letters: int, line_mm: float) -> float:
    return line_mm * ceil(_width(text) / letters)


def _width(text: str) -> float:
    """Return how wide a text is in letters; those of Chinese, Japanese and Korean count twice, capitals somewhat."""
    return sum(2 if letter > "\u2e7f" else 1.3 if letter in _WIDE_LETTERS else 1 for letter in text)
