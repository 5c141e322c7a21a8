"""What `compare` prints: the rows, what keeps them apart, and where the tables are."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cxrbatch.model.compare.record import ComparedModel, Comparison
from cxrbatch.model.compare.report import COMPARE_HTML
from cxrbatch.model.evaluate.record import Severity
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages.terminal_text import literal

_MODEL, _IMAGES = "model", "measured on"
_WRAPPED = (_MODEL, _IMAGES)
_COLOURS: dict[Severity, str] = {"void": "bold red", "doubtful": "yellow", "note": "dim"}


def print_comparison(console: Console, comparison: Comparison, out: Path) -> None:
    """Print a row per model, the cautions, and where the page is; a column that no model fills is left out."""
    rows = [_cells(comparison, model) for model in comparison.models]
    table = Table(box=SIMPLE_HEAD)
    for name in rows[0]:
        if any(row[name] for row in rows):
            table.add_column(name, no_wrap=name not in _WRAPPED, justify="left" if name in _WRAPPED else "right")
    for row in rows:
        table.add_row(*(literal(row[str(column.header)] or "-") for column in table.columns))
    console.print(table)
    for caution in comparison.cautions:
        console.print(literal(caution.text, _COLOURS[caution.severity]), highlight=False)
    console.print(literal(f"Report: {(out / COMPARE_HTML).resolve()}"), highlight=False)


def _cells(comparison: Comparison, model: ComparedModel) -> dict[str, str]:
    images = model.measured_on
    number = f" ({comparison.image_set(model)})" if comparison.image_sets > 1 else ""
    auroc = model.figures.get(Figure.AUROC)
    return {
        _MODEL: model.name,
        _IMAGES: f"{images.data} {images.part}{number}".strip() if images else "",
        "AUROC": _value(auroc),
        "95 %": f"{auroc.low:.3f}-{auroc.high:.3f}" if auroc is not None and auroc.low < auroc.high else "",
        "acc.": _value(model.accuracy),
        "sens.": _value(model.figures.get(Figure.SENSITIVITY)),
        "prec.": _value(model.figures.get(Figure.PPV)),
        "MB": "" if model.size_bytes is None else f"{model.size_bytes / 1e6:.1f}",
        "img/s": "" if model.throughput is None else f"{model.throughput.images_per_s:.1f}",
    }


def _value(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.3f}"
