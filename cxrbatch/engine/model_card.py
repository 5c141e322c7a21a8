"""A bundle's manifest in, its model card for people out: the same facts, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrbatch import durable
from cxrbatch.engine.bundle import PENDING, Manifest, ParityFigures
from cxrbatch.records import Label

MODEL_CARD = "MODEL_CARD.md"


def write_model_card(path: Path, manifest: Manifest) -> None:
    """Write the model card, in Markdown."""
    durable.replace_text(path, "\n".join(_lines(manifest)) + "\n")


def _lines(manifest: Manifest) -> Iterator[str]:
    spec = manifest.input
    yield from (f"# Engine {manifest.name}", "", "Research use only; not a medical device.")
    if manifest.notice:
        yield from ("", f"**{manifest.notice}**")
    yield from ("", "## What it is", "")
    yield f"- Network: {manifest.architecture}, one cell of a heatmap per {manifest.output_stride} input pixels"
    yield f"- Task: {manifest.task}; built {manifest.created}"
    yield f"- Input: {spec.size_px} x {spec.size_px} px, {spec.fit}, grey mean {spec.mean:g}, deviation {spec.std:g}"
    for role, entry in sorted(manifest.files.items()):
        yield f"- File `{entry.path}` ({role}, {entry.precision}): SHA-256 `{entry.sha256}`"
    yield from _label_table(manifest.labels)
    yield from _training(manifest)
    yield from _parity(manifest)


def _label_table(labels: tuple[Label, ...]) -> Iterator[str]:
    bounds = ("_low", "_high")
    metrics = list(dict.fromkeys(name for label in labels for name in label.metrics if not name.endswith(bounds)))
    head = ["Finding", "operating point", "urgent", *metrics]
    yield from ("", "## Findings", "", _row(head), _row(["---"] * len(head)))
    for label in labels:
        point = "none: no verdict" if label.operating_point is None else f"{label.operating_point:.3f}"
        measured = [_measured(label, name) for name in metrics]
        yield _row([label.name, point, "yes" if label.urgent else "", *measured])


def _measured(label: Label, name: str) -> str:
    if name not in label.metrics:
        return ""
    low, high = label.metrics.get(f"{name}_low"), label.metrics.get(f"{name}_high")
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{label.metrics[name]:.3f}{interval}"


def _training(manifest: Manifest) -> Iterator[str]:
    facts = manifest.training
    yield from ("", "## Training", "", f"- Data: {facts.data or 'not known'}")
    yield from (f"- Images, {part}: {count}" for part, count in facts.images.items())
    if facts.init:
        yield f"- {facts.init}"
    yield f"- Seed {facts.seed}, {facts.seconds:.0f} s"
    if facts.measured_on:
        yield f"- All figures are those of the part {facts.measured_on}, with 95 % intervals over patients"
    yield from (f"- {name}: {_listed(value)}" for name, value in facts.options.items() if value != "")
    yield from (f"- {library} {version}" for library, version in facts.libraries.items())
    yield from (f"- **{name}: {_figure(value)}**" for name, value in facts.figures.items())


def _listed(option: Any) -> str:
    if isinstance(option, dict):
        return ", ".join(f"{name} {value}" for name, value in option.items())
    return str(option)


def _figure(value: float) -> str:
    """Write a count without decimals, which all else has."""
    return f"{value:.0f}" if value > 1 and value == int(value) else f"{value:.3f}"


def _parity(manifest: Manifest) -> Iterator[str]:
    yield from ("", "## Against its checkpoint (PyTorch, FP32)", "")
    for role, figures in manifest.parity.items():
        if figures == PENDING:
            yield f"- {role}: pending; the first machine that loads it compares, and writes the result here"
        else:
            yield f"- {role}: {_in_words(figures)}"
    for role, accuracy in manifest.accuracy.items():
        yield (
            f"- {role}: mean AUROC {accuracy.auroc:.4f} beside {accuracy.auroc_reference:.4f}; largest drop of one "
            f"label {accuracy.worst_drop:.4f}, limit of the mean {accuracy.limit:g}, on {accuracy.images} "
            f"{accuracy.source}"
        )


def _in_words(figures: ParityFigures) -> str:
    correlation = figures.heatmap_correlation
    heatmaps = "" if correlation is None else f"; lowest correlation of a heatmap {correlation:.4f}"
    return (
        f"largest change of a probability {figures.max_probability_change:.1e}, mean "
        f"{figures.mean_probability_change:.1e}, limit {figures.limit:g}, on {figures.images} {figures.source}"
        f"{'; on ' + figures.device if figures.device else ''}; {figures.decision_flips} verdicts differ{heatmaps}"
    )


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
