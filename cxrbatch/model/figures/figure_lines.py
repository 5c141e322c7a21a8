"""Figures as the numbers and lines that pages show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figures import RANKING, Estimates, LabelFigures, MeasuredLabels
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, localised, msgid, ngettext, whole
from cxrbatch.pages.retelling import kept
from cxrbatch.records import FEWEST_PATIENTS, Task

FIGURE_NAMES: dict[Figure, str] = {
    Figure.AUROC: "AUROC",
    Figure.AVERAGE_PRECISION: msgid("Average precision"),
    Figure.SENSITIVITY: msgid("Sensitivity"),
    Figure.SPECIFICITY: msgid("Specificity"),
    Figure.PPV: msgid("PPV"),
    Figure.NPV: msgid("NPV"),
    Figure.F1: "F1",
    Figure.BRIER: msgid("Brier score"),
    Figure.CALIBRATION_ERROR: msgid("Calibration error"),
}
MEAN_NAMES: dict[Figure, str] = {
    Figure.AUROC: msgid("Mean AUROC"),
    Figure.SENSITIVITY: msgid("Mean sensitivity"),
    Figure.SPECIFICITY: msgid("Mean specificity"),
    Figure.CALIBRATION_ERROR: msgid("Mean calibration error"),
}
"""What these are called where they are over several labels."""
RANKING_FIGURES = (Figure.AUROC, Figure.AVERAGE_PRECISION, Figure.BRIER, Figure.CALIBRATION_ERROR)
"""What scores are worth whatever the operating point."""
CALLING_FIGURES = (Figure.SENSITIVITY, Figure.SPECIFICITY, Figure.PPV, Figure.NPV, Figure.F1)
"""What verdicts at the operating point are worth."""

TOO_FEW = msgid("too few")
"""What stands in the place of a figure that too few patients would have to tell."""

_HEADLINE_FIGURES = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY, Figure.CALIBRATION_ERROR)


@dataclass(frozen=True, slots=True)
class Number:
    """A figure as the page shows it: value and interval in words, and in per cent of the scale 0..1 for its bar."""

    value: str
    interval: str = ""
    at: float = 0.0
    start: float = 0.0
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table: what it is of, how many images speak, and its numbers in the order of the columns."""

    name: str
    count: str
    numbers: tuple[Number, ...]
    emphasis: str = ""


def number(estimate: Estimate | None) -> Number:
    """Show an estimate with three decimals; a dash where there is none, no interval where nothing was resampled."""
    if estimate is None:
        return Number(wording.NO_VALUE)
    resampled = estimate.low < estimate.high
    return Number(
        value=localised(f"{estimate.value:.3f}"),
        interval=interval(f"{estimate.low:.3f}", f"{estimate.high:.3f}") if resampled else "",
        at=100 * estimate.value,
        start=100 * estimate.low,
        width=100 * (estimate.high - estimate.low),
    )


def interval(low: str, high: str) -> str:
    """Return both ends of an interval, formatted in English, in the language that is spoken: 0.912 to 0.956."""
    return _("{low} to {high}").format(low=localised(low), high=localised(high))


def percent(share: float) -> str:
    """Return a share 0..1 in whole per cent, in the language that is spoken: 50%."""
    return _("{number}%").format(number=f"{100 * share:.0f}")


def figure_name(figure: Figure) -> str:
    """Return what a figure is called, in the language that is spoken."""
    return _(FIGURE_NAMES[figure])


def images_in_words(count: int) -> str:
    """Return so many images in the language that is spoken, grouped by thousands."""
    return ngettext("{count} image", "{count} images", count).format(count=whole(count))


def numbers(estimates: Estimates, figures: Sequence[Figure]) -> tuple[Number, ...]:
    """Show these figures, in this order."""
    return tuple(number(estimates.get(figure)) for figure in figures)


def headlines(measured: MeasuredLabels) -> Iterator[Line]:
    """Yield the few numbers to read first: the task's own, then the mean over labels."""
    several = len(measured.labels) > 1
    if measured.classes is not None:
        yield Line(_("Accuracy"), images_in_words(measured.classes.images), (number(measured.classes.accuracy),))
    for figure in _HEADLINE_FIGURES:
        if figure in measured.macro:
            labels = sum(figure in label.figures for label in measured.labels)
            over = ngettext("over {count} label", "over {count} labels", labels).format(count=labels)
            name = _(MEAN_NAMES[figure]) if several else figure_name(figure)
            yield Line(name, over if several else measured.labels[0].label, (number(measured.macro[figure]),))


def ranking_lines(measured: MeasuredLabels) -> list[Line]:
    """Return a line per label and their mean, with RANKING_FIGURES."""
    lines = [
        Line(
            label.label,
            _("{part} of {all}").format(part=whole(label.positives), all=whole(label.images)),
            _ranked(label),
        )
        for label in measured.labels
    ]
    return [*lines, *_mean_line(measured, RANKING_FIGURES)]


def describe_too_few(measured: MeasuredLabels) -> str:
    """Say in a sentence which labels too few patients speak for; nothing where there are none."""
    few = [
        kept("{name} ({patients} with it, {without} without)").format(
            name=label.label,
            patients=wording.counted(label.patients_with or 0, "patient"),
            without=label.patients_without or 0,
        )
        for label in measured.labels
        if label.too_few
    ]
    if not few:
        return ""
    return kept(
        "Too few patients to measure how well images are ranked, so no AUROC: {list}. It takes {number} either way; "
        "means are over the other labels."
    ).format(list=", ".join(few), number=FEWEST_PATIENTS)


def _ranked(label: LabelFigures) -> tuple[Number, ...]:
    shown = numbers(label.figures, RANKING_FIGURES)
    few = [label.too_few and figure in RANKING for figure in RANKING_FIGURES]
    return tuple(Number(_(TOO_FEW)) if is_few else each for each, is_few in zip(shown, few, strict=True))


def calling_lines(measured: MeasuredLabels, task: Task) -> list[Line]:
    """Return the same with CALLING_FIGURES; operating points stand where the other table counts images."""
    lines = [
        Line(label.label, _point(label, task), numbers(label.figures, CALLING_FIGURES)) for label in measured.labels
    ]
    return [*lines, *_mean_line(measured, CALLING_FIGURES)]


def _mean_line(measured: MeasuredLabels, figures: Sequence[Figure]) -> list[Line]:
    return [Line(_("Mean"), "", numbers(measured.macro, figures), "mean")] if len(measured.labels) > 1 else []


def _point(label: LabelFigures, task: Task) -> str:
    if label.operating_point is None:
        return _("no verdict")
    return _("likeliest class") if task == "multiclass" else wording.operating_point(label.operating_point)
