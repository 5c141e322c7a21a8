"""evaluation.html, for the person who decides whether to trust the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.model.evaluate.record import Evaluation, counted
from cxrbatch.model.evaluate.shortcuts import FOLDS, Shortcut
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.figure_lines import (
    CALLING_FIGURES,
    FIGURE_NAMES,
    RANKING_FIGURES,
    Line,
    Number,
    calling_lines,
    headlines,
    number,
    numbers,
    ranking_lines,
)
from cxrbatch.model.figures.localisation import MAP_SHARE
from cxrbatch.model.figures.metrics import CALIBRATION_BINS, Figure
from cxrbatch.model.figures.subgroups import SubgroupFigures
from cxrbatch.output.report.content import SHORT_HASH
from cxrbatch.pages import wording
from cxrbatch.pages.page import render_page
from cxrbatch.pages.plot_style import Plot
from cxrbatch.system.durable import replace_text

EVALUATION_HTML = "evaluation.html"

_GROUP_FIGURES = (Figure.AUROC, Figure.SENSITIVITY, Figure.SPECIFICITY)
_GROUP_COLUMNS = {"sex": "Sex", "age": "Age", "view": "View position"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One trivial predictor for one label: its AUROC, and "reaches" or "near" where it rivals the model."""

    value: str
    state: str = ""


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
        part="all images" if evaluation.data.split == "all" else f"the {evaluation.data.split} part",
        headlines=tuple(headlines(measured)),
        cautions=[caution for caution in evaluation.cautions if caution.severity != "note"],
        notes=[caution for caution in evaluation.cautions if caution.severity == "note"],
        ranking_columns=[FIGURE_NAMES[figure] for figure in RANKING_FIGURES],
        ranking=ranking_lines(measured),
        calling_columns=[FIGURE_NAMES[figure] for figure in CALLING_FIGURES],
        calling=calling_lines(measured, evaluation.model.task),
        plots=plots,
        group_columns=[FIGURE_NAMES[figure] for figure in _GROUP_FIGURES],
        groups=_group_tables(evaluation.subgroups),
        macro=len(measured.labels) > 1,
        labels=[label.label for label in measured.labels if Figure.AUROC in label.figures],
        shortcuts=_shortcut_lines(evaluation),
        pointing=_pointing_lines(evaluation),
        map_share=f"{MAP_SHARE:.0%}",
        bins=CALIBRATION_BINS,
        folds=FOLDS,
        evaluation=evaluation,
        evaluated_at=wording.moment(evaluation.evaluated_at),
        notice=wording.plain(evaluation.model.notice, longest=600),
        not_for_diagnosis=wording.NOT_FOR_DIAGNOSIS,
    )
    replace_text(out / EVALUATION_HTML, page)


def _group_tables(subgroups: Sequence[SubgroupFigures]) -> list[tuple[str, list[Line]]]:
    tables: dict[str, list[Line]] = {}
    for group in subgroups:
        name = wording.sex(group.group) if group.column == "sex" else group.group
        count = f"{counted(group.images, 'image')}, {counted(group.patients, 'patient')}"
        if len(group.measured.labels) == 1:
            count += f", {group.measured.labels[0].positives} with it"
        line = Line(name, count, numbers(group.measured.macro, _GROUP_FIGURES))
        tables.setdefault(_GROUP_COLUMNS[group.column], []).append(line)
    return list(tables.items())


def _shortcut_lines(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    """Return a row for the model and one per trivial predictor, a cell per label."""
    labels = [label for label in evaluation.measured.labels if Figure.AUROC in label.figures]
    found = {(shortcut.predictor, shortcut.label): shortcut for shortcut in evaluation.shortcuts}
    predictors = dict.fromkeys(shortcut.predictor for shortcut in evaluation.shortcuts)
    model = ("The model", [Cell(f"{label.figures[Figure.AUROC].value:.3f}", "model") for label in labels])
    lines = [
        (predictor.capitalize(), [_cell(found.get((predictor, label.label))) for label in labels])
        for predictor in predictors
    ]
    return [model, *lines] if lines else []


def _cell(shortcut: Shortcut | None) -> Cell:
    if shortcut is None:
        return Cell(wording.NO_VALUE)
    return Cell(f"{shortcut.auroc:.3f}", "reaches" if shortcut.reaches else "near" if shortcut.near else "")


def _pointing_lines(evaluation: Evaluation) -> list[Line]:
    lines = []
    for figures in evaluation.pointing:
        chance = Estimate(figures.chance, figures.chance, figures.chance)
        called = figures.called_hits
        among_called = Number(wording.NO_VALUE if called is None else f"{called:.3f}", f"{figures.called} images")
        shown = (number(figures.hits), number(chance), among_called, number(figures.box_iou))
        lines.append(Line(figures.label, str(figures.images), shown))
    return lines
