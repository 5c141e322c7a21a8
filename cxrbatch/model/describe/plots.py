"""The plots of a data summary, in the style of all pages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from cxrbatch.model.data.labelled import UNKNOWN, Sample
from cxrbatch.model.describe.summary import DataSummary
from cxrbatch.pages import header_words
from cxrbatch.pages.language import gettext as _, whole
from cxrbatch.pages.plot_style import ACCENT, DASHES, INK, LABEL_COLOURS, LINE, MUTED, as_svg, plot_style, plot_text

_PARTS = {
    "train": LABEL_COLOURS[0],
    "val": LABEL_COLOURS[1],
    "test": LABEL_COLOURS[2],
    "calibration": LABEL_COLOURS[3],
    "": LABEL_COLOURS[0],
}
_SEXES = {"M": LABEL_COLOURS[0], "F": LABEL_COLOURS[3], "": MUTED}
# Clear where nothing is, so that the page shows through.
_SHARES = LinearSegmentedColormap.from_list("shares", [(*to_rgb(ACCENT), 0.0), (*to_rgb(ACCENT), 1.0)])


def draw_counts(summary: DataSummary) -> bytes:
    """Draw how many images show each label."""
    with plot_style():
        figure, axes = _new_figure(height=0.8 + 0.3 * len(summary.lines))
        places = np.arange(len(summary.lines))
        bars = axes.barh(places, [line.positive for line in summary.lines], color=ACCENT, height=0.68)
        axes.set_yticks(places, _names(summary))
        axes.bar_label(bars, padding=4, fmt=lambda count: whole(round(count)))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(_("images"))
        return as_svg(figure)


def draw_prevalence(summary: DataSummary) -> bytes:
    """Draw the share of each label in each part: dots that lie apart are a split that is not stratified."""
    with plot_style():
        figure, axes = _new_figure(height=0.95 + 0.3 * len(summary.lines))
        places = np.arange(len(summary.lines))
        for index, part in enumerate(summary.parts):
            shares = [100 * (line.prevalence[index] or 0.0) for line in summary.lines]
            axes.plot(
                shares, places, "o", color=_PARTS[part.name], markersize=7, alpha=0.85, label=part.name or _("all")
            )
        axes.set_yticks(places, _names(summary))
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlim(0.0, 1.06 * max(axes.get_xlim()[1], 1.0))
        axes.grid(axis="y", color=LINE, linewidth=0.5, alpha=0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(_("share of the part's images, %"))
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return as_svg(figure)


def draw_together(summary: DataSummary) -> bytes:
    """Draw which labels come together: of the images with the row's label, how many have the column's too."""
    counts = summary.together
    shares = 100 * counts / np.maximum(counts.diagonal()[:, np.newaxis], 1)
    np.fill_diagonal(shares, np.nan)
    with plot_style():
        side = 2.0 + 0.42 * len(summary.labels)
        figure, axes = _new_figure(height=side, width=side + 1.2)
        axes.imshow(shares, cmap=_SHARES, vmin=0, vmax=100)
        for (row, column), share in np.ndenumerate(shares):
            if not np.isnan(share):
                colour = "white" if share > 75 else INK  # on what is lighter, dark letters have more contrast
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8.5, color=colour)
        ticks = range(len(summary.labels))
        axes.set_xticks(ticks, _names(summary), rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, [f"{_name(line.name)} ({whole(line.positive)})" for line in summary.lines])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return as_svg(figure)


def draw_ages(samples: Sequence[Sample]) -> bytes:
    """Draw how old the patients are, men and women apart."""
    ages = {sex: [each.age for each in samples if each.sex == sex and each.age is not None] for sex in _SEXES}
    drawn = [sex for sex in _SEXES if ages[sex]]
    with plot_style():
        figure, axes = _new_figure(height=3.0, width=9.2)
        axes.hist(
            [ages[sex] for sex in drawn],
            bins=list(range(0, 101, 5)),
            stacked=True,
            color=[_SEXES[sex] for sex in drawn],
            label=[header_words.sex(sex) or _(UNKNOWN) for sex in drawn],
            rwidth=0.92,
        )
        axes.set_xlabel(_("age, years"))
        axes.set_ylabel(_("images"))
        axes.legend(frameon=False, loc="upper left")
        return as_svg(figure)


def draw_sizes(summary: DataSummary) -> bytes:
    """Draw rows over columns of the stored images; the dot's area grows with the number of images."""
    columns = [size.columns for size, _ in summary.sizes]
    rows = [size.rows for size, _ in summary.sizes]
    most = max(count for _, count in summary.sizes)
    with plot_style():
        figure, axes = _new_figure(height=3.4)
        area = [12 + 160 * count / most for _, count in summary.sizes]
        axes.scatter(columns, rows, s=area, color=ACCENT, alpha=0.45, linewidth=0)
        limit = 1.08 * max(*columns, *rows)
        axes.plot([0, limit], [0, limit], color=LINE, linewidth=0.8, linestyle=DASHES)
        axes.set_xlim(0, limit)
        axes.set_ylim(0, limit)
        axes.set_xlabel(_("columns, px"))
        axes.set_ylabel(_("rows, px"))
        return as_svg(figure)


def _names(summary: DataSummary) -> list[str]:
    return [_name(label) for label in summary.labels]


def _name(label: str) -> str:
    return plot_text(label.replace("_", " "))


def _new_figure(*, height: float, width: float = 6.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
