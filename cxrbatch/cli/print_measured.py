"""What `evaluate` and `compare` print: figures, reasons to doubt them, and where the page is.

Only types are imported of the workshop: whoever is called has loaded what its command needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cxrbatch.cli.figure_cells import NO_FIGURE, TOO_FEW, estimated
from cxrbatch.cli.terminal import print_place
from cxrbatch.pages.terminal_text import TITLE, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cxrbatch.model.compare.paired_record import PairedModels
    from cxrbatch.model.compare.record import ComparedModel, Comparison
    from cxrbatch.model.evaluate.record import Caution, Evaluation, Severity
    from cxrbatch.model.figures.bootstrap import Estimate

_COLOURS: dict[Severity, str] = {"void": "bold red", "doubtful": "yellow", "note": "dim"}
_MODEL, _IMAGES = "model", "measured on"
_WRAPPED = (_MODEL, _IMAGES)


def print_evaluation(console: Console, evaluation: Evaluation, page: Path) -> None:
    """Print a table of the labels, the task's accuracy, and the cautions."""
    from cxrbatch.model.evaluate.report import map_verdicts
    from cxrbatch.model.figures.metrics import Figure

    data, measured = evaluation.data, evaluation.measured
    unknown = f", {data.of_unknown} of them of unknown ones" if data.of_unknown else ""
    title = f"{evaluation.model.name}: {data.images} images of {data.patients} patients{unknown} ({data.split})"
    table = Table(*("label", "with it", "AUROC", "sensitivity", "specificity"), title=literal(title, TITLE))
    figures = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY)
    for label in measured.labels:
        cells = [estimated(label.figures.get(figure)) for figure in figures]
        if label.too_few:
            cells[0] = TOO_FEW
        table.add_row(literal(label.label), f"{label.positives} of {label.images}", *cells)
    if len(measured.labels) > 1:
        table.add_row("mean", "", *(estimated(measured.macro.get(figure)) for figure in figures))
    console.print(table)
    if measured.classes is not None:
        console.print(f"Accuracy: {estimated(measured.classes.accuracy)}", highlight=False)
    for sentence in (*_worklist_sentences(evaluation), *map_verdicts(evaluation)):
        console.print(literal(sentence), highlight=False)
    _print_cautions(console, evaluation.cautions)
    print_place(console, page)


def _worklist_sentences(evaluation: Evaluation) -> Iterator[str]:
    from cxrbatch.model.evaluate.report import wait_in_words

    worklist = evaluation.worklist
    if worklist is None:
        return
    studies = f"{worklist.with_finding} studies with a finding, {worklist.without} without"
    if worklist.sensitivity is not None or worklist.specificity is not None:
        rates = f"sensitivity {estimated(worklist.sensitivity)}, specificity {estimated(worklist.specificity)}"
        yield f"Any finding, by study ({studies}): {rates}."
    if worklist.false_alarms_per_100 is not None:
        alarms = worklist.false_alarms_per_100
        ends = f" ({alarms.low:.1f} to {alarms.high:.1f})" if alarms.low < alarms.high else ""
        yield f"False alarms per 100 studies without a finding: {alarms.value:.1f}{ends}."
    if worklist.sorted is not None and worklist.first_come is not None:
        for name, sorted_, first_come in (
            ("the first with a finding", worklist.sorted.first, worklist.first_come.first),
            ("each with a finding", worklist.sorted.each, worklist.first_come.each),
        ):
            beside = f"{wait_in_words(sorted_)} sorted, {wait_in_words(first_come)} first come first served"
            yield f"Studies read before {name}: {beside}."


def print_comparison(console: Console, comparison: Comparison, page: Path) -> None:
    """Print a row per model, the cautions, and where the page is; a column that no model fills is left out."""
    rows = [_cells(comparison, model) for model in comparison.models]
    table = Table(box=SIMPLE_HEAD)
    for name in rows[0]:
        if any(row[name] for row in rows):
            table.add_column(name, no_wrap=name not in _WRAPPED, justify="left" if name in _WRAPPED else "right")
    for row in rows:
        table.add_row(*(literal(row[str(column.header)] or NO_FIGURE) for column in table.columns))
    console.print(table)
    for pair in comparison.pairs:
        _print_pair(console, pair)
    _print_cautions(console, comparison.cautions)
    print_place(console, page)


def _print_pair(console: Console, pair: PairedModels) -> None:
    """Print how two models differ on the same images: what is over all labels, each AUROC, and what was shown."""
    from cxrbatch.model.compare.difference_lines import difference_lines, pair_sentences
    from cxrbatch.model.figures.metrics import Figure

    lines = difference_lines(pair)
    table = Table(title=literal(f"{pair.first} less {pair.second}, on the same images", TITLE), box=SIMPLE_HEAD)
    for name in ("label", "figure", pair.first, pair.second, "difference", "p", "verdict"):
        table.add_column(literal(name))
    for line, each in zip(lines, pair.differences, strict=True):
        if line.overall or each.figure == Figure.AUROC.value or each.verdict in {"first", "second"}:
            moved = f"{line.difference} ({line.interval})" if line.interval else line.difference
            table.add_row(literal(line.name), line.figure, line.first, line.second, moved, line.p, literal(line.words))
    if lines:
        console.print(table)
    for sentence in pair_sentences(pair):
        console.print(literal(sentence), highlight=False)
    for caution in pair.cautions:
        console.print(literal(caution, _COLOURS["doubtful"]), highlight=False)


def _cells(comparison: Comparison, model: ComparedModel) -> dict[str, str]:
    from cxrbatch.model.figures.metrics import Figure

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


def _print_cautions(console: Console, cautions: Iterable[Caution]) -> None:
    for caution in cautions:
        console.print(literal(caution.text, _COLOURS[caution.severity]), highlight=False)


def _value(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.3f}"
