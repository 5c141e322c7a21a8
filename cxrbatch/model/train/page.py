"""training.html and its plots, for the person who decides whether to trust a training."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrbatch.model.data.labelled import LAYOUT_NAMES, TASK_NAMES
from cxrbatch.model.figures.figure_lines import (
    CALLING_FIGURES,
    FIGURE_NAMES,
    RANKING_FIGURES,
    calling_lines,
    headlines,
    ranking_lines,
)
from cxrbatch.model.figures.metrics import CALIBRATION_BINS
from cxrbatch.model.figures.operating_points import MIN_CASES
from cxrbatch.model.figures.plots import CONFUSION
from cxrbatch.model.train.folds import fold_figure_name, fold_figures, fold_headlines, fold_labels, fold_rows
from cxrbatch.model.train.plots import small_epochs, write_training_plots
from cxrbatch.model.train.record import TrainingPart, TrainingRun, TrainingSummary
from cxrbatch.output.report.content import SHORT_HASH, Fact
from cxrbatch.pages import wording
from cxrbatch.pages.language import speaking
from cxrbatch.pages.page import render_page
from cxrbatch.records import Label, Task
from cxrbatch.system.durable import replace_text

TRAINING_HTML = "training.html"

# How the sentence begins that the checkpoint says of its first weights.
_INIT = "Weights start from "
_RULES = {
    "sensitivity": "the highest threshold that still finds {value:.0%} of the images with the finding",
    "specificity": "the lowest threshold that still passes {value:.0%} of the images without it",
    "youden": "where sensitivity + specificity is greatest (Youden's index)",
    "f1": "where F1 is greatest",
    "fixed": "the threshold {value:g}, given beforehand",
    "alarms": "chosen together for all findings, so that at most {value:.3g} of the studies without any get an alarm",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to know before any figure; `severity` is "void", "doubtful" or "note"."""

    severity: str
    title: str
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one label's answers become verdicts: its threshold and its calibration, in words."""

    label: str
    operating_point: str
    temperature: str
    offset: str
    remark: str


@dataclass(frozen=True, slots=True)
class Share:
    """How many images of a part show a label, as text and in per cent for the bar."""

    images: str
    percent: str
    width: float
    unknown: str = ""


@speaking()
def write_training_page(out: Path, summary: TrainingSummary) -> None:
    """Write training.html and the plots beside it into the folder `out`; of folds, the chosen one is shown whole."""
    run = summary.shown
    plots = write_training_plots(out, summary)
    page = render_page(
        "training.html.j2",
        styles=("look.css", "figures.css", "training.css"),
        run=run,
        folds=len(summary.runs) if len(summary.runs) > 1 else 0,
        cross_fitted=summary.cross_fitted is not None,
        ensemble=summary.ensemble,
        title=_title(summary),
        facts=tuple(_facts(run)),
        notices=tuple(_notices(run)),
        headlines=tuple(fold_headlines(summary) if len(summary.runs) > 1 else headlines(run.measured)),
        fold_columns=[fold_figure_name(name) for name in fold_figures(summary)],
        fold_rows=fold_rows(out, TRAINING_HTML, summary),
        fold_labels=fold_labels(summary),
        curves=[plot for plot in plots if plot != CONFUSION],
        confusion=next((plot for plot in plots if plot == CONFUSION), None),
        small=small_epochs(run),
        ranking_columns=[FIGURE_NAMES[figure] for figure in RANKING_FIGURES],
        ranking=ranking_lines(run.measured),
        calling_columns=[FIGURE_NAMES[figure] for figure in CALLING_FIGURES],
        calling=calling_lines(run.measured, run.facts.task),
        rule=_rule_in_words(run.operating_point_rule),
        verdicts=_verdicts(run),
        label_shares=_label_shares(run),
        settings=tuple(_settings(run)),
        origin=tuple(_origin(run)),
        bins=CALIBRATION_BINS,
        not_for_diagnosis=wording.NOT_FOR_DIAGNOSIS,
    )
    replace_text(out / TRAINING_HTML, page)


# --------------------------------------------------------------------------- what was trained, and what to know first


def _title(summary: TrainingSummary) -> str:
    run = summary.shown
    data = wording.plain(Path(run.data).name)
    if len(summary.runs) > 1:
        return f"{run.facts.architecture} on {data}, in {len(summary.runs)} folds"
    return f"{wording.plain(Path(run.checkpoint).stem)}, trained on {data}"


def _facts(run: TrainingRun) -> Iterator[Fact]:
    facts, spec = run.facts, run.facts.input
    yield Fact("Task", TASK_NAMES[facts.task])
    yield Fact("Labels", wording.plain(", ".join(label.name for label in facts.labels), longest=400))
    yield Fact("Network", f"{facts.architecture}, {spec.size_px} px, {spec.fit}")
    if facts.training.init:
        yield Fact("Started from", wording.plain(facts.training.init.removeprefix(_INIT).rstrip("."), longest=60))
    for part in run.parts:
        yield Fact(f"Images, {part.name}", f"{part.images:,}")
    yield Fact("Kept", f"epoch {run.kept} of {len(run.epochs)}")
    yield Fact("Trained in", wording.duration(run.seconds))
    yield Fact("Trained", wording.moment(run.trained_at))


def _notices(run: TrainingRun) -> Iterator[Notice]:
    for leak in run.leaks:
        yield Notice("void", "The split leaks: these figures are void.", leak)
    if run.interrupted:
        asked = run.facts.training.options.get("epochs")
        of = f" of {asked}" if asked else ""
        yield Notice(
            "doubtful",
            "Interrupted.",
            f"A signal ended the training after epoch {len(run.epochs)}{of}. The checkpoint holds epoch {run.kept}, "
            f"the {_kept_by(run)} so far; the same command with --resume goes on.",
        )
    if run.facts.notice and run.facts.notice != " ".join(run.leaks):
        yield Notice("doubtful", "About this model:", wording.plain(run.facts.notice, longest=600))
    yield _optimism(run)


def _kept_by(run: TrainingRun) -> str:
    """Say which epoch was to be kept: the best one, as always in earlier versions, or the last."""
    return str(run.facts.training.options.get("keep", "best"))


def _optimism(run: TrainingRun) -> Notice:
    """Say what the validation figures are worth, and how to get better ones."""
    parts = {part.name: part for part in run.parts}
    checkpoint = shlex.quote(run.checkpoint)
    if "test" in parts:
        command = f"cxrbatch evaluate {checkpoint} DATA -o evaluation --split test"
        images = wording.counted(parts["test"].images, "image")
        others = f"Its test part ({images}) played no part; with the same data options:"
    else:
        command = f"cxrbatch evaluate {checkpoint} OTHER_DATA -o evaluation --split all"
        others = "Measure it on other patients:"
    images = wording.counted(parts["val"].images, "validation image") if "val" in parts else "validation images"
    training = run.facts.training
    if (count := training.images.get(training.measured_on)) and training.measured_on not in parts:
        images = f"{wording.counted(count, 'image')} of all folds, each scored by a network that never saw its patient,"
    if training.chosen_on and not training.figures_promise_too_much:
        text = f"The {images} below chose neither epoch, calibration nor operating points. {others}"
        return Notice("note", "Measured on images that chose nothing.", text, command)
    chose = training.choices_in_words or "the epoch, the calibration and the operating points"
    text = f"The same {images} chose {chose}, so the figures below promise a little too much. {others}"
    return Notice("doubtful", "Read with care.", text, command)


# --------------------------------------------------------------------------- verdicts and data


def _rule_in_words(rule: str) -> str:
    goal, _, value = rule.partition("=")
    words = _RULES.get(goal, wording.plain(rule))
    return words.format(value=float(value)) if value else words


def _verdicts(run: TrainingRun) -> list[Verdict]:
    calibration = zip(run.facts.labels, run.calibration.temperature, run.calibration.offset, strict=True)
    return [
        Verdict(
            label=label.name,
            operating_point=_point(label, run.facts.task),
            temperature=f"{temperature:.2f}",
            offset=f"{offset:+.2f}" if offset else "0",
            remark="; ".join(_remarks(label, (temperature, offset))),
        )
        for label, temperature, offset in calibration
    ]


def _point(label: Label, task: Task) -> str:
    exclusive = task == "multiclass" and label.operating_point is not None
    return "likeliest class" if exclusive else wording.operating_point(label.operating_point)


def _remarks(label: Label, calibration: tuple[float, float]) -> Iterator[str]:
    if label.normal:
        yield "means that nothing was found"
    if label.urgent:
        yield "urgent"
    if label.operating_point is None:
        yield f"no verdict: fewer than {MIN_CASES} images to choose on with the finding, or without it"
    if calibration == (1.0, 0.0):
        yield "probabilities as the network gives them: too few images to calibrate"


def _label_shares(run: TrainingRun) -> list[tuple[str, list[Share]]]:
    return [(label.name, [_share(part, place) for part in run.parts]) for place, label in enumerate(run.facts.labels)]


def _share(part: TrainingPart, place: int) -> Share:
    positives, unknown = part.positives[place], part.unknown[place]
    known = part.images - unknown
    percent = 100 * positives / known if known else 0.0
    return Share(
        images=f"{positives:,}",
        percent=f"{percent:.1f} %" if known else wording.NO_VALUE,
        width=percent,
        unknown=f"{unknown:,} not known" if unknown else "",
    )


# --------------------------------------------------------------------------- settings and provenance


def _settings(run: TrainingRun) -> Iterator[Fact]:
    facts, spec = run.facts, run.facts.input
    yield from (Fact("architecture", facts.architecture), Fact("output stride", str(facts.output_stride)))
    yield Fact("pooling", facts.pooling)
    yield from (Fact("image size", f"{spec.size_px} px, {spec.fit}"), Fact("seed", str(facts.training.seed)))
    yield Fact("grey mean and deviation", f"{spec.mean:g}, {spec.std:g}")
    for name, value in _flat(facts.training.options):
        if name != "seed":
            yield Fact(name, value)


def _flat(options: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values in words; those of an inner record under its name."""
    for name, value in options.items():
        words = f"{within} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, words)
        else:
            shown = f"{value:g}" if isinstance(value, float) else wording.plain(str(value))
            yield words, shown or "the usual one"


def _origin(run: TrainingRun) -> Iterator[str]:
    training = run.facts.training
    layout = LAYOUT_NAMES.get(run.layout, run.layout)
    yield f"Data: {wording.plain(Path(run.data).name)}, {layout}, SHA-256 {run.data_sha256[:SHORT_HASH]}."
    if training.init:
        yield wording.plain(training.init, longest=400)
    if training.recipe:
        yield f"Recipe {training.recipe[:SHORT_HASH]}: the same data, options and network give the same weights."
    if training.patients:
        digests = ", ".join(f"{part} {digest[:SHORT_HASH]}" for part, digest in training.patients.items())
        yield f"Patients of each part, as digests that name nobody: {digests}."
    if run.resamples:
        yield f"Intervals are 95 %, by bootstrap over patients: {run.resamples} resamples, percentile method."
    libraries = ", ".join(f"{name} {version}" for name, version in training.libraries.items())
    yield f"cxrbatch {run.cxrbatch_version}{f'; {libraries}' if libraries else ''}."
