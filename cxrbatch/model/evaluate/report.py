"""What an evaluation leaves for people: evaluation.html, and predictions.csv with a row per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.model.data.labelled import UNKNOWN, LabelledImages, Sample
from cxrbatch.model.evaluate.doubts import FOLDS, Shortcut
from cxrbatch.model.evaluate.localisation import MAP_SHARE
from cxrbatch.model.evaluate.record import Evaluation
from cxrbatch.model.evaluate.scoring import ScoredImages
from cxrbatch.model.evaluate.worklist import Wait, WorklistFigures
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figure_lines import (
    CALLING_FIGURES,
    RANKING_FIGURES,
    Line,
    Number,
    calling_lines,
    figure_name,
    headlines,
    images_in_words,
    interval,
    number,
    numbers,
    percent,
    ranking_lines,
)
from cxrbatch.model.figures.figures import LabelledScores, SubgroupFigures
from cxrbatch.model.figures.metrics import CALIBRATION_BINS, Figure
from cxrbatch.output.report.content import SHORT_HASH
from cxrbatch.pages import header_words, wording
from cxrbatch.pages.cells import write_rows
from cxrbatch.pages.language import gettext as _, localised, msgid, ngettext, speaking, whole
from cxrbatch.pages.page import render_page
from cxrbatch.pages.plot_style import Plot
from cxrbatch.pages.retelling import retold
from cxrbatch.records import MapCheck, Priority, Task
from cxrbatch.system.durable import replace_text, replacing

EVALUATION_HTML = "evaluation.html"

_GROUP_FIGURES = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY)
_GROUP_COLUMNS = {"sex": msgid("Sex"), "age": msgid("Age"), "view": msgid("View position")}


@dataclass(frozen=True, slots=True)
class ShortcutCell:
    """One trivial predictor for one label: its AUROC, and "reaches" or "near" where it rivals the model."""

    value: str
    state: str = ""


@speaking()
def write_evaluation_page(out: Path, evaluation: Evaluation, plots: Sequence[Plot]) -> None:
    """Write evaluation.html; its pictures lie beside it."""
    measured = evaluation.measured
    page = render_page(
        "evaluation.html.j2",
        styles=("look.css", "figures.css"),
        model=evaluation.model,
        model_hash=evaluation.model.sha256[:SHORT_HASH],
        data_name=wording.plain(Path(evaluation.data.root).name),
        data=evaluation.data,
        part=_part_in_words(evaluation.data.split),
        task=_(_TASKS[evaluation.model.task]),
        layout=evaluation.data.layout,
        priority_names={priority: _(called) for priority, called in _CALLED.items()},
        retold=retold,
        headlines=tuple(headlines(measured)),
        cautions=[caution for caution in evaluation.cautions if caution.severity != "note"],
        notes=[caution for caution in evaluation.cautions if caution.severity == "note"],
        ranking_columns=[figure_name(figure) for figure in RANKING_FIGURES],
        ranking=ranking_lines(measured),
        calling_columns=[figure_name(figure) for figure in CALLING_FIGURES],
        calling=calling_lines(measured, evaluation.model.task),
        worklist=evaluation.worklist,
        worklist_lines=tuple(worklist_lines(evaluation.worklist)),
        waiting=_waiting(evaluation.worklist),
        plots=plots,
        group_columns=[figure_name(figure) for figure in _GROUP_FIGURES],
        groups=_group_tables(evaluation.subgroups),
        macro=len(measured.labels) > 1,
        labels=[label.label for label in measured.labels if Figure.AUROC in label.figures],
        shortcuts=_shortcut_lines(evaluation),
        pointing=_pointing_lines(evaluation),
        map_verdicts=tuple(map_verdicts(evaluation)),
        map_share=percent(MAP_SHARE),
        bins=CALIBRATION_BINS,
        folds=FOLDS,
        evaluation=evaluation,
        evaluated_at=wording.moment(evaluation.evaluated_at),
        notice=wording.plain(evaluation.model.notice, longest=600),
        not_for_diagnosis=_(wording.NOT_FOR_DIAGNOSIS),
    )
    replace_text(out / EVALUATION_HTML, page)


_TASKS: dict[Task, str] = {
    "multilabel": msgid("multilabel"),
    "binary": msgid("binary"),
    "multiclass": msgid("multiclass"),
}
_CALLED: dict[Priority, str] = {
    "urgent": msgid("urgent"),
    "abnormal": msgid("abnormal"),
    "incomplete": msgid("incomplete"),
    "unscored": msgid("unscored"),
    "normal": msgid("normal"),
}


def _part_in_words(split: str) -> str:
    return _("all images") if split == "all" else _("the {part} part").format(part=split)


def worklist_lines(worklist: WorklistFigures | None) -> Iterator[Line]:
    """Yield what an alarm of this worklist is worth, a rate each; nothing without a verdict."""
    if worklist is None:
        return
    with_it, without = worklist.with_finding, worklist.without
    studies_with = ngettext("{count} study with a finding", "{count} studies with a finding", with_it)
    studies_without = ngettext("{count} study without", "{count} studies without", without)
    for name, estimate, studies in (
        (_("Any finding: sensitivity"), worklist.sensitivity, studies_with.format(count=whole(with_it))),
        (_("Any finding: specificity"), worklist.specificity, studies_without.format(count=whole(without))),
        (_("Called normal, of those without"), worklist.cleared, studies_without.format(count=whole(without))),
    ):
        if estimate is not None:
            yield Line(name, studies, (number(estimate),))


def _waiting(worklist: WorklistFigures | None) -> list[tuple[str, str, str]]:
    """Return, per order of reading, how many studies come before the first true finding, and before each."""
    if worklist is None or worklist.sorted is None or worklist.first_come is None:
        return []
    orders = {_("By priority and probability"): worklist.sorted, _("First come, first served"): worklist.first_come}
    return [(name, wait_in_words(order.first), wait_in_words(order.each)) for name, order in orders.items()]


def wait_in_words(wait: Wait) -> str:
    """Say how many studies are read before: mean, median, and the middle 95 % of lists."""
    mean, median = localised(f"{wait.mean:.1f}"), localised(f"{wait.median:.0f}")
    if wait.low >= wait.high:
        return _("{mean} (median {median})").format(mean=mean, median=median)
    ends = interval(f"{wait.low:.0f}", f"{wait.high:.0f}")
    return _("{mean} (median {median}; {ends})").format(mean=mean, median=median, ends=ends)


def _group_tables(subgroups: Sequence[SubgroupFigures]) -> list[tuple[str, list[Line]]]:
    tables: dict[str, list[Line]] = {}
    for group in subgroups:
        name = header_words.sex(group.group) if group.column == "sex" else group.group
        name = _(name) if name == UNKNOWN else name
        patients = ngettext("{count} patient", "{count} patients", group.patients).format(count=whole(group.patients))
        count = f"{images_in_words(group.images)}, {patients}"
        if len(group.measured.labels) == 1:
            count += f", {_('{count} with it').format(count=whole(group.measured.labels[0].positives))}"
        line = Line(name, count, numbers(group.measured.macro, _GROUP_FIGURES))
        tables.setdefault(_(_GROUP_COLUMNS[group.column]), []).append(line)
    return list(tables.items())


def _shortcut_lines(evaluation: Evaluation) -> list[tuple[str, list[ShortcutCell]]]:
    """Return a row for the model and one per trivial predictor, a cell per label."""
    labels = [label for label in evaluation.measured.labels if Figure.AUROC in label.figures]
    found = {(shortcut.predictor, shortcut.label): shortcut for shortcut in evaluation.shortcuts}
    predictors = dict.fromkeys(shortcut.predictor for shortcut in evaluation.shortcuts)
    aurocs = [localised(f"{label.figures[Figure.AUROC].value:.3f}") for label in labels]
    model = (_("The model"), [ShortcutCell(auroc, "model") for auroc in aurocs])
    lines = [
        (_capital(retold(predictor)), [_cell(found.get((predictor, label.label))) for label in labels])
        for predictor in predictors
    ]
    return [model, *lines] if lines else []


def _cell(shortcut: Shortcut | None) -> ShortcutCell:
    if shortcut is None:
        return ShortcutCell(wording.NO_VALUE)
    state = "reaches" if shortcut.reaches else "near" if shortcut.near else ""
    return ShortcutCell(localised(f"{shortcut.auroc:.3f}"), state)


def _capital(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:]


def _pointing_lines(evaluation: Evaluation) -> list[Line]:
    lines = []
    for figures in evaluation.pointing:
        chance = Estimate(figures.chance, figures.chance, figures.chance)
        check = figures.check
        called = figures.called_hits
        among_called = Number(_share(called).value, images_in_words(figures.called))
        shuffled, same_place = (None, None) if check is None else (check.shuffled_hits, check.same_place)
        shown = (
            *(number(figures.hits), number(chance), _share(same_place), _share(shuffled)),
            *(among_called, number(figures.box_iou)),
        )
        lines.append(Line(figures.label, whole(figures.images), shown))
    return lines


def _share(value: float | None) -> Number:
    return Number(wording.NO_VALUE if value is None else localised(f"{value:.3f}"))


def map_verdicts(evaluation: Evaluation) -> Iterator[str]:
    """Say of each label with boxes whether its maps are validated, and if not, why."""
    for figures in evaluation.pointing:
        if figures.check is not None:
            said = ngettext(
                "Heatmaps of {label}, {count} image with boxes: {verdict}.",
                "Heatmaps of {label}, {count} images with boxes: {verdict}.",
                figures.images,
            )
            yield said.format(label=figures.label, count=whole(figures.images), verdict=_verdict(figures.check))


def _verdict(check: MapCheck) -> str:
    verdict = _("validated") if check.validated else _("not validated: {reason}").format(reason=retold(check.reason))
    if check.over_chance is None or check.likeness is None:
        return verdict
    return _(
        "{verdict} (hits {hits}; above chance by at least {over_chance}, above one fixed place by {over_place}, above "
        "shuffled weights by {over_shuffled}; rank correlation with maps of shuffled weights {likeness}, limit {limit})"
    ).format(
        verdict=verdict,
        hits=localised(f"{check.hits:.3f}"),
        over_chance=localised(f"{check.over_chance:.3f}"),
        over_place=localised(f"{check.over_same_place:.3f}"),
        over_shuffled=localised(f"{check.over_shuffled:.3f}"),
        likeness=localised(f"{check.likeness:.2f}"),
        limit=localised(f"{check.likeness_limit:.2f}"),
    )


PREDICTIONS_CSV = "predictions.csv"

Cell = str | int | float


def write_predictions(
    out: Path, data: LabelledImages, images: ScoredImages, scores: LabelledScores, outputs: Sequence[int]
) -> None:
    """Write the table, whole or not at all.

    Columns: path, patient_id, split, sex, age, view, group (the publication, where that is known instead of the
    patient), status (scored or refused), reason, and per label target_ (empty where unknown), logit_, prob_ (to its
    last bit: rounded, probabilities near 0 would tie) and positive_ (empty without a verdict).
    """
    labels = [label.name for label in scores.labels]
    head = ["path", "patient_id", "split", "sex", "age", "view", "group", "status", "reason"]
    columns = [f"{kind}_{label}" for label in labels for kind in ("target", "logit", "prob", "positive")]
    with replacing(out / PREDICTIONS_CSV) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        write_rows(stream, [[*head, *columns]])
        write_rows(stream, _rows(data, images, scores, outputs))


def _rows(
    data: LabelledImages, images: ScoredImages, scores: LabelledScores, outputs: Sequence[int]
) -> Iterator[list[Cell]]:
    for at, sample in enumerate(images.samples):
        cells: list[Cell] = [*_image_cells(data, sample), "scored", ""]
        for column, place in enumerate(outputs):
            calls = scores.calls[column]
            cells += [
                _target(float(scores.targets[at, column])),
                round(float(images.logits[at, place]), 6),
                float(f"{scores.probabilities[at, column]:.9g}"),
                "" if calls is None else int(calls[at]),
            ]
        yield cells
    for refused in images.refused:
        yield [*_image_cells(data, refused.sample), "refused", refused.reason, *[""] * (4 * len(outputs))]


def _image_cells(data: LabelledImages, sample: Sample) -> list[Cell]:
    age = "" if sample.age is None else f"{sample.age:g}"
    return [data.name_of(sample), sample.patient_id, sample.split, sample.sex, age, sample.view, sample.group]


def _target(value: float) -> Cell:
    return "" if np.isnan(value) else int(value)
