"""The report's table of earlier studies of the same patient: when, what they scored, and what changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrbatch.output.report.findings import label_name
from cxrbatch.pages import header_words, wording
from cxrbatch.pages.labels import shown_label
from cxrbatch.pages.language import gettext as _, msgid, number
from cxrbatch.records import Label, PriorStudy, StudyResult, Verdict

_MOST_LABELS = 4
_CHANGE = msgid(
    "Change: the probability of this study less that of the other one, both scored by the same engine. It says "
    "nothing of what else differs: position, exposure, equipment."
)
_UNDATED = msgid("Their dates are left out, so it is not said which came first, nor what changed.")


@dataclass(frozen=True, slots=True)
class PriorCell:
    """What an earlier study scored for one finding, and how much more or less this one scores; or nothing."""

    probability: str
    change: str = ""


@dataclass(frozen=True, slots=True)
class PriorLine:
    """One earlier study; `href` leads to its report, from that of this study, and is empty where it has none.

    `cells` is empty where another engine scored it: then `said` tells what that called.
    """

    date: str
    study_key: str
    href: str
    priority: str
    priority_name: str
    cells: tuple[PriorCell, ...]
    said: str = ""


@dataclass(frozen=True, slots=True)
class PriorsTable:
    """The earlier studies, the latest first, under the findings that are compared; `now` is what this study scored."""

    title: str
    labels: tuple[str, ...]
    now: tuple[str, ...]
    lines: tuple[PriorLine, ...]
    note: str


def priors_table(result: StudyResult, verdict: Verdict, priors: Sequence[PriorStudy]) -> PriorsTable | None:
    """Return the table; None where the patient has no earlier study."""
    if not priors:
        return None
    labels = _compared(result, verdict, priors)
    lines = tuple(_line(prior, result, labels) for prior in priors)
    dated = any(prior.study_date for prior in priors)
    note = _(_CHANGE) if any(cell.change for line in lines for cell in line.cells) else "" if dated else _(_UNDATED)
    return PriorsTable(
        title=_("Earlier studies of this patient") if dated else _("Other studies of this patient"),
        labels=tuple(label_name(result.engine.labels[n]) for n in labels),
        now=tuple(_shown(result.engine.labels[n], result.probabilities[n]) for n in labels),
        lines=lines,
        note=note,
    )


def _compared(result: StudyResult, verdict: Verdict, priors: Sequence[PriorStudy]) -> list[int]:
    """Return which labels are compared: those that any of the studies calls, else the highest of this one."""
    scores, labels = result.probabilities, result.engine.labels
    called = {label.name for label in verdict.findings}
    called |= {name for prior in priors if _is_comparable(prior, result) for name in prior.findings}
    chosen = [n for n, label in enumerate(labels) if label.name in called]
    if not chosen:
        asked = [n for n, label in enumerate(labels) if label in verdict.asked]
        return [max(asked, key=lambda n: scores[n])]
    return sorted(chosen, key=lambda n: (not labels[n].urgent, -scores[n]))[:_MOST_LABELS]


def _is_comparable(prior: PriorStudy, result: StudyResult) -> bool:
    same = prior.engine_sha256 == result.engine.sha256
    return same and len(prior.probabilities) == len(result.engine.labels)


def _line(prior: PriorStudy, result: StudyResult, labels: Sequence[int]) -> PriorLine:
    date, own = header_words.day(prior.study_date), result.header.study_date
    same_day = bool(date) and prior.study_date == own
    cells: tuple[PriorCell, ...] = ()
    said = ""
    if _is_comparable(prior, result):
        cells = tuple(_cell(prior, result, n, same_day=same_day) for n in labels)
    else:
        said = _said(prior)
    return PriorLine(
        date=_("{date}, the same day").format(date=date) if same_day else date or _("date left out"),
        study_key=prior.study_key,
        href=f"../{prior.study_key}/{prior.report}" if prior.report else "",
        priority=prior.priority,
        priority_name=_(wording.PRIORITY_NAMES[prior.priority]),
        cells=cells,
        said=said,
    )


def _said(prior: PriorStudy) -> str:
    """Say what another engine called."""
    engine = wording.plain(prior.engine, longest=40)
    names = [shown_label(wording.plain(name.replace("_", " "), longest=80)) for name in prior.findings[:_MOST_LABELS]]
    if not names:
        return _("scored by another engine ({engine}): it called nothing").format(engine=engine)
    return _("scored by another engine ({engine}): it called {names}").format(engine=engine, names=", ".join(names))


def _cell(prior: PriorStudy, result: StudyResult, n: int, *, same_day: bool) -> PriorCell:
    value = prior.probabilities[n]
    # Which of two studies of one day came first is not known, nor of those without a date.
    if same_day or not prior.study_date:
        return PriorCell(_shown(result.engine.labels[n], value))
    change = round(result.probabilities[n] - value, 2)
    words = number(change, 2, signed=True) if change else f"\N{PLUS-MINUS SIGN}{number(0, 2)}"
    return PriorCell(_shown(result.engine.labels[n], value), _("change {difference}").format(difference=words))


def _shown(label: Label, value: float) -> str:
    return wording.probability(value, label.operating_point)
