"""training.html and its plots, for the person who decides whether to trust a training."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.engine.training_facts import CHOICES
from cxrbatch.model.data.labelled import TASK_NAMES
from cxrbatch.model.figures.figure_lines import (
    CALLING_FIGURES,
    RANKING_FIGURES,
    calling_lines,
    figure_name,
    headlines,
    images_in_words,
    percent,
    ranking_lines,
)
from cxrbatch.model.figures.metrics import CALIBRATION_BINS
from cxrbatch.model.figures.operating_points import MIN_CASES
from cxrbatch.model.figures.plots import CONFUSION
from cxrbatch.model.train.folds import fold_figure_name, fold_figures, fold_headlines, fold_labels, fold_rows
from cxrbatch.model.train.origin import describe_origin, describe_settings
from cxrbatch.model.train.plots import small_epochs, write_training_plots
from cxrbatch.model.train.record import TrainingPart, TrainingRun, TrainingSummary
from cxrbatch.output.report.content import Fact
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, localised, msgid, ngettext, speaking, whole
from cxrbatch.pages.page import render_page
from cxrbatch.pages.retelling import kept, retold
from cxrbatch.records import Label, Task
from cxrbatch.system.durable import replace_text

TRAINING_HTML = "training.html"

# How the sentence begins that the checkpoint says of its first weights.
_INIT = "Weights start from "
# For the catalogues: what of it stands in checkpoints.
_STARTS = (kept("{origin}; the head is random"), kept("{origin}, with its head"))
_RULES = {
    "sensitivity": msgid("the highest threshold that still finds {share} of the images with the finding"),
    "specificity": msgid("the lowest threshold that still passes {share} of the images without it"),
    "youden": msgid("where sensitivity + specificity is greatest (Youden's index)"),
    "f1": msgid("where F1 is greatest"),
    "fixed": msgid("the threshold {value}, given beforehand"),
    "alarms": msgid(
        "chosen together for all findings, so that at most {value} of the studies without any get an alarm"
    ),
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
        ranking_columns=[figure_name(figure) for figure in RANKING_FIGURES],
        ranking=ranking_lines(run.measured),
        calling_columns=[figure_name(figure) for figure in CALLING_FIGURES],
        calling=calling_lines(run.measured, run.facts.task),
        rule=_rule_in_words(run.operating_point_rule),
        verdicts=_verdicts(run),
        label_shares=_label_shares(run),
        settings=tuple(describe_settings(run)),
        origin=tuple(describe_origin(run)),
        bins=CALIBRATION_BINS,
        retold=retold,
        not_for_diagnosis=_(wording.NOT_FOR_DIAGNOSIS),
    )
    replace_text(out / TRAINING_HTML, page)


# --------------------------------------------------------------------------- what was trained, and what to know first


def _title(summary: TrainingSummary) -> str:
    run = summary.shown
    data = wording.plain(Path(run.data).name)
    if len(summary.runs) > 1:
        return _("{architecture} on {data}, in {folds} folds").format(
            architecture=run.facts.architecture, data=data, folds=len(summary.runs)
        )
    return _("{checkpoint}, trained on {data}").format(checkpoint=wording.plain(Path(run.checkpoint).stem), data=data)


def _facts(run: TrainingRun) -> Iterator[Fact]:
    facts, spec = run.facts, run.facts.input
    yield Fact(_("Task"), _(TASK_NAMES[facts.task]))
    yield Fact(_("Labels"), wording.plain(", ".join(label.name for label in facts.labels), longest=400))
    yield Fact(_("Network"), f"{facts.architecture}, {spec.size_px} px, {spec.fit}")
    if facts.training.init:
        start = facts.training.init.removeprefix(_INIT).rstrip(".")
        yield Fact(_("Started from"), wording.plain(retold(start), longest=60))
    for part in run.parts:
        yield Fact(_("Images, {part}").format(part=part.name), whole(part.images))
    yield Fact(_("Kept"), _("epoch {kept} of {epochs}").format(kept=run.kept, epochs=len(run.epochs)))
    yield Fact(_("Trained in"), wording.duration(run.seconds))
    yield Fact(_("Trained"), wording.moment(run.trained_at))


def _notices(run: TrainingRun) -> Iterator[Notice]:
    for leak in run.leaks:
        yield Notice("void", _("The split leaks: these figures are void."), retold(leak))
    if run.interrupted:
        asked = run.facts.training.options.get("epochs")
        epochs = _("{epoch} of {epochs}").format(epoch=len(run.epochs), epochs=asked) if asked else len(run.epochs)
        ended = _("A signal ended the training after epoch {epochs}.").format(epochs=epochs)
        yield Notice("doubtful", _("Interrupted."), f"{ended} {_kept_by(run).format(epoch=run.kept)}")
    if run.facts.notice and run.facts.notice != " ".join(run.leaks):
        yield Notice("doubtful", _("About this model:"), wording.plain(retold(run.facts.notice), longest=600))
    yield _optimism(run)


def _kept_by(run: TrainingRun) -> str:
    """Say which epoch was to be kept: the best one, as always in earlier versions, or the last."""
    if str(run.facts.training.options.get("keep", "best")) == "best":
        return _("The checkpoint holds epoch {epoch}, the best so far; the same command with --resume goes on.")
    return _("The checkpoint holds epoch {epoch}, the last so far; the same command with --resume goes on.")


def _optimism(run: TrainingRun) -> Notice:
    """Say what the validation figures are worth, and how to get better ones."""
    parts = {part.name: part for part in run.parts}
    checkpoint = shlex.quote(run.checkpoint)
    if "test" in parts:
        command = f"cxrbatch evaluate {checkpoint} DATA -o evaluation --split test"
        images = images_in_words(parts["test"].images)
        others = _("Its test part ({images}) played no part; with the same data options:").format(images=images)
    else:
        command = f"cxrbatch evaluate {checkpoint} OTHER_DATA -o evaluation --split all"
        others = _("Measure it on other patients:")
    training = run.facts.training
    if training.chosen_on and not training.figures_promise_too_much:
        chose_nothing = _("The {images} below chose neither epoch, calibration nor operating points.")
        text = f"{chose_nothing.format(images=_measured_images(run))} {others}"
        return Notice("note", _("Measured on images that chose nothing."), text, command)
    promise = _("The same {images} chose {choices}, so the figures below promise a little too much.")
    text = f"{promise.format(images=_measured_images(run), choices=_choices(run))} {others}"
    return Notice("doubtful", _("Read with care."), text, command)


def _measured_images(run: TrainingRun) -> str:
    """Say on how many images the figures were measured; after an article."""
    training = run.facts.training
    parts = {part.name: part for part in run.parts}
    count = training.images.get(training.measured_on)
    if count and training.measured_on not in parts:
        of_folds = ngettext(
            "{count} image of all folds, each scored by a network that never saw its patient,",
            "{count} images of all folds, each scored by a network that never saw its patient,",
            count,
        )
        return of_folds.format(count=whole(count))
    if "val" not in parts:
        return _("validation images")
    count = parts["val"].images
    return ngettext("{count} validation image", "{count} validation images", count).format(count=whole(count))


_CHOICES = {
    "epoch": msgid("the epoch"),
    "calibration": msgid("the calibration"),
    "operating points": msgid("the operating points"),
}


def _choices(run: TrainingRun) -> str:
    """Name what the images of the figures chose, such as: the calibration and the operating points."""
    chosen = run.facts.training.chosen_by_the_measured or CHOICES
    return wording.listed([_(_CHOICES[choice]) for choice in chosen])


# --------------------------------------------------------------------------- verdicts and data


def _rule_in_words(rule: str) -> str:
    goal, value = (*rule.split("=", 1), "")[:2]
    if goal not in _RULES:
        return wording.plain(rule)
    number = float(value or 0)
    shown = localised(f"{number:.3g}" if goal == "alarms" else f"{number:g}")
    return _(_RULES[goal]).format(value=shown, share=percent(number))


def _verdicts(run: TrainingRun) -> list[Verdict]:
    calibration = zip(run.facts.labels, run.calibration.temperature, run.calibration.offset, strict=True)
    return [
        Verdict(
            label=label.name,
            operating_point=_point(label, run.facts.task),
            temperature=localised(f"{temperature:.2f}"),
            offset=localised(f"{offset:+.2f}") if offset else "0",
            remark="; ".join(_remarks(label, (temperature, offset))),
        )
        for label, temperature, offset in calibration
    ]


def _point(label: Label, task: Task) -> str:
    exclusive = task == "multiclass" and label.operating_point is not None
    return _("likeliest class") if exclusive else wording.operating_point(label.operating_point)


def _remarks(label: Label, calibration: tuple[float, float]) -> Iterator[str]:
    if label.normal:
        yield _("means that nothing was found")
    if label.urgent:
        yield _("urgent")
    if label.operating_point is None:
        few = _("no verdict: fewer than {count} images to choose on with the finding, or without it")
        yield few.format(count=MIN_CASES)
    if calibration == (1.0, 0.0):
        yield _("probabilities as the network gives them: too few images to calibrate")


def _label_shares(run: TrainingRun) -> list[tuple[str, list[Share]]]:
    return [(label.name, [_share(part, place) for part in run.parts]) for place, label in enumerate(run.facts.labels)]


def _share(part: TrainingPart, place: int) -> Share:
    positives, unknown = part.positives[place], part.unknown[place]
    known = part.images - unknown
    share = 100 * positives / known if known else 0.0
    return Share(
        images=whole(positives),
        percent=localised(f"{share:.1f} %") if known else wording.NO_VALUE,
        width=share,
        unknown=_("{count} not known").format(count=whole(unknown)) if unknown else "",
    )
