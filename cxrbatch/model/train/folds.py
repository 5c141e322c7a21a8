"""Several folds together: mean and spread of their figures, and the lines of them that the page shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figure_lines import Line, Number, figure_name, number
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.train.record import Spread, TrainingRun, TrainingSummary
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, localised, ngettext


def summarise_folds(runs: Sequence[TrainingRun]) -> TrainingSummary:
    """Put the runs of one command together; of folds, the checkpoint of the middle one is the command's."""
    if len(runs) == 1:
        return TrainingSummary(runs=tuple(runs), chosen=0)
    return TrainingSummary(runs=tuple(runs), chosen=middle_of(runs), spread=spread_of(runs))


def middle_of(runs: Sequence[TrainingRun]) -> int:
    """Return the place of the run with the median macro AUROC: the lower one of two in the middle."""
    ranked = sorted(range(len(runs)), key=lambda place: runs[place].facts.training.figures.get("macro_auroc", 0.0))
    return ranked[(len(runs) - 1) // 2]


def spread_of(runs: Sequence[TrainingRun]) -> dict[str, Spread]:
    """Return mean and standard deviation of each figure that every fold has, and of each label's AUROC."""
    rows = [_figures_of(run) for run in runs]
    shared = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: _spread([row[name] for row in rows]) for name in shared}


def _figures_of(run: TrainingRun) -> dict[str, float]:
    overall = {
        name: value for name, value in run.facts.training.figures.items() if not name.endswith(("_low", "_high"))
    }
    of_labels = {
        f"auroc {label.name}": label.metrics["auroc"] for label in run.facts.labels if "auroc" in label.metrics
    }
    return overall | of_labels


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))


_FOLD_FIGURES = ("accuracy", "macro_auroc", "macro_average_precision", "macro_sensitivity", "macro_specificity")


@dataclass(frozen=True, slots=True)
class FoldRow:
    """One fold: its page, where it has one of its own, and its line of figures."""

    page: str
    line: Line


def fold_figures(summary: TrainingSummary) -> list[str]:
    """Return the figures that all folds have, of those that are shown."""
    return [name for name in _FOLD_FIGURES if name in summary.spread]


def fold_figure_name(name: str) -> str:
    """Return the name of a figure as people write it."""
    return _("Accuracy") if name == "accuracy" else figure_name(Figure(name.removeprefix("macro_")))


def fold_headlines(summary: TrainingSummary) -> Iterator[Line]:
    """Yield the few numbers to read first: mean and spread of the folds."""
    for name in fold_figures(summary):
        spread = summary.spread[name]
        mean = ngettext("mean of {count} fold", "mean of {count} folds", spread.folds).format(count=spread.folds)
        yield Line(fold_figure_name(name), mean, (_spread_number(spread),))


def fold_rows(out: Path, page: str, summary: TrainingSummary) -> list[FoldRow]:
    """Return a row per fold, and their mean and spread; none where there are no folds.

    Args:
        out: the folder of the page that shows them; a fold's own page lies in a folder beside its checkpoint, there.
        page: how such a page is called.
        summary: the folds.
    """
    names = fold_figures(summary)
    if not names:
        return []
    rows = [
        FoldRow(_own_page(out, page, run), _fold_line(run, names, chosen=_is_checkpoint(summary, place)))
        for place, run in enumerate(summary.runs)
    ]
    numbers = tuple(_spread_number(summary.spread[name]) for name in names)
    return [*rows, FoldRow("", Line(_("Mean and spread"), "", numbers, "mean"))]


def _is_checkpoint(summary: TrainingSummary, place: int) -> bool:
    return place == summary.chosen and not summary.ensemble


def _own_page(out: Path, page: str, run: TrainingRun) -> str:
    own = f"{Path(run.checkpoint).stem}-training/{page}"
    return own if (out / own).is_file() else ""


def _fold_line(run: TrainingRun, names: list[str], *, chosen: bool) -> Line:
    figures = run.facts.training.figures
    numbers = tuple(number(Estimate.stored(figures, name)) for name in names)
    kept = _("epoch {kept} of {epochs}, {duration}").format(
        kept=run.kept, epochs=len(run.epochs), duration=wording.duration(run.seconds)
    )
    name = _("Fold {fold}").format(fold=run.fold)
    named = (name, *([_("the checkpoint")] if chosen else []), *([_("interrupted")] if run.interrupted else []))
    return Line(", ".join(named), kept, numbers)


def fold_labels(summary: TrainingSummary) -> list[tuple[str, list[str], str]]:
    """Return, per label, its AUROC in every fold, and mean and spread; only where there are several labels."""
    labels = summary.runs[summary.chosen].facts.labels
    if len(summary.runs) == 1 or len(labels) == 1:
        return []
    lines = []
    for place, label in enumerate(labels):
        found = [run.facts.labels[place].metrics.get("auroc") for run in summary.runs]
        cells = [wording.NO_VALUE if auroc is None else localised(f"{auroc:.3f}") for auroc in found]
        spread = summary.spread.get(f"auroc {label.name}")
        told = wording.NO_VALUE if spread is None else localised(f"{spread.mean:.3f} ± {spread.deviation:.3f}")
        lines.append((label.name, cells, told))
    return lines


def _spread_number(spread: Spread) -> Number:
    return Number(
        value=localised(f"{spread.mean:.3f}"),
        interval=localised(f"± {spread.deviation:.3f}"),
        at=100 * spread.mean,
        start=100 * max(0.0, spread.mean - spread.deviation),
        width=100 * (min(1.0, spread.mean + spread.deviation) - max(0.0, spread.mean - spread.deviation)),
    )
