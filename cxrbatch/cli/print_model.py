"""What commands print that make a model or an engine, `train`, `pretrain`, `adjust`: its figures, and what to do next.

Only types are imported of the workshop: whoever is called has loaded what its command needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from cxrbatch.cli.figure_cells import NO_FIGURE, TOO_FEW, measured
from cxrbatch.cli.terminal import print_place
from cxrbatch.pages.terminal_text import TITLE, literal
from cxrbatch.records import Label, usual_rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cxrbatch.engine.bundle import EngineBundle
    from cxrbatch.engine.manifest import Adjustment
    from cxrbatch.model.pretrain.record import PretrainingRun
    from cxrbatch.model.train.record import TrainingRun, TrainingSummary

_DOUBTFUL = "yellow"


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
    print_place(console, page)


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
        figures = [measured(label.metrics, name) for name in ("auroc", "sensitivity", "specificity")]
        if figures[0] == NO_FIGURE and label.metrics:
            figures[0] = TOO_FEW
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
        console.print(literal(doubt, _DOUBTFUL), highlight=False)
    use = f"  cxrbatch train DATA -o CHECKPOINT --architecture {facts.architecture} --init {run.weights}"
    console.print(literal(use), highlight=False)


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
            console.print(literal(f"{name}: {changed.note}.", _DOUBTFUL), highlight=False)
    for caution in made.cautions:
        console.print(literal(caution, _DOUBTFUL), highlight=False)
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
            cells = [f"{each[figure]:.3f}" if figure in each else NO_FIGURE for each in figures]
            table.add_row(*first, figure.replace("_", " "), *cells)
    return table
