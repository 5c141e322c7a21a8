"""What the workshop prints: figures of `train`, `adjust`, `evaluate`, `compare`, reasons to doubt them, and the page.

Only types are imported of the workshop: whoever is called has loaded what its command needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cxrbatch.pages.terminal_text import TITLE, literal
from cxrbatch.records import Label, usual_rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cxrbatch.engine.bundle import EngineBundle
    from cxrbatch.engine.manifest import Adjustment
    from cxrbatch.model.compare.paired_record import PairedModels
    from cxrbatch.model.compare.record import ComparedModel, Comparison
    from cxrbatch.model.evaluate.record import Caution, Evaluation, Severity
    from cxrbatch.model.figures.bootstrap import Estimate
    from cxrbatch.model.pretrain.record import PretrainingRun
    from cxrbatch.model.train.record import TrainingRun, TrainingSummary

_COLOURS: dict[Severity, str] = {"void": "bold red", "doubtful": "yellow", "note": "dim"}
_NO_FIGURE, _TOO_FEW = "-", "too few"


# --------------------------------------------------------------------------- train


def print_training(console: Console, summary: TrainingSummary, checkpoint: Path, page: Path) -> None:
    """Print a table of the labels, or of the folds' spread, and what to do next."""
    run = summary.shown
    console.print(_spread_table(summary) if summary.spread else _label_table(run))
    for sentence in (
        *(*run.leaks, *run.notes),
        *_map_sentences(run.facts.labels),
        *_kept(summary, checkpoint),
        f"  cxrbatch evaluate {checkpoint} DATA -o evaluation",
    ):
        console.print(literal(sentence), highlight=False)
    _print_place(console, page)


def _kept(summary: TrainingSummary, checkpoint: Path) -> tuple[str, str]:
    if summary.ensemble:
        seconds = sum(run.seconds for run in summary.runs)
        return (
            f"All {len(summary.runs)} folds together are in {checkpoint}, as one ensemble ({seconds:.0f} s).",
            "What the folds reach is known, what the ensemble reaches is not; images of other patients tell:",
        )
    run = summary.shown
    kept = f"Kept epoch {run.kept} of {len(run.epochs)}, in {checkpoint} ({run.seconds:.0f} s)."
    return kept, _measured_on(run)


def _measured_on(run: TrainingRun) -> str:
    """Say what else the measured images were used for, before the command that measures on others."""
    training = run.facts.training
    if training.figures_promise_too_much or not training.figures:
        chose = training.choices_in_words or "the calibration and the operating points"
        return f"The same images chose {chose}; others tell more:"
    return "These images chose neither epoch, calibration nor operating points. Figures elsewhere:"


def _label_table(run: TrainingRun) -> Table:
    exclusive = usual_rule(run.facts.task, run.facts.labels) == "argmax"
    rule = "the likeliest class" if exclusive else run.operating_point_rule
    table = Table(
        *("label", "AUROC", "sensitivity", "specificity", "operating point"),
        title=literal(f"On the validation images, rule {rule}", TITLE),
    )
    for label in run.facts.labels:
        figures = [_measured(label.metrics, name) for name in ("auroc", "sensitivity", "specificity")]
        if figures[0] == _NO_FIGURE and label.metrics:
            figures[0] = _TOO_FEW
        point = "none: too few images" if label.operating_point is None else f"{label.operating_point:.3f}"
        point = "likeliest class" if exclusive and label.operating_point is not None else point
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


# --------------------------------------------------------------------------- pretrain


def print_pretraining(console: Console, run: PretrainingRun) -> None:
    """Print what was learned from, whether the embeddings collapsed, and what to do next."""
    facts, last = run.facts, "In the last epoch: loss"
    sentences = [
        f"{facts.epochs} epochs ({facts.steps} steps, {facts.seconds:.0f} s) on {facts.images} images: {run.weights}.",
        f"{last} {facts.loss:.3f}, recognised {facts.recognised:.0%}, spread of embeddings {facts.spread:.2f}",
    ]
    for sentence in sentences:
        console.print(literal(sentence), highlight=False)
    if facts.collapsed:
        doubt = (
            f"The embeddings collapsed: their spread is {facts.spread:.2f}, of about 1 at best, so the network answers "
            f"nearly the same whatever it is shown, and these weights will hardly help. More images or epochs, a "
            f"larger --batch-size, or another --lr may."
        )
        console.print(literal(doubt, _COLOURS["doubtful"]), highlight=False)
    use = f"  cxrbatch train DATA -o CHECKPOINT --architecture {facts.architecture} --init {run.weights}"
    console.print(literal(use), highlight=False)


# --------------------------------------------------------------------------- adjust


def print_adjustment(console: Console, bundle: EngineBundle) -> None:
    """Print what became of each label, before and after on local images, what was left out, and what to do next."""
    from cxrbatch.engine.model_card import ADJUSTED_ON_THE_SAME

    made = bundle.manifest.adjustments[-1]
    table = Table("label", "urgent", "operating point", title=literal(f"{bundle.name}, made of {made.of}", TITLE))
    for label in bundle.labels:
        point = "none: no verdict" if label.operating_point is None else f"{label.operating_point:.3f}"
        table.add_row(literal(label.name), "yes" if label.urgent else "", point)
    console.print(table)
    if made.data:
        console.print(_local_table(made))
        console.print(literal(ADJUSTED_ON_THE_SAME), highlight=False)
    for name, changed in made.labels.items():
        if changed.note:
            console.print(literal(f"{name}: {changed.note}.", _COLOURS["doubtful"]), highlight=False)
    for caution in made.cautions:
        console.print(literal(caution, _COLOURS["doubtful"]), highlight=False)
    for sentence in _map_sentences(label for label in bundle.labels if label.name in made.maps):
        console.print(literal(sentence), highlight=False)
    for role in made.dropped:
        console.print(literal(f"{role}: left out, it holds the old calibration. {bundle.rebuild_with(role)}"))
    console.print(literal(f"made {bundle.folder}; run it with: cxrbatch run INPUT -o OUT -e {bundle.folder}"))


def _map_sentences(labels: Iterable[Label]) -> Iterator[str]:
    """Say of the labels whose maps were checked what came of it."""
    for label in labels:
        if label.maps is not None:
            yield f"Heatmaps of {label.name}, {label.maps.images} marked images: {label.maps.in_words}."


def _local_table(made: Adjustment) -> Table:
    title = f"On {made.data}: {made.images} images of {made.patients} patients"
    table = Table(*("label", "with it", "figure", "before", "after", "other patients"), title=literal(title, TITLE))
    for name, label in made.labels.items():
        for number, figure in enumerate(("sensitivity", "specificity", "calibration_error")):
            first = (literal(name), f"{label.positives} of {label.images}") if not number else ("", "")
            figures = [label.before, label.after, label.unseen]
            cells = [f"{each[figure]:.3f}" if figure in each else _NO_FIGURE for each in figures]
            table.add_row(*first, figure.replace("_", " "), *cells)
    return table


# --------------------------------------------------------------------------- evaluate


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
        cells = [_estimated(label.figures.get(figure)) for figure in figures]
        if label.too_few:
            cells[0] = _TOO_FEW
        table.add_row(literal(label.label), f"{label.positives} of {label.images}", *cells)
    if len(measured.labels) > 1:
        table.add_row("mean", "", *(_estimated(measured.macro.get(figure)) for figure in figures))
    console.print(table)
    if measured.classes is not None:
        console.print(f"Accuracy: {_estimated(measured.classes.accuracy)}", highlight=False)
    for sentence in (*_worklist_sentences(evaluation), *map_verdicts(evaluation)):
        console.print(literal(sentence), highlight=False)
    _print_cautions(console, evaluation.cautions)
    _print_place(console, page)


def _worklist_sentences(evaluation: Evaluation) -> Iterator[str]:
    from cxrbatch.model.evaluate.report import wait_in_words

    worklist = evaluation.worklist
    if worklist is None:
        return
    studies = f"{worklist.with_finding} studies with a finding, {worklist.without} without"
    if worklist.sensitivity is not None or worklist.specificity is not None:
        rates = f"sensitivity {_estimated(worklist.sensitivity)}, specificity {_estimated(worklist.specificity)}"
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


# --------------------------------------------------------------------------- compare

_MODEL, _IMAGES = "model", "measured on"
_WRAPPED = (_MODEL, _IMAGES)


def print_comparison(console: Console, comparison: Comparison, page: Path) -> None:
    """Print a row per model, the cautions, and where the page is; a column that no model fills is left out."""
    rows = [_cells(comparison, model) for model in comparison.models]
    table = Table(box=SIMPLE_HEAD)
    for name in rows[0]:
        if any(row[name] for row in rows):
            table.add_column(name, no_wrap=name not in _WRAPPED, justify="left" if name in _WRAPPED else "right")
    for row in rows:
        table.add_row(*(literal(row[str(column.header)] or _NO_FIGURE) for column in table.columns))
    console.print(table)
    for pair in comparison.pairs:
        _print_pair(console, pair)
    _print_cautions(console, comparison.cautions)
    _print_place(console, page)


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


# --------------------------------------------------------------------------- what all of them print


def _print_cautions(console: Console, cautions: Iterable[Caution]) -> None:
    for caution in cautions:
        console.print(literal(caution.text, _COLOURS[caution.severity]), highlight=False)


def _print_place(console: Console, page: Path) -> None:
    console.print(literal(f"Report: {page.resolve()}"), highlight=False)


def _value(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.3f}"


def _estimated(estimate: Estimate | None) -> str:
    return _NO_FIGURE if estimate is None else _with_interval(estimate.value, estimate.low, estimate.high)


def _measured(metrics: dict[str, float], name: str) -> str:
    if name not in metrics:
        return _NO_FIGURE
    return _with_interval(metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"])


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
