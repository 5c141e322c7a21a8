"""The table of findings on paper: how wide its columns are, and its rows in groups with their bars.

A finding is one row of three texts, whose figures stand at tab stops and not in cells of their own, and the bars of
neighbouring rows are one drawing. Each row's text stays together, in the order in which it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from markupsafe import Markup

from cxrbatch.output.report.content import ReportContent
from cxrbatch.output.report.findings import FindingLine
from cxrbatch.pages.language import gettext as _, pgettext
from cxrbatch.pages.wording import FIXED_SPACE, NO_VALUE

_PAPER_MM = 182.0
# Of templates/report-print.css: a text line of the table, the rule below a row, and the tab stops.
_LINE_MM = {False: 5.4, True: 4.7}
_RULE_MM = 0.2
_SCORE_MM, _WIDE_SCORE_MM, _FIGURE_MM = 19.0, 20.5, 10.5
# In DejaVu Sans, the widest of the fonts that report-print.css names: the longest verdicts of findings that were judged
# and of those that were not, a digit of a figure, and letters of a bold name (8 pt), by kind.
_VERDICT_MM, _UNJUDGED_MM, _DIGIT_MM = 31.0, 72.0, 1.5
_LETTERS_MM = {" ijlI'.,|!": 1.02, "frt-()": 1.3, "mwMW@%&<>": 3.0, "ABCDEFGHJKLNOPQRSTUVXYZ": 2.12}
_LETTER_MM, _FOREIGN_MM = 1.95, 3.0
# What more stands beside a probability makes it smaller: 7.5 pt.
_WIDE_FONT = 7.5 / 8
_NARROWEST_NAME_MM, _WIDEST_NAME_MM, _NARROWEST_BAR_MM = 26.0, 60.0, 13.0
_BAR_MM, _TICK_MM, _TICK_WIDTH_MM = 2.4, 3.8, 0.4
# One drawing is never torn apart: as many rows as fit on any page that has begun.
_MOST_ROWS = 12
# So many digits are wider than one stop of the figures, in the narrowest font, and narrower than two in the widest.
_BEYOND_STOP = 11
_COLOURS = {"urgent": "#b3261e", "positive": "#9a5b00", "unjudged": "#5b4a9c", "": "#a9b4c0"}
LINE_BREAK = Markup("\n")
_DIGIT_SPACE = "\N{FIGURE SPACE}"


@dataclass(frozen=True, slots=True)
class Columns:
    """How wide the columns of the table of findings are, in mm; the last one takes what is left."""

    name_mm: float
    bar_mm: float
    scores_mm: float


@dataclass(frozen=True, slots=True)
class Row:
    """A finding as three texts with tabs: its name, its scores with the verdict, and what was measured of it."""

    name: str
    scores: Markup
    verdict: str
    below: Markup
    contested: bool
    figures: Markup


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring rows of one look, and the paths of their bars, in mm (SVG 2, 9.3)."""

    look: str
    lines: tuple[Row, ...]
    colour: str
    height_mm: float
    rules: str
    tracks: str
    bars: str
    ticks: str


def measure_columns(content: ReportContent) -> Columns:
    """Make the columns as wide as verdicts, figures and the longest name need; the bars get what is left."""
    measured = content.has_verdicts_measured
    # What is said of a finding that was not judged reaches into the columns of what was measured of verdicts.
    all_judged = all(line.judged for line in content.findings)
    verdict_mm = _VERDICT_MM if all_judged or measured else _UNJUDGED_MM
    scores_mm = (_WIDE_SCORE_MM if is_wide(content) else _SCORE_MM) * (1 + content.has_points) + verdict_mm
    figures_mm = 4 * _FIGURE_MM * measured + _FIGURE_MM * content.has_auroc
    if content.has_images_counted:
        figures_mm += _DIGIT_MM * (sum(_digits(content)) + 2)
    left_mm = _PAPER_MM - scores_mm - figures_mm
    longest_mm = max(_length_mm(line.name) for line in content.findings) + 1.2
    most_mm = max(_NARROWEST_NAME_MM, min(_WIDEST_NAME_MM, left_mm - _NARROWEST_BAR_MM))
    name_mm = min(max(longest_mm, _NARROWEST_NAME_MM), most_mm)
    return Columns(round(name_mm, 1), round(left_mm - name_mm, 1), scores_mm)


def is_wide(content: ReportContent) -> bool:
    """Tell whether an ensemble's spread, or the image that a probability is of, stands beside it: where that fits."""
    texts = [" ".join((line.probability, line.spread or line.image)) for line in content.findings]
    some = any(line.image or line.spread for line in content.findings)
    return some and max(map(_length_mm, texts)) * _WIDE_FONT <= _WIDE_SCORE_MM


def _length_mm(name: str) -> float:
    """Return how long a name is at most."""
    return sum(
        next((width for letters, width in _LETTERS_MM.items() if letter in letters), _LETTER_MM)
        if letter.isascii()
        else _FOREIGN_MM
        for letter in name
    )


def scores_heading(content: ReportContent) -> Markup:
    """Return the headings of a row's scores and verdict, at their tab stops."""
    probability = pgettext("a column 19 mm wide", "Probability")
    return _tabbed([probability, *[_("Threshold")] * content.has_points, _("Verdict")])


def figures_heading(content: ReportContent) -> Markup:
    """Return the headings of what was measured of findings, at their tab stops."""
    last = [_("AUROC")] * content.has_auroc + [_("Images")] * content.has_images_counted
    shares = [_("Sensitivity"), _("Specificity")] * content.has_verdicts_measured
    return _tabbed([*shares, (2 * FIXED_SPACE).join(last)])


def group_findings(content: ReportContent, columns: Columns, *, dense: bool) -> Iterator[Group]:
    """Yield the rows in groups whose rows look alike and are equally high."""
    line_mm, digits = _LINE_MM[dense], _digits(content)
    rows = [(line, _row(line, content, digits)) for line in content.findings]
    lone = iter(range(1, len(rows) + 1))

    def kind(item: tuple[FindingLine, Row]) -> tuple[str, bool, int]:
        line, row = item
        fits = _length_mm(line.name) + 1 <= columns.name_mm
        return _look(line), bool(row.below), 0 if fits else next(lone)

    for (look, two_lines, alone), group in groupby(rows, kind):
        members = list(group)
        for start in range(0, len(members), _MOST_ROWS):
            drawn = _group(look, members[start : start + _MOST_ROWS], columns, line_mm * (1 + two_lines), line_mm)
            # How high a row becomes whose name is broken is not known here: its rule is a border.
            yield replace(drawn, rules="") if alone else drawn


def _group(
    look: str, members: Sequence[tuple[FindingLine, Row]], columns: Columns, height_mm: float, line_mm: float
) -> Group:
    pitch_mm, left_mm, track_mm = height_mm + _RULE_MM, columns.name_mm + _TICK_WIDTH_MM / 2, columns.bar_mm - 3
    middles = [n * pitch_mm + line_mm / 2 for n in range(len(members))]
    shares = [float(line.percent) / 100 for line, _ in members]
    points = [float(line.operating_percent) / 100 if line.operating_percent else None for line, _ in members]
    ticks = [
        _box(left_mm + track_mm * point - _TICK_WIDTH_MM / 2, middle, _TICK_WIDTH_MM, _TICK_MM)
        for point, middle in zip(points, middles, strict=True)
        if point is not None
    ]
    return Group(
        look=look,
        lines=tuple(row for _, row in members),
        colour=_COLOURS[look],
        height_mm=round(len(members) * pitch_mm, 2),
        rules="".join(_box(0, (n + 1) * pitch_mm - _RULE_MM / 2, _PAPER_MM, _RULE_MM) for n in range(len(members))),
        tracks="".join(_box(left_mm, middle, track_mm, _BAR_MM) for middle in middles),
        bars="".join(
            _box(left_mm, middle, track_mm * share, _BAR_MM) for share, middle in zip(shares, middles, strict=True)
        ),
        ticks="".join(ticks),
    )


def _box(left: float, middle: float, width: float, height: float) -> str:
    return f"M{left:.2f} {middle - height / 2:.2f}h{width:.2f}v{height}h-{width:.2f}z"


def _look(line: FindingLine) -> str:
    if line.positive:
        return "urgent" if line.urgent else "positive"
    return "" if line.judged else "unjudged"


def _row(line: FindingLine, content: ReportContent, digits: tuple[int, int]) -> Row:
    more = [text for text in (line.spread, line.image) if text]
    beside, under = (more[0] if more else "", " ".join(more[1:])) if is_wide(content) else ("", " ".join(more))
    scores = [" ".join(filter(None, (line.probability, beside))), *[line.operating_point] * content.has_points]
    rank = f": {line.rank}" if line.rank else ""
    stops = len(scores) - (_length_mm(under) > _SCORE_MM)
    return Row(
        name=line.name,
        scores=_tabbed([*scores, ""]),
        verdict=f"{'▲ ' if line.positive else ''}{line.verdict}{rank}",
        below=LINE_BREAK + _tabbed([under, *[""] * stops]) if under or line.contested else Markup(""),
        contested=line.contested,
        figures=_figures(line, content, digits),
    )


def _figures(line: FindingLine, content: ReportContent, digits: tuple[int, int]) -> Markup:
    """Return what was measured of a finding, as the columns have it: two stops a share, one for the AUROC."""
    texts: list[str] = []
    if content.has_verdicts_measured:
        for share in (line.trust.sensitivity, line.trust.specificity):
            value = (share.value or NO_VALUE) if line.judged else ""
            interval = f" ({share.interval})" if share.interval else ""
            # A share and its interval reach beyond the first stop, so that the tab leads to the second.
            texts.append(f"{value}{interval}".ljust(_BEYOND_STOP, _DIGIT_SPACE))
    if content.has_auroc:
        texts.append(line.trust.auroc or NO_VALUE)
    if content.has_images_counted:
        texts.append(_aligned(line.trust.images, digits))
    return _tabbed(texts)


def _aligned(images: str, digits: tuple[int, int]) -> str:
    """Return a count of images with its two numbers as long as the longest of each."""
    with_finding, slash, without = images.partition("/")
    if not slash:
        return NO_VALUE
    numbers = (
        number.strip().rjust(longest, _DIGIT_SPACE)
        for number, longest in zip((with_finding, without), digits, strict=True)
    )
    return f"{FIXED_SPACE}/{FIXED_SPACE}".join(numbers)


def _digits(content: ReportContent) -> tuple[int, int]:
    """Return how long the two numbers of a count of images are at most."""
    counts = [line.trust.images.partition("/") for line in content.findings if line.trust.images]
    first = max((len(with_finding.strip()) for with_finding, _, _ in counts), default=0)
    return first, max((len(without.strip()) for _, _, without in counts), default=0)


def _tabbed(texts: Iterable[str]) -> Markup:
    """Join texts with tabs, which a template would write out as it does with every control character."""
    return Markup("\t").join(texts)
