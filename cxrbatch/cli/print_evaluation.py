"""What `evaluate` prints: the figures that matter most, every reason to doubt them, and where the report is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cxrbatch.model.evaluate.record import Evaluation, Severity
from cxrbatch.model.evaluate.report import EVALUATION_HTML
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages.terminal_text import TITLE, literal


def print_evaluation(console: Console, evaluation: Evaluation, out: Path) -> None:
    """Print a table of the labels, the task's accuracy, and the cautions."""
    data = evaluation.data
    title = f"{evaluation.model.name}: {data.images} images of {data.patients} patients ({data.split})"
    table = Table(
        *("label", "with it", "AUROC", "sensitivity", "specificity"),
        title=literal(title, TITLE),
    )
    figures = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY)
    for label in evaluation.measured.labels:
        cells = (_in_words(label.figures.get(figure)) for figure in figures)
        table.add_row(literal(label.label), f"{label.positives} of {label.images}", *cells)
    if len(evaluation.measured.labels) > 1:
        table.add_row("mean", "", *(_in_words(evaluation.measured.macro.get(figure)) for figure in figures))
    console.print(table)
    if evaluation.measured.classes is not None:
        console.print(f"Accuracy: {_in_words(evaluation.measured.classes.accuracy)}", highlight=False)
    for caution in evaluation.cautions:
        console.print(literal(caution.text, _COLOURS[caution.severity]), highlight=False)
    console.print(literal(f"Report: {(out / EVALUATION_HTML).resolve()}"), highlight=False)


def _in_words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


_COLOURS: dict[Severity, str] = {"void": "bold red", "doubtful": "yellow", "note": "dim"}
