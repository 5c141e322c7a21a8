"""The confusion matrix of a multi-class task, drawn."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from cxrbatch.model.figures.figures import ClassFigures
from cxrbatch.pages.plot_style import ACCENT, LINE, Plot, plot_text

CONFUSION = Plot(
    "confusion.svg",
    "Confusion",
    "Images by true class (rows) and likeliest class (columns), with the share of the row.",
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
        axes.text(column + 0.5, row + 0.43, str(count), fontsize=12, fontweight="bold", ha="center", va="center")
        axes.text(column + 0.5, row + 0.72, f"{share[row, column]:.0%}", fontsize=8.5, ha="center", va="center")
    ticks = np.arange(len(classes.labels)) + 0.5
    names = [plot_text(label) for label in classes.labels]
    axes.set_xticks(ticks, names, rotation=25, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlim=(0, len(counts)), ylim=(len(counts), 0), aspect="equal", xlabel="answered", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_color(LINE)
    return canvas
