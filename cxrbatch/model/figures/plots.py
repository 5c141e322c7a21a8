"""Figures drawn: ROC, precision and recall, calibration, confusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from cxrbatch.model.figures.figure_lines import percent
from cxrbatch.model.figures.figures import ClassFigures, LabelledScores, MeasuredLabels
from cxrbatch.model.figures.metrics import Calls, Figure, Truths
from cxrbatch.pages.language import gettext as _, localised, msgid, speaking, whole
from cxrbatch.pages.plot_style import (
    ACCENT,
    DASHES,
    LINE,
    MUTED,
    Panel,
    Plot,
    as_svg,
    label_colour,
    plot_style,
    plot_text,
)
from cxrbatch.records import Float32, Label
from cxrbatch.system import durable

MOST_TOGETHER = 4
"""With more labels than this each has pictures of its own: so many curves in one cannot be told apart."""

_CALIBRATION_POINTS = 10
_PANEL_INCHES = 2.3
_IMAGES_PER_POINT = 15


@dataclass(frozen=True, slots=True)
class _Curve:
    """One label that can be drawn: both classes are there."""

    label: Label
    colour: str
    truths: Truths
    probabilities: Float32
    calls: Calls | None


_Draw = Callable[[Axes, _Curve], None]


@speaking()
def write_plots(out: Path, measured: MeasuredLabels, scores: LabelledScores) -> tuple[Plot, ...]:
    """Write every plot that the images allow into `out`; return them in the order of a page."""
    curves = _curves(scores, {label.label for label in measured.labels if not label.too_few})
    plots: list[Plot] = []
    contents: dict[str, bytes] = {}
    with plot_style():
        for plot, draw in _CURVE_PLOTS.items() if curves else ():
            if len(curves) > MOST_TOGETHER:
                panels = dict(_draw_panels(plot, curves, measured, draw))
                plots.append(replace(plot, panels=tuple(panels)))
                contents |= {panel.file: picture for panel, picture in panels.items()}
            else:
                plots.append(plot)
                contents[plot.file] = as_svg(_draw_curves(curves, measured, draw))
        if measured.classes is not None:
            plots.append(CONFUSION)
            contents[CONFUSION.file] = as_svg(draw_confusion(measured.classes))
    durable.replace_files(out, contents)
    return tuple(plots)


def _curves(scores: LabelledScores, measurable: set[str]) -> list[_Curve]:
    """Return the labels that enough patients speak for: a curve through two images looks like one through thousands."""
    found = []
    for column, label in enumerate(scores.labels):
        known = ~np.isnan(scores.targets[:, column])
        truths = scores.targets[known, column] > 0.5
        if label.name in measurable and truths.any() and not truths.all():
            colour = label_colour(column)
            called = scores.calls[column]
            calls = None if called is None else called[known]
            found.append(_Curve(label, colour, truths, scores.probabilities[known, column], calls))
    return found


def _draw_curves(curves: list[_Curve], measured: MeasuredLabels, draw: _Draw) -> Canvas:
    """Draw all curves into one picture, with a legend below."""
    rows_below = -(-len(curves) // 2)
    canvas = Canvas(figsize=(4.6, 4.55 + 0.2 * rows_below), layout="constrained")
    axes = canvas.subplots()
    for curve in curves:
        draw(axes, curve)
        legend = f"{curve.label.name}  {_value(curve, measured, draw)}".rstrip()
        axes.plot([], [], color=curve.colour, linewidth=2.4, label=plot_text(legend))
    _frame(axes)
    canvas.legend(loc="outside lower center", ncols=2 if len(curves) > 1 else 1, frameon=False, fontsize=10)
    return canvas


def _draw_panels(
    plot: Plot, curves: list[_Curve], measured: MeasuredLabels, draw: _Draw
) -> Iterator[tuple[Panel, bytes]]:
    """Draw each curve into a picture of its own, all on the same scale (small multiples, Tufte 1983).

    Name, figure and what the axes are stand on the page, where they are read at any width.
    """
    stem = plot.file.removesuffix(".svg")
    for number, curve in enumerate(curves, start=1):
        canvas = Canvas(figsize=(_PANEL_INCHES, _PANEL_INCHES))
        axes = canvas.add_axes((0.14, 0.11, 0.8, 0.8))
        draw(axes, replace(curve, colour=ACCENT))
        _frame(axes, ticks=3)
        axes.set(xlabel="", ylabel="")
        panel = Panel(f"{stem}-{number}.svg", curve.label.name, _value(curve, measured, draw))
        yield panel, as_svg(canvas)


def _value(curve: _Curve, measured: MeasuredLabels, draw: _Draw) -> str:
    """Return the figure that goes with a curve, as text; empty where it was not measured."""
    figures = next(label.figures for label in measured.labels if label.label == curve.label.name)
    value = figures.get(_SHOWN_FIGURE[draw.__name__])
    return "" if value is None else localised(f"{value.value:.3f}")


def _frame(axes: Axes, ticks: int = 6) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xticks(np.linspace(0, 1, ticks))
    axes.set_yticks(np.linspace(0, 1, ticks))
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_roc(axes: Axes, curve: _Curve) -> None:
    false_positive_rate, true_positive_rate, *_thresholds = roc_curve(curve.truths, curve.probabilities)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=DASHES)
    axes.plot(false_positive_rate, true_positive_rate, color=curve.colour, linewidth=1.8)
    if curve.calls is not None:
        called = curve.calls
        _mark(axes, float(called[~curve.truths].mean()), float(called[curve.truths].mean()), curve.colour)
    axes.set(xlabel=_("1 - specificity"), ylabel=_("sensitivity"))


def _draw_precision_recall(axes: Axes, curve: _Curve) -> None:
    precision, recall, *_thresholds = precision_recall_curve(curve.truths, curve.probabilities)
    axes.plot(recall, precision, color=curve.colour, linewidth=1.8, drawstyle="steps-post")
    axes.axhline(float(curve.truths.mean()), color=curve.colour, linewidth=0.8, linestyle=DASHES)
    if curve.calls is not None and curve.calls.any():
        called = curve.calls
        _mark(axes, float(called[curve.truths].mean()), float(curve.truths[called].mean()), curve.colour)
    axes.set(xlabel=_("recall (sensitivity)"), ylabel=_("precision (PPV)"))


def _draw_calibration(axes: Axes, curve: _Curve) -> None:
    groups = _equal_groups(curve.probabilities)
    predicted = [float(curve.probabilities[group].mean()) for group in groups]
    observed = [float(curve.truths[group].mean()) for group in groups]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=DASHES)
    axes.plot(predicted, observed, color=curve.colour, linewidth=1.4, marker="o", markersize=4.5, alpha=0.95)
    axes.set(xlabel=_("mean probability"), ylabel=_("share of images with the finding"))


def _equal_groups(probabilities: Float32) -> list[NDArray[np.int64]]:
    """Return images in up to ten groups of equal size by rising probability, so that no point rests on few images."""
    order = np.argsort(probabilities, kind="stable")
    count = min(_CALIBRATION_POINTS, max(2, len(order) // _IMAGES_PER_POINT))
    return [group for group in np.array_split(order, count) if group.size]


def _mark(axes: Axes, x: float, y: float, colour: str) -> None:
    axes.plot(x, y, marker="o", markersize=8, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=2)


_CURVE_PLOTS: dict[Plot, _Draw] = {
    Plot(
        "roc.svg",
        msgid("ROC"),
        msgid("The number is the area under the curve. A ring marks the operating point."),
        msgid("Across: 1 - specificity. Up: sensitivity."),
    ): _draw_roc,
    Plot(
        "precision_recall.svg",
        msgid("Precision and recall"),
        msgid("The number is the average precision. The dashed line is the share of images with the finding: chance."),
        msgid("Across: recall (sensitivity). Up: precision (PPV)."),
    ): _draw_precision_recall,
    Plot(
        "calibration.svg",
        msgid("Calibration"),
        msgid(
            "Up to ten groups of equal size by probability. On the diagonal a probability means what it says; "
            "the number is the expected calibration error."
        ),
        msgid("Across: mean probability. Up: share of images with the finding."),
    ): _draw_calibration,
}
_SHOWN_FIGURE = {
    _draw_roc.__name__: Figure.AUROC,
    _draw_precision_recall.__name__: Figure.AVERAGE_PRECISION,
    _draw_calibration.__name__: Figure.CALIBRATION_ERROR,
}


CONFUSION = Plot(
    "confusion.svg",
    msgid("Confusion"),
    msgid("Images by true class (rows) and likeliest class (columns), with the share of the row."),
)


def draw_confusion(classes: ClassFigures) -> Canvas:
    """Draw images by true and answered class; to be called and saved within `plot_style`."""
    counts = np.array(classes.confusion)
    share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = 2.2 + 0.6 * len(classes.labels)
    canvas = Canvas(figsize=(side + 0.6, side), layout="constrained")
    axes = canvas.subplots()
    for (row, column), count in np.ndenumerate(counts):
        # Colour by opacity, so that an empty cell is the paper, whatever the paper's colour is.
        axes.fill_between(
            [column, column + 1], row, row + 1, color=ACCENT, alpha=0.62 * share[row, column], linewidth=0
        )
        axes.text(column + 0.5, row + 0.43, whole(int(count)), fontsize=12, fontweight="bold", ha="center", va="center")
        axes.text(column + 0.5, row + 0.72, percent(float(share[row, column])), fontsize=8.5, ha="center", va="center")
    ticks = np.arange(len(classes.labels)) + 0.5
    names = [plot_text(label) for label in classes.labels]
    axes.set_xticks(ticks, names, rotation=25, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlim=(0, len(counts)), ylim=(len(counts), 0), aspect="equal", xlabel=_("answered"), ylabel=_("true"))
    axes.tick_params(length=0)
    axes.spines[:].set_color(LINE)
    return canvas
