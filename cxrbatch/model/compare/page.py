"""compare.html: what each model is worth, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrbatch.model.compare.record import ComparedModel, Comparison
from cxrbatch.model.compare.table import COMPARE_CSV
from cxrbatch.model.compare.throughput import REPEATS
from cxrbatch.model.describe.describe import TASK_NAMES
from cxrbatch.model.figures.figure_lines import FIGURE_NAMES, Number, number, numbers
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.pages import wording
from cxrbatch.pages.page import render_page
from cxrbatch.system.durable import replace_text

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


def write_comparison_page(out: Path, comparison: Comparison) -> None:
    """Write compare.html."""
    pace = next((model.throughput for model in comparison.models if model.throughput is not None), None)
    columns = ["AUROC", "Accuracy", *(FIGURE_NAMES[figure] for figure in _AFTER_ACCURACY)]
    page = render_page(
        "compare.html.j2",
        styles=("look.css", "figures.css", "compare.css"),
        columns=["Precision (PPV)" if column == FIGURE_NAMES[Figure.PPV] else column for column in columns],
        worth=[_worth(comparison, model) for model in comparison.models],
        cost=[_cost(model) for model in comparison.models],
        void=[caution for caution in comparison.cautions if caution.severity == "void"],
        doubtful=[caution for caution in comparison.cautions if caution.severity == "doubtful"],
        notes=[caution for caution in comparison.cautions if caution.severity == "note"],
        pace=pace,
        repeats=REPEATS,
        several_labels=any(len(model.labels) > 1 for model in comparison.models),
        table=COMPARE_CSV,
        version=comparison.cxrbatch_version,
        compared_at=wording.moment(comparison.compared_at),
        not_for_diagnosis=wording.NOT_FOR_DIAGNOSIS,
    )
    replace_text(out / COMPARE_HTML, page)


def _worth(comparison: Comparison, model: ComparedModel) -> WorthRow:
    images = model.measured_on
    where = "never measured"
    if images is not None:
        part = "all images" if images.part == "all" else images.part or "part not known"
        where = f"{wording.plain(images.data) or 'data not known'}, {part}"
    return WorthRow(
        name=wording.plain(model.name),
        run=wording.plain(model.run),
        images=f"{where}, of its training" if images is not None and images.chosen_by else where,
        image_set=str(comparison.image_set(model)) if images is not None and comparison.image_sets > 1 else "",
        count=f"{images.images:,} images" if images is not None and images.images is not None else "",
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
        network=f"{wording.plain(model.architecture)}, {model.size_px} px, {TASK_NAMES[model.task]}",
        labels=wording.plain(", ".join(model.labels), longest=400),
        trained_on=wording.plain(model.trained_on) or "not known",
        parameters=wording.NO_VALUE if model.parameters is None else f"{model.parameters / 1e6:.1f} M",
        size=wording.NO_VALUE if model.size_bytes is None else f"{model.size_bytes / 1e6:,.1f} MB",
        images_per_s=wording.NO_VALUE if pace is None else f"{pace.images_per_s:,.1f}",
        ran_on="" if pace is None else f"{pace.backend}, {pace.precision}",
        trained_in=wording.NO_VALUE if model.trained_s is None else wording.duration(model.trained_s),
    )
