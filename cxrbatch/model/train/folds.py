"""Mean and spread of the figures of several folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxrbatch.model.train.record import Spread, TrainingRun, TrainingSummary


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
