"""The model card, for people: the facts of a bundle's manifest and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrbatch.engine.manifest import PENDING, Manifest, ParityFigures
from cxrbatch.records import Label
from cxrbatch.system import durable

MODEL_CARD = "MODEL_CARD.md"

# What Markdown, or HTML in it, makes something of: between words an underscore is one, and so is a lone sign at the
# beginning of a line, which no text of a stranger stands at.
_MARKUP = re.compile(r"[\\`*\[\]|~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK_OR_HTML = re.compile(r"[<>&@]|(?<=[A-Za-z])://|(?<=www)\.", re.IGNORECASE)
# They shape Persian and Indic words.
_JOINERS = "\u200c\u200d"


def write_model_card(path: Path, manifest: Manifest) -> None:
    """Write the model card, in Markdown."""
    durable.replace_text(path, "\n".join(_lines(manifest)) + "\n")


def _lines(manifest: Manifest) -> Iterator[str]:
    spec = manifest.input
    yield from (f"# Engine {_text(manifest.name)}", "", "Research use only; not a medical device.")
    if manifest.notice:
        yield from ("", f"**{_text(manifest.notice)}**")
    yield from ("", "## What it is", "")
    yield f"- Network: {_text(manifest.architecture)}, one cell of a heatmap per {manifest.output_stride} input pixels"
    if cells := manifest.cells:
        yield (
            f"- Cells of a heatmap: the first is centred at ({cells.origin_x:g}, {cells.origin_y:g}) of the input, "
            f"the next {cells.stride_x:g} and {cells.stride_y:g} px on"
        )
    yield f"- Task: {manifest.task}; built {_text(manifest.created)}"
    yield f"- Input: {spec.size_px} x {spec.size_px} px, {spec.fit}, grey mean {spec.mean:g}, deviation {spec.std:g}"
    for role, entry in sorted(manifest.files.items()):
        yield f"- File {_code(entry.path)} ({_text(role)}, {entry.precision}): SHA-256 `{entry.sha256}`"
    yield from _label_table(manifest.labels)
    yield from _training(manifest)
    yield from _parity(manifest)


def _label_table(labels: tuple[Label, ...]) -> Iterator[str]:
    bounds = ("_low", "_high")
    metrics = list(dict.fromkeys(name for label in labels for name in label.metrics if not name.endswith(bounds)))
    head = ["Finding", "operating point", "urgent", *map(_text, metrics)]
    yield from ("", "## Findings", "", _row(head), _row(["---"] * len(head)))
    for label in labels:
        point = "none: no verdict" if label.operating_point is None else f"{label.operating_point:.3f}"
        measured = [_measured(label, name) for name in metrics]
        yield _row([_text(label.name), point, "yes" if label.urgent else "", *measured])


def _measured(label: Label, name: str) -> str:
    if name not in label.metrics:
        return ""
    low, high = label.metrics.get(f"{name}_low"), label.metrics.get(f"{name}_high")
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{label.metrics[name]:.3f}{interval}"


def _training(manifest: Manifest) -> Iterator[str]:
    facts = manifest.training
    yield from ("", "## Training", "", f"- Data: {_text(facts.data) or 'not known'}")
    yield from (f"- Images, {_text(part)}: {count}" for part, count in facts.images.items())
    if facts.init:
        yield f"- {_text(facts.init)}"
    yield f"- Seed {facts.seed}, {facts.seconds:.0f} s"
    if facts.measured_on:
        yield f"- All figures are those of the part {_text(facts.measured_on)}, with 95 % intervals over patients"
    yield from (f"- {_text(name)}: {_text(_listed(value))}" for name, value in facts.options.items() if value != "")
    yield from (f"- {_text(library)} {_text(version)}" for library, version in facts.libraries.items())
    yield from (f"- **{_text(name)}: {_figure(value)}**" for name, value in facts.figures.items())


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
            yield f"- {_text(role)}: pending; the first machine that loads it compares, and writes the result here"
        else:
            yield f"- {_text(role)}: {_in_words(figures)}"
    for role, accuracy in manifest.accuracy.items():
        yield (
            f"- {_text(role)}: mean AUROC {accuracy.auroc:.4f} beside {accuracy.auroc_reference:.4f}; largest drop "
            f"of one label {accuracy.worst_drop:.4f}, limit of the mean {accuracy.limit:g}, on {accuracy.images} "
            f"{_text(accuracy.source)}"
        )


def _in_words(figures: ParityFigures) -> str:
    correlation = figures.heatmap_correlation
    device = f"; on {_text(figures.device)}" if figures.device else ""
    heatmaps = "" if correlation is None else f"; lowest correlation of a heatmap {correlation:.4f}"
    return (
        f"largest change of a probability {figures.max_probability_change:.1e}, mean "
        f"{figures.mean_probability_change:.1e}, limit {figures.limit:g}, on {figures.images} {_text(figures.source)}"
        f"{device}; {figures.decision_flips} verdicts differ{heatmaps}"
    )


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(text: str) -> str:
    """Return text that Markdown shows letter by letter: no markup, no link, no line of its own."""
    line = _on_one_line(text)
    # Entities last: the signs that they are made of are markup themselves.
    return _LINK_OR_HTML.sub(_as_entities, _MARKUP.sub(lambda found: f"\\{found[0]}", line))


def _code(text: str) -> str:
    """Return text as code, between more backticks than it has in a row itself."""
    line = _on_one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def _on_one_line(text: str) -> str:
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() or sign in _JOINERS else f"(U+{ord(sign):04X})" for sign in line)


def _as_entities(found: re.Match[str]) -> str:
    return "".join(f"&#{ord(sign)};" for sign in found[0])
