"""What `train` prints: the figures, the reasons to doubt them, and where everything is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cxrbatch.model.train.page import TRAINING_HTML
from cxrbatch.model.train.record import TrainingRun, TrainingSummary
from cxrbatch.pages.terminal_text import TITLE, literal


def print_training(console: Console, summary: TrainingSummary, checkpoint: Path, folder: Path) -> None:
    """Print a table of the labels, or of the folds' spread, and what to do next."""
    run = summary.runs[summary.chosen]
    console.print(_spread_table(summary) if summary.spread else _label_table(run))
    for sentence in (*run.leaks, *run.notes):
        console.print(literal(sentence), highlight=False)
    lines = [
        f"Kept epoch {run.kept} of {len(run.epochs)}, in {checkpoint} ({run.seconds:.0f} s).",
        "The same images chose the epoch, the calibration and the operating points; others tell more:",
        f"  cxrbatch evaluate {checkpoint} DATA -o evaluation",
        f"Report: {(folder / TRAINING_HTML).resolve()}",
    ]
    for line in lines:
        console.print(literal(line), highlight=False)


def _label_table(run: TrainingRun) -> Table:
    table = Table(
        *("label", "AUROC", "sensitivity", "specificity", "operating point"),
        title=literal(f"On the validation images, rule {run.operating_point_rule}", TITLE),
    )
    for label in run.facts.labels:
        figures = [_in_words(label.metrics, name) for name in ("auroc", "sensitivity", "specificity")]
        point = "none: too few images" if label.operating_point is None else f"{label.operating_point:.3f}"
        table.add_row(literal(label.name), *figures, point)
    for name in ("macro_auroc", "accuracy"):
        if name in run.facts.training.figures and len(run.facts.labels) > 1:
            table.add_row(name.replace("_", " "), f"{run.facts.training.figures[name]:.3f}", "", "", "")
    return table


def _spread_table(summary: TrainingSummary) -> Table:
    table = Table("figure", "mean", "deviation", title=f"Over {len(summary.runs)} folds")
    for name, spread in summary.spread.items():
        table.add_row(literal(name.replace("_", " ")), f"{spread.mean:.3f}", f"{spread.deviation:.3f}")
    return table


def _in_words(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return "-"
    return f"{metrics[name]:.3f} ({metrics[f'{name}_low']:.3f} to {metrics[f'{name}_high']:.3f})"
