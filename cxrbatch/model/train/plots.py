"""The curves of a training: loss, AUROC, learning rate and pace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cxrbatch.model.figures.plots import CONFUSION, draw_confusion
from cxrbatch.model.train.record import EpochFigures, TrainingRun, TrainingSummary
from cxrbatch.pages.language import gettext as _, msgid, ngettext
from cxrbatch.pages.plot_style import (
    ACCENT,
    DASHES,
    INK,
    LINE,
    MUTED,
    Plot,
    as_svg,
    label_colour,
    plot_style,
    plot_text,
)
from cxrbatch.system import durable

MOST_LABEL_LINES = 6
"""Where there are more labels, only their mean is drawn: so many lines cannot be told apart."""

# From here on dots on a line run into each other.
_MOST_DOTS = 40
# A first epoch can lose so much more than the rest that on a linear scale nothing else would be seen.
_LINEAR_UP_TO = 12.0

LOSS = Plot(
    "loss.svg",
    msgid("Loss"),
    msgid(
        "Lower is better. The training images are changed by chance in every epoch, and the weights move meanwhile; "
        "the validation images are seen whole and unchanged, after the epoch."
    ),
)
AUROC = Plot(
    "auroc.svg",
    msgid("AUROC on the validation images"),
    msgid("The ring marks the epoch that was kept. The dashed line is chance."),
)
RATE = Plot("learning_rate.svg", msgid("Learning rate"), msgid("At the end of each epoch."))
PACE = Plot(
    "pace.svg",
    msgid("Time"),
    msgid("Seconds of each epoch, validation included, and images trained on per second."),
)


def write_training_plots(out: Path, summary: TrainingSummary) -> tuple[Plot, ...]:
    """Write the plots of the chosen run into `out`, other folds' AUROC with it; return them in the order of the page.

    A multi-class task's confusion matrix is the last.
    """
    run = summary.shown
    with plot_style():
        drawn = {LOSS: _draw_loss(run), RATE: _draw_rate(run), PACE: _draw_pace(run)}
        if _is_told(_aurocs(run)):
            drawn = {LOSS: drawn[LOSS], AUROC: _draw_auroc(run, summary)} | drawn
        if run.measured.classes is not None:
            drawn[CONFUSION] = draw_confusion(run.measured.classes)
        contents = {plot.file: as_svg(canvas) for plot, canvas in drawn.items()}
    durable.replace_files(out, contents)
    return tuple(drawn)


def small_epochs(run: TrainingRun) -> tuple[EpochFigures, ...]:
    """Return the epochs that saw images smaller than the network will."""
    return tuple(epoch for epoch in run.epochs if epoch.size_px < run.facts.input.size_px)


def _draw_loss(run: TrainingRun) -> Canvas:
    canvas, axes = _new_canvas(run)
    training, validation = [epoch.loss for epoch in run.epochs], [_or_nan(epoch.val_loss) for epoch in run.epochs]
    _curve(axes, run, training, MUTED, _("training"))
    if _is_told(validation):
        _curve(axes, run, validation, ACCENT, _("validation"))
        _ring(axes, run, validation)
    values = _told(training + validation)
    if values.size and values.min() > 0 and values.max() / values.min() > _LINEAR_UP_TO:
        axes.set_yscale("log")
    axes.set(ylabel=_("loss"))
    _finish(canvas, axes, run)
    return canvas


def _draw_auroc(run: TrainingRun, summary: TrainingSummary) -> Canvas:
    canvas, axes = _new_canvas(run)
    axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=DASHES)
    mean = _aurocs(run)
    lines = [mean]
    if len(summary.runs) > 1:
        lines += _draw_other_folds(axes, run, summary)
    elif 1 < len(run.facts.labels) <= MOST_LABEL_LINES:
        lines += _draw_labels(axes, run)
    what = _("mean") if len(run.facts.labels) > 1 else run.facts.labels[0].name
    _curve(axes, run, mean, ACCENT, _("{what}, fold {fold}").format(what=what, fold=run.fold) if run.fold else what)
    _ring(axes, run, mean)
    lowest = min(0.5, float(_told([value for line in lines for value in line]).min()))
    axes.set(ylabel="AUROC", ylim=(max(-0.01, lowest - 0.03), 1.01))
    _finish(canvas, axes, run)
    return canvas


def _draw_labels(axes: Axes, run: TrainingRun) -> list[list[float]]:
    lines = []
    for place, label in enumerate(run.facts.labels):
        values = [_or_nan(epoch.label_auroc[place]) if epoch.label_auroc else float("nan") for epoch in run.epochs]
        if _is_told(values):
            axes.plot(_numbers(run), values, color=label_colour(place), linewidth=1.1, label=plot_text(label.name))
            lines.append(values)
    return lines


def _draw_other_folds(axes: Axes, run: TrainingRun, summary: TrainingSummary) -> list[list[float]]:
    lines: list[list[float]] = []
    for other in summary.runs:
        values = _aurocs(other)
        if other is not run and _is_told(values):
            others = len(summary.runs) - 1
            said = ngettext("the other {count} fold", "the other {count} folds", others).format(count=others)
            name = said if not lines else None
            axes.plot(_numbers(other), values, color=MUTED, linewidth=0.9, alpha=0.6, label=name)
            lines.append(values)
    return lines


def _draw_rate(run: TrainingRun) -> Canvas:
    canvas, axes = _new_canvas(run)
    _curve(axes, run, [epoch.learning_rate for epoch in run.epochs], ACCENT, "")
    axes.set(ylabel=_("learning rate"))
    axes.set_ylim(bottom=0.0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    _finish(canvas, axes, run)
    return canvas


def _draw_pace(run: TrainingRun) -> Canvas:
    canvas = Canvas(figsize=_FIGURE_INCHES, layout="constrained")
    above, below = canvas.subplots(2, 1, sharex=True)
    for axes in (above, below):
        _shade_small_epochs(axes, run)
    above.bar(_numbers(run), [epoch.seconds for epoch in run.epochs], color=ACCENT, alpha=0.75, width=0.7)
    above.set(ylabel=_("seconds"))
    below.bar(_numbers(run), [epoch.images_per_s for epoch in run.epochs], color=MUTED, alpha=0.6, width=0.7)
    below.set(ylabel=_("images/s"))
    for axes in (above, below):
        _frame(axes, run)
    above.tick_params(labelbottom=False)
    above.set(xlabel="")
    return canvas


# --------------------------------------------------------------------------- parts of every curve

_FIGURE_INCHES = (5.4, 3.5)


def _new_canvas(run: TrainingRun) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=_FIGURE_INCHES, layout="constrained")
    axes = canvas.subplots()
    _shade_small_epochs(axes, run)
    return canvas, axes


def _shade_small_epochs(axes: Axes, run: TrainingRun) -> None:
    for epoch in small_epochs(run):
        axes.axvspan(epoch.epoch - 0.5, epoch.epoch + 0.5, color=LINE, alpha=0.55, linewidth=0)


def _curve(axes: Axes, run: TrainingRun, values: Sequence[float], colour: str, name: str) -> None:
    marker = "o" if len(run.epochs) <= _MOST_DOTS else ""
    axes.plot(_numbers(run), values, color=colour, linewidth=1.9, marker=marker, markersize=3.2, label=name or None)


def _ring(axes: Axes, run: TrainingRun, values: Sequence[float]) -> None:
    """Ring the kept epoch's value."""
    value = dict(zip(_numbers(run), values, strict=True)).get(run.kept, float("nan"))
    axes.plot(run.kept, value, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=INK, zorder=5)


def _finish(canvas: Canvas, axes: Axes, run: TrainingRun) -> None:
    axes.axvline(run.kept, color=INK, linewidth=0.9, linestyle=DASHES)
    late = run.kept > len(run.epochs) * 0.75
    axes.annotate(
        _("epoch {epoch} kept").format(epoch=run.kept),
        (run.kept, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(4 if not late else -4, 4),
        textcoords="offset points",
        ha="right" if late else "left",
        fontsize=9,
    )
    _frame(axes, run)
    names = axes.get_legend_handles_labels()[1]
    if len(names) > 1:
        canvas.legend(loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=9.5)


def _frame(axes: Axes, run: TrainingRun) -> None:
    axes.set(xlim=(0.5, max(_numbers(run), default=1) + 0.5), xlabel=_("epoch"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True, axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _numbers(run: TrainingRun) -> list[int]:
    return [epoch.epoch for epoch in run.epochs]


def _aurocs(run: TrainingRun) -> list[float]:
    return [_or_nan(epoch.val_auroc) for epoch in run.epochs]


def _or_nan(value: float | None) -> float:
    """Return what matplotlib leaves a gap for where nothing was measured."""
    return float("nan") if value is None else value


def _told(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    return array[np.isfinite(array)]


def _is_told(values: Sequence[float]) -> bool:
    return bool(_told(values).size)
