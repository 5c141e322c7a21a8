"""The page of a sheet: what needs a person first, then what came, what was found, what drifted, how fast it went.

No study is named but by its key, and no patient at all: this page may hang on a wall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from cxrbatch.output.drift import DriftLine, DriftReport
from cxrbatch.output.report.findings import label_name
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.sheets.drift_words import drift_said, lines_left_out
from cxrbatch.output.sheets.facts import RunSheet, UrgentStudy
from cxrbatch.output.sheets.needs import needs_a_person
from cxrbatch.pages import wording
from cxrbatch.pages.language import day_text, gettext as _, msgid, number, pgettext, whole
from cxrbatch.pages.page import render_page
from cxrbatch.records import EngineDescription, Priority

_PRIORITIES: tuple[Priority, ...] = ("urgent", "abnormal", "incomplete", "normal", "unscored")
_STATUSES = {
    "scored": msgid("Scored"),
    "rejected": msgid("Refused"),
    "duplicate": msgid("Doubled"),
    "failed": msgid("Failed, tried again in the next run"),
    "pending": msgid("Waiting"),
}
_STAGES = {
    "index": msgid("Reading headers"),
    "read": msgid("Reading pixels"),
    "preprocess": msgid("Preparing"),
    "infer": msgid("Scoring"),
    "pictures": msgid("Drawing pictures"),
    "html": msgid("Writing HTML"),
    "pdf": msgid("Printing PDF"),
    "write": msgid("Writing files"),
    "tables": msgid("Writing tables"),
}
# The picture of a trend: as many bars as runs, in a box of this size.
_BAR_WIDTH, _BAR_GAP, _CHART_HEIGHT = 8, 2, 44
_LEAST_HEIGHT = 1.5


@dataclass(frozen=True, slots=True)
class Bar:
    """One run in a trend: where its bar stands in the picture, how high it is, and what it says."""

    x: int
    y: float
    height: float
    title: str
    is_last: bool


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure over the last runs: the latest in words, the range, and a bar for each run that has it."""

    name: str
    latest: str
    between: str
    bars: tuple[Bar, ...]
    width: int
    height: int = _CHART_HEIGHT


@dataclass(frozen=True, slots=True)
class CountLine:
    """How many there are of something: more than on the sheet before, in all, and what that means."""

    name: str
    new: str
    total: int
    means: str = ""


@dataclass(frozen=True, slots=True)
class DriftCell:
    """One index of a table: its value, or nothing where it was not compared."""

    value: str
    alarm: bool


@dataclass(frozen=True, slots=True)
class StageLine:
    """What a stage takes per study: `percent` of what all of them do."""

    name: str
    ms: str
    percent: str


def render_sheet(
    sheet: RunSheet, report: RunReport, most_urgent: Sequence[UrgentStudy], earlier: Sequence[RunSheet]
) -> str:
    """Return the page.

    Args:
        sheet: what the run did.
        report: what run.json says of it.
        most_urgent: the studies to read first.
        earlier: the sheets before, the latest last.
    """
    drift = report.drift
    return render_page(
        "sheet.html.j2",
        styles=("look.css", "sheet.css"),
        sheet=sheet,
        engine=report.engine,
        title=_title(sheet),
        until=wording.moment(sheet.finished_at),
        took=wording.duration(sheet.wall_s),
        needs=list(needs_a_person(sheet, report)),
        priorities=[(each, _(wording.PRIORITY_NAMES[each]), _count_of(each, sheet)) for each in _PRIORITIES],
        urgent=[_urgent_line(study) for study in most_urgent],
        files=_file_lines(sheet),
        reasons=_reason_lines(sheet),
        labels=_drift_rows(drift, report.engine, sheet) if drift else [],
        others=_other_rows(drift) if drift else [],
        scanners=_scanner_rows(drift) if drift else [],
        drift=drift,
        stages=_stage_lines(sheet.ms_per_study),
        left_out=list(lines_left_out(drift.left_out)) if drift else [],
        ms_per_study=number(sum(sheet.ms_per_study.values()), 0),
        rate=number(sheet.studies_done / sheet.wall_s, 1) if sheet.wall_s else "",
        trends=list(_trends([*earlier, sheet])),
        not_for_diagnosis=_(wording.NOT_FOR_DIAGNOSIS),
    )


def _count_of(priority: Priority, sheet: RunSheet) -> int:
    return sheet.not_scored if priority == "unscored" else sheet.priorities.get(priority, 0)


def _title(sheet: RunSheet) -> str:
    day, place = sheet.name.rsplit("-", 1)
    form = _("Watch of {day}, no. {place}") if sheet.kind == "watch" else _("Run of {day}, no. {place}")
    return form.format(day=day_text(day), place=place)


def _urgent_line(study: UrgentStudy) -> dict[str, object]:
    shown = [
        (label_name(label), wording.probability(value, label.operating_point), label.urgent)
        for label, value in study.findings
    ]
    return {
        "study_key": study.study_key,
        "priority": study.priority,
        "badge": _(wording.PRIORITY_NAMES[study.priority]),
        "findings": shown[:4],
        "more": max(0, len(shown) - 4),
        "link": f"../{quote(study.report_html)}" if study.report_html else "",
        "scored_at": wording.moment(study.scored_at),
    }


def _file_lines(sheet: RunSheet) -> list[CountLine]:
    return [
        CountLine(_(name), _signed(sheet.new_files.get(status, 0)), sheet.files.get(status, 0))
        for status, name in _STATUSES.items()
        if sheet.files.get(status, 0) or sheet.new_files.get(status, 0)
    ]


def _reason_lines(sheet: RunSheet) -> list[CountLine]:
    order = sorted(
        {**sheet.reasons, **sheet.new_reasons}, key=lambda each: (-abs(sheet.new_reasons.get(each, 0)), each)
    )
    return [
        CountLine(
            reason,
            _signed(sheet.new_reasons.get(reason, 0)),
            sheet.reasons.get(reason, 0),
            wording.reason_sentence(reason),
        )
        for reason in order
    ]


def _signed(count: int) -> str:
    return whole(count, signed=True) if count else "0"


# --------------------------------------------------------------------------- drift


def _cells(lines: Sequence[DriftLine], label: str, wanted: Sequence[tuple[str, str]]) -> list[DriftCell]:
    found = {(line.what, line.against): line for line in lines if line.label == label}
    return [
        DriftCell(number(found[each].psi, 2), found[each].alarm) if each in found else DriftCell("", alarm=False)
        for each in wanted
    ]


_OF_LABELS = (("score", "training"), ("score", "recent"), ("positive", "training"), ("positive", "recent"))


def _drift_rows(drift: DriftReport, engine: EngineDescription, sheet: RunSheet) -> list[dict[str, object]]:
    """Return a row per label: how often it was called, and its indices."""
    return [
        {
            "name": label_name(label),
            "called": _("not judged") if label.operating_point is None else whole(sheet.positives.get(label.name, 0)),
            "cells": _cells(drift.lines, label.name, _OF_LABELS),
        }
        for label in engine.labels
    ]


def _other_rows(drift: DriftReport) -> list[dict[str, object]]:
    named = {"grey": _("Grey levels"), "view": _("Views"), "age": _("Ages")}
    rows = [(name, _cells(drift.lines, "", ((what, "training"), (what, "recent")))) for what, name in named.items()]
    return [{"name": name, "cells": cells} for name, cells in rows if any(cell.value for cell in cells)]


def _scanner_rows(drift: DriftReport) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for each in drift.scanners:
        worst = max(each.lines, key=lambda line: (line.alarm, line.psi), default=None)
        rows.append(
            {
                "name": wording.plain(each.scanner, longest=120),
                "studies": each.studies,
                "recent": each.recent_studies,
                "worst": drift_said(worst) if worst else _("too few studies to tell"),
                "alarms": len(each.alarms),
            }
        )
    return rows


# --------------------------------------------------------------------------- speed and trend


def _stage_lines(ms_per_study: Mapping[str, float]) -> list[StageLine]:
    total = sum(ms_per_study.values()) or 1.0
    falling = sorted(ms_per_study.items(), key=lambda item: -item[1])
    return [
        StageLine(_(_STAGES[stage]) if stage in _STAGES else stage, number(ms, 1), f"{100 * ms / total:.1f}")
        for stage, ms in falling
    ]


def _share(part: str) -> Callable[[RunSheet], float | None]:
    return lambda sheet: 100 * sheet.priorities.get(part, 0) / sheet.scored_studies if sheet.scored_studies else None


def _trends(sheets: Sequence[RunSheet]) -> Iterator[Trend]:
    """Yield the pictures of the figures that at least two runs have."""
    asked: list[tuple[str, Callable[[RunSheet], float | None], int, str]] = [
        (_("Files that came"), lambda sheet: max(0, sheet.came), 0, ""),
        (_("Studies scored"), lambda sheet: sheet.scored_studies, 0, ""),
        (_("Files refused"), lambda sheet: max(0, sheet.refused), 0, ""),
        (_("Studies failed"), lambda sheet: sheet.studies.get("failed", 0), 0, ""),
        (_("Urgent, of the studies scored"), _share("urgent"), 1, " %"),
        (_("Abnormal, of the studies scored"), _share("abnormal"), 1, " %"),
        (_("Milliseconds per study"), lambda sheet: sum(sheet.ms_per_study.values()) or None, 0, ""),
        (_("Drift alarms"), lambda sheet: sheet.alarms, 0, ""),
    ]
    for name, figure, decimals, unit in asked:
        values = [figure(sheet) for sheet in sheets]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            yield _trend(name, values, partial(_with_unit, decimals, unit), sheets)


def _with_unit(decimals: int, unit: str, value: float) -> str:
    return number(value, decimals) + unit


def _trend(
    name: str, values: Sequence[float | None], shown: Callable[[float], str], sheets: Sequence[RunSheet]
) -> Trend:
    known = [value for value in values if value is not None]
    top = max(known) or 1.0
    bars = []
    for place, (value, sheet) in enumerate(zip(values, sheets, strict=True)):
        if value is not None:
            height = round(max(_LEAST_HEIGHT, (_CHART_HEIGHT - 2) * value / top), 1)
            title = f"{sheet.name}: {shown(value)}"
            x = place * (_BAR_WIDTH + _BAR_GAP)
            bars.append(Bar(x, round(_CHART_HEIGHT - height, 1), height, title, place == len(values) - 1))
    last = values[-1]
    latest = shown(last) if last is not None else pgettext("no figure", "none")
    between = _("{least} to {most}").format(least=shown(min(known)), most=shown(max(known)))
    return Trend(name, latest, between, tuple(bars), len(values) * (_BAR_WIDTH + _BAR_GAP))
