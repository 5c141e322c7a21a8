"""The model card, for people: the facts of a bundle's manifest and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrbatch.engine.gate_words import gate_lines
from cxrbatch.engine.manifest import Adjustment, Manifest
from cxrbatch.engine.training_facts import NoveltyFacts
from cxrbatch.pages.markdown_text import code, plain, table_row
from cxrbatch.records import Label, VerdictRule, usual_rule
from cxrbatch.system import durable

MODEL_CARD = "MODEL_CARD.md"

ADJUSTED_ON_THE_SAME = (
    "The same images chose what is measured on them after the adjustment; the last figures are those of patients whose "
    "images had no part in the choice (each of five parts by what the other four chose)."
)

_ENDS = ("_low", "_high")


def write_model_card(path: Path, manifest: Manifest) -> None:
    """Write the model card, in Markdown."""
    durable.replace_text(path, "\n".join(_lines(manifest)) + "\n")


def _lines(manifest: Manifest) -> Iterator[str]:
    spec = manifest.input
    yield from (f"# Engine {plain(manifest.name)}", "", "Research use only; not a medical device.")
    if manifest.notice:
        yield from ("", f"**{plain(manifest.notice)}**")
    yield from ("", "## What it is", "")
    yield f"- Network: {plain(manifest.architecture)}, one cell of a heatmap per {manifest.output_stride} input pixels"
    if manifest.pooling == "attention":
        yield (
            "- Pooling: attention, a distribution over the cells for each label, learned; a heatmap is what each cell "
            "adds to the score"
        )
    if cells := manifest.cells:
        yield (
            f"- Cells of a heatmap: the first is centred at ({cells.origin_x:g}, {cells.origin_y:g}) of the input, "
            f"the next {cells.stride_x:g} and {cells.stride_y:g} px on"
        )
    yield f"- Task: {manifest.task}; built {plain(manifest.created)}"
    yield f"- Input: {spec.size_px} x {spec.size_px} px, {spec.fit}, grey mean {spec.mean:g}, deviation {spec.std:g}"
    for role, entry in sorted(manifest.files.items()):
        yield f"- File {code(entry.path)} ({plain(role)}, {entry.precision}): SHA-256 `{entry.sha256}`"
    yield from _label_table(manifest.labels, manifest.verdict or usual_rule(manifest.task, manifest.labels))
    yield from _maps(manifest.labels)
    yield from _training(manifest)
    yield from _members(manifest)
    for adjustment in manifest.adjustments:
        yield from _adjustment(adjustment)
    yield from gate_lines(manifest)


def _label_table(labels: tuple[Label, ...], rule: VerdictRule) -> Iterator[str]:
    bounds = ("_low", "_high")
    metrics = list(dict.fromkeys(name for label in labels for name in label.metrics if not name.endswith(bounds)))
    counted = any(label.images_with is not None for label in labels)
    head = [
        "Finding",
        "operating point",
        "urgent",
        *map(plain, metrics),
        *(["images with / without"] if counted else []),
    ]
    yield from ("", "## Findings", "", _verdict_sentence(rule), "", table_row(head), table_row(["---"] * len(head)))
    for label in labels:
        measured = [_measured(label, name, rule) for name in metrics]
        counts = [f"{label.images_with} / {label.images_without}" if label.images_with is not None else ""]
        cells = [plain(label.name), _point(label, rule), "yes" if label.urgent else "", *measured]
        yield table_row([*cells, *(counts if counted else [])])


def _maps(labels: tuple[Label, ...]) -> Iterator[str]:
    """Say of each label whether its heatmaps point at the finding; reports show only those that do."""
    yield from ("", "## Heatmaps", "")
    checked = [(label.name, label.maps) for label in labels if label.maps is not None]
    if len(checked) < len(labels):
        nobody = ", ".join(label.name for label in labels if label.maps is None)
        yield f"Not validated, since nobody has checked where they point: {plain(nobody)}"
    if not checked:
        return
    head = ["Finding", "marked images", "patients", "hits", "by chance", "always the same place", "shuffled weights"]
    yield from ("", table_row([*head, "likeness", ""]), table_row(["---"] * (len(head) + 2)))
    for name, maps in checked:
        shares = [maps.hits, maps.chance, maps.same_place, maps.shuffled_hits, maps.likeness]
        figures = ["-" if share is None else f"{share:.3f}" for share in shares]
        yield table_row([plain(name), str(maps.images), str(maps.patients), *figures, plain(maps.in_words)])
    yield from ("", f"Checked on {plain('; '.join(dict.fromkeys(maps.source for _, maps in checked if maps.source)))}")


def _verdict_sentence(rule: VerdictRule) -> str:
    if rule == "argmax":
        return (
            "Classes exclude each other: the likeliest one is called. A study has the findings of all its images, and "
            "is normal only if every image is."
        )
    return "A finding is called from its operating point on; a study is normal only if every finding was judged."


def _point(label: Label, rule: VerdictRule) -> str:
    if label.operating_point is None:
        return "none: no verdict"
    return "likeliest class" if rule == "argmax" else f"{label.operating_point:.3f}"


def _measured(label: Label, name: str, rule: VerdictRule) -> str:
    value = label.figure(name, rule)
    if value is None:
        return "too few images" if name == "auroc" and label.has_too_few_images else ""
    low, high = label.figure(f"{name}_low", rule), label.figure(f"{name}_high", rule)
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{value:.3f}{interval}"


def _training(manifest: Manifest) -> Iterator[str]:
    facts = manifest.training
    yield from ("", "## Training", "", f"- Data: {plain(facts.data) or 'not known'}")
    yield from (f"- Images, {plain(part)}: {count}" for part, count in facts.images.items())
    if facts.init:
        yield f"- {plain(facts.init)}"
    yield f"- Seed {facts.seed}, {facts.seconds:.0f} s"
    if facts.measured_on:
        yield f"- All figures are those of the part {plain(facts.measured_on)}, with 95 % intervals over patients"
    if facts.novelty is not None:
        yield _novelty(facts.novelty)
    if facts.figures_promise_too_much:
        yield (
            f"- **The same images chose {facts.choices_in_words}: these figures promise a little too "
            "much.** `cxrbatch evaluate` measures on others"
        )
    elif facts.chosen_on and facts.figures:
        yield "- The images of these figures chose neither the epoch, nor the calibration, nor the operating points"
    yield from (f"- {plain(name)}: {plain(_listed(value))}" for name, value in facts.options.items() if value != "")
    yield from (f"- {plain(library)} {plain(version)}" for library, version in facts.libraries.items())
    yield from (f"- **{plain(name)}: {_with_interval(facts.figures, name)}**" for name in _figure_names(facts.figures))


def _members(manifest: Manifest) -> Iterator[str]:
    """Tell what an ensemble, or a network that looks at mirror images, is made of, and what nobody measured of it."""
    if not manifest.members and not manifest.mirror:
        return
    yield from ("", "## How it is made up", "")
    if manifest.members:
        yield (
            f"- An ensemble of {len(manifest.members)} networks: their calibrated logits and their heatmaps are "
            "averaged, and the standard deviation of their probabilities is told as their disagreement"
        )
    if manifest.mirror:
        yield "- Every image is scored as it is and as its mirror image, and both are averaged, at twice the cost"
    if not manifest.training.figures:
        yield "- **Nobody measured it as a whole.** What is known is known of the networks one by one"
    yield f"- Operating points: {plain(str(manifest.training.options.get('operating_point', '')) or 'as trained')}"
    for member in manifest.members:
        figures = member.training.figures
        told = ", ".join(f"{plain(name)} {_with_interval(figures, name)}" for name in _figure_names(figures))
        on = f" (on its own part {plain(member.training.measured_on)})" if told and member.training.measured_on else ""
        yield (
            f"- {plain(member.name)}: {plain(member.architecture)}, {plain(member.created)}, seed "
            f"{member.training.seed}, SHA-256 {code(member.sha256[:16])}{f'; {told}{on}' if told else ''}"
        )


def _novelty(facts: NoveltyFacts) -> str:
    chosen = "their 99 % quantile" if facts.rule == "quantile" else "a log-normal fit, for they are few"
    return (
        f"- Says which images are unlike the training images: by the distance to {facts.training_images} of them along "
        f"{facts.directions} directions; the threshold comes from {facts.validation_images} validation images, by "
        f"{chosen}, and flags {facts.validation_flagged:.1%} of them"
    )


def _figure_names(figures: dict[str, float]) -> list[str]:
    """Return the names of the figures, without those of the ends of their intervals."""
    ends = {f"{name}{end}" for name in figures for end in _ENDS}
    return [name for name in figures if name not in ends]


def _with_interval(figures: dict[str, float], name: str) -> str:
    low, high = (figures.get(f"{name}{end}") for end in _ENDS)
    interval = "" if low is None or high is None else f" ({_figure(low)} to {_figure(high)})"
    return f"{_figure(figures[name])}{interval}"


def _listed(option: Any) -> str:
    if isinstance(option, dict):
        return ", ".join(f"{name} {value}" for name, value in option.items())
    return str(option)


def _figure(value: float) -> str:
    """Write a count without decimals, which all else has."""
    return f"{value:.0f}" if value > 1 and value == int(value) else f"{value:.3f}"


def _adjustment(made: Adjustment) -> Iterator[str]:
    yield from (
        "",
        "## Adjusted",
        "",
        f"- Made of the engine {plain(made.of)}, `{made.sha256[:16]}`, {plain(made.created)}",
    )
    if made.urgent is not None:
        yield f"- Urgent by request: {plain(', '.join(made.urgent)) or 'nothing'}"
    if made.operating_point:
        yield f"- Operating points by request: {plain(made.operating_point)}"
    if made.calibrated:
        yield "- Probabilities calibrated anew; an operating point that nobody named calls the same images as before"
    if made.maps:
        yield f"- Heatmaps checked on boxes: {plain(', '.join(made.maps))}"
    if made.dropped:
        yield f"- Not taken along: {plain(', '.join(made.dropped))}"
    if made.data:
        yield f"- Local data: {plain(made.data)}, {made.images} images of {made.patients} patients"
        yield from (f"- **{plain(caution)}**" for caution in made.cautions)
        yield from _local_table(made)


def _local_table(made: Adjustment) -> Iterator[str]:
    head = ["Finding", "images with it", "figure", "before", "after", "after, on other patients", ""]
    yield from ("", table_row(head), table_row(["---"] * len(head)))
    for name, label in made.labels.items():
        for figure in ("sensitivity", "specificity", "calibration_error"):
            cells = [_cell(figures, figure) for figures in (label.before, label.after, label.unseen)]
            counted = f"{label.positives} of {label.images}"
            yield table_row([plain(name), counted, figure.replace("_", " "), *cells, plain(label.note)])
    yield from ("", ADJUSTED_ON_THE_SAME)


def _cell(figures: dict[str, float], figure: str) -> str:
    return f"{figures[figure]:.3f}" if figure in figures else "-"
