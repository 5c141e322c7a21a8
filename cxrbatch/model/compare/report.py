"""What a comparison leaves: compare.html, and compare.csv with a row per model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrbatch.model.compare.difference_lines import DifferenceLine, difference_lines, pair_sentences
from cxrbatch.model.compare.record import ComparedModel, Comparison
from cxrbatch.model.compare.throughput import REPEATS
from cxrbatch.model.data.labelled import TASK_NAMES
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figure_lines import Number, figure_name, images_in_words, number, numbers
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages import wording
from cxrbatch.pages.cells import list_cell, write_rows
from cxrbatch.pages.language import gettext as _, localised, speaking
from cxrbatch.pages.page import render_page
from cxrbatch.pages.retelling import retold
from cxrbatch.system.durable import replace_text, replacing

COMPARE_HTML = "compare.html"

_AFTER_ACCURACY = (Figure.AVERAGE_PRECISION, Figure.SENSITIVITY, Figure.SPECIFICITY, Figure.PPV, Figure.F1)


@dataclass(frozen=True, slots=True)
class WorthRow:
    """What one model was measured to be worth; `image_set` numbers its set of images, empty where all have one."""

    name: str
    run: str
    images: str
    image_set: str
    count: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one model is, what it costs to run and what it cost to train."""

    name: str
    network: str
    labels: str
    trained_on: str
    parameters: str
    size: str
    images_per_s: str
    ran_on: str
    trained_in: str


@dataclass(frozen=True, slots=True)
class PairSection:
    """Two models on the images that both scored, in words: what to know of it, reasons to doubt, and the lines."""

    first: str
    second: str
    sentences: tuple[str, ...]
    cautions: tuple[str, ...]
    lines: tuple[DifferenceLine, ...]


@speaking()
def write_comparison_page(out: Path, comparison: Comparison) -> None:
    """Write compare.html."""
    pace = next((model.throughput for model in comparison.models if model.throughput is not None), None)
    named = {figure: figure_name(figure) for figure in _AFTER_ACCURACY} | {Figure.PPV: _("Precision (PPV)")}
    page = render_page(
        "compare.html.j2",
        styles=("look.css", "figures.css", "compare.css"),
        columns=["AUROC", _("Accuracy"), *named.values()],
        retold=retold,
        worth=[_worth(comparison, model) for model in comparison.models],
        cost=[_cost(model) for model in comparison.models],
        void=[caution for caution in comparison.cautions if caution.severity == "void"],
        doubtful=[caution for caution in comparison.cautions if caution.severity == "doubtful"],
        notes=[caution for caution in comparison.cautions if caution.severity == "note"],
        pairs=[
            PairSection(
                wording.plain(pair.first),
                wording.plain(pair.second),
                tuple(map(_whole, pair_sentences(pair))),
                tuple(map(_whole, map(retold, pair.cautions))),
                tuple(difference_lines(pair)),
            )
            for pair in comparison.pairs
        ],
        resamples=comparison.pairs[0].resamples if comparison.pairs else 0,
        pace=pace,
        repeats=REPEATS,
        several_labels=any(len(model.labels) > 1 for model in comparison.models),
        table=COMPARE_CSV,
        version=comparison.cxrbatch_version,
        compared_at=wording.moment(comparison.compared_at),
        not_for_diagnosis=_(wording.NOT_FOR_DIAGNOSIS),
    )
    replace_text(out / COMPARE_HTML, page)


def _whole(sentence: str) -> str:
    return wording.plain(sentence, longest=600)


def _worth(comparison: Comparison, model: ComparedModel) -> WorthRow:
    images = model.measured_on
    where = _("never measured")
    if images is not None:
        part = _("all images") if images.part == "all" else images.part or _("part not known")
        where = f"{wording.plain(retold(images.data)) or _('data not known')}, {part}"
    return WorthRow(
        name=wording.plain(model.name),
        run=wording.plain(model.run),
        images=_("{images}, of its training").format(images=where)
        if images is not None and images.chosen_by
        else where,
        image_set=str(comparison.image_set(model)) if images is not None and comparison.image_sets > 1 else "",
        count=images_in_words(images.images) if images is not None and images.images is not None else "",
        numbers=(
            number(model.figures.get(Figure.AUROC)),
            number(model.accuracy),
            *numbers(model.figures, _AFTER_ACCURACY),
        ),
    )


def _cost(model: ComparedModel) -> CostRow:
    pace = model.throughput
    return CostRow(
        name=wording.plain(model.name),
        network=f"{wording.plain(model.architecture)}, {model.size_px} px, {_(TASK_NAMES[model.task])}",
        labels=wording.plain(", ".join(model.labels), longest=400),
        trained_on=wording.plain(retold(model.trained_on)) or _("not known"),
        parameters=wording.NO_VALUE
        if model.parameters is None
        else _("{count} M").format(count=localised(f"{model.parameters / 1e6:.1f}")),
        size=wording.NO_VALUE if model.size_bytes is None else localised(f"{model.size_bytes / 1e6:,.1f} MB"),
        images_per_s=wording.NO_VALUE if pace is None else localised(f"{pace.images_per_s:,.1f}"),
        ran_on="" if pace is None else f"{pace.backend}, {pace.precision}",
        trained_in=wording.NO_VALUE if model.trained_s is None else wording.duration(model.trained_s),
    )


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
