"""compare.csv: a row per model, numbers in full, empty where nothing is known."""

from __future__ import annotations

from pathlib import Path

from cxrbatch.model.compare.record import ComparedModel, Comparison
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages.cells import list_cell, write_rows
from cxrbatch.system.durable import replacing

COMPARE_CSV = "compare.csv"

Cell = str | int | float

_FIGURES = (
    Figure.AVERAGE_PRECISION,
    Figure.SENSITIVITY,
    Figure.SPECIFICITY,
    Figure.PPV,
    Figure.F1,
)


def write_comparison_table(out: Path, comparison: Comparison) -> None:
    """Write the table, whole or not at all."""
    rows = [_cells(comparison, model) for model in comparison.models]
    with replacing(out / COMPARE_CSV) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        write_rows(stream, [list(rows[0]), *(list(row.values()) for row in rows)])


def _cells(comparison: Comparison, model: ComparedModel) -> dict[str, Cell]:
    return (
        _identity(model)
        | _images(comparison, model)
        | _figures(model)
        | {
            "parameters": "" if model.parameters is None else model.parameters,
            "size_mb": "" if model.size_bytes is None else round(model.size_bytes / 1e6, 3),
        }
        | _throughput(model)
        | {"trained_s": "" if model.trained_s is None else model.trained_s}
    )


def _identity(model: ComparedModel) -> dict[str, Cell]:
    return {
        "name": model.name,
        "run": model.run,
        "sha256": model.sha256,
        "architecture": model.architecture,
        "task": model.task,
        "labels": list_cell(model.labels),
        "input_px": model.size_px,
        "trained_on": model.trained_on,
    }


def _images(comparison: Comparison, model: ComparedModel) -> dict[str, Cell]:
    images = model.measured_on
    return {
        "measured_on": images.data if images else "",
        "part": images.part if images else "",
        "data_sha256": images.sha256 if images else "",
        "image_set": comparison.image_set(model) or "",
        "images": images.images if images and images.images is not None else "",
        "chosen_by": int(images.chosen_by) if images else "",
    }


def _figures(model: ComparedModel) -> dict[str, Cell]:
    auroc = model.figures.get(Figure.AUROC)
    return {
        "auroc": _value(auroc),
        "auroc_low": _value(auroc, "low"),
        "auroc_high": _value(auroc, "high"),
        "accuracy": _value(model.accuracy),
    } | {figure.value: _value(model.figures.get(figure)) for figure in _FIGURES}


def _throughput(model: ComparedModel) -> dict[str, Cell]:
    pace = model.throughput
    return {
        "images_per_s": round(pace.images_per_s, 2) if pace else "",
        "backend": pace.backend if pace else "",
        "precision": pace.precision if pace else "",
        "batch_size": pace.batch_size if pace else "",
        "threads": pace.threads if pace else "",
    }


def _value(estimate: Estimate | None, end: str = "value") -> Cell:
    """Return a figure, or one end of its interval: empty where nothing was resampled."""
    if estimate is None or (end != "value" and estimate.low == estimate.high):
        return ""
    return round(float(getattr(estimate, end)), 6)
