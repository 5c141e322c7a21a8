"""Evaluating a model: how good it is, for whom, and what else would explain it. Start at `evaluate_model`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from cxrbatch import __version__
from cxrbatch.config import Settings
from cxrbatch.errors import UsageError
from cxrbatch.model.data.boxes import Boxes, find_boxes
from cxrbatch.model.data.labelled import LabelledImages, Sample, count_patients, take_targets
from cxrbatch.model.data.layouts import read_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.data.regions import read_boxes_of
from cxrbatch.model.data.splits import check_patients, split_data
from cxrbatch.model.evaluate.acquaintance import (
    get_acquainted,
)
from cxrbatch.model.evaluate.boxed_maps import check_boxed_maps
from cxrbatch.model.evaluate.cautions import Scored, find_cautions, is_choosing_part
from cxrbatch.model.evaluate.doubts import (
    Shortcut,
    compare_with_model,
    predict_trivially,
    trivial_predictors,
)
from cxrbatch.model.evaluate.localisation import measure_pointing
from cxrbatch.model.evaluate.record import EvaluatedData, Evaluation
from cxrbatch.model.evaluate.report import write_evaluation_page, write_predictions
from cxrbatch.model.evaluate.scoring import ScoredImages, score_images
from cxrbatch.model.evaluate.worklist import WorklistFigures, measure_worklist
from cxrbatch.model.figures.bootstrap import draw_resamples
from cxrbatch.model.figures.figures import (
    LabelledScores,
    MeasuredLabels,
    judge_scores,
    measure_labels,
    measure_subgroups,
)
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.figures.plots import write_plots
from cxrbatch.model.network.open_model import find_known_images, locate_model, open_model
from cxrbatch.model.network.shuffled import draw_shuffled_maps
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.records import EngineDescription, Float32, Label, MapCheck, now_text
from cxrbatch.system import durable
from cxrbatch.system.record_json import to_json

METRICS_JSON = "metrics.json"
ALL_PARTS = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """What is evaluated and how.

    `split`: a part of the data, or "all". `data`: how the data is read. `resamples`: of the bootstrap; 0 gives
    no intervals. `boxes`: a BBox_List_2017.csv; None takes the one in the data folder, if there is one.
    """

    split: str = "test"
    data: DataOptions = field(default_factory=DataOptions)
    resamples: int = 1000
    seed: int = 0
    boxes: Path | None = None
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise UsageError("bootstrap: the number of resamples must not be negative")


def evaluate_model(
    model: str,
    data_path: Path,
    out: Path,
    options: EvaluationOptions,
    *,
    report: ReportProgress = lambda _done, _all: None,
) -> Evaluation:
    """Score the images of one part of the data and leave metrics.json, predictions.csv, plots and evaluation.html.

    Args:
        model: a checkpoint, or an engine bundle's path or name.
        data_path: labelled data in any layout that training takes.
        out: the folder for the results; created where missing.
        options: what and how.
        report: told (images done, images in all).

    Raises:
        UsageError: the data cannot be used, has no image in that part, or no label that the model knows.
        EngineError: the model is missing, damaged or cannot run here.
        OutputNotWritable: `out` cannot be written.
    """
    data, cut = read_split_data(data_path, options)
    samples = data.samples if options.split == ALL_PARTS else data.part(options.split)
    boxes = _load_boxes(data, options.boxes)
    settings = options.settings
    known = find_known_images(model)
    engine = open_model(model, backend=settings.backend, precision=settings.precision, threads=settings.threads)
    try:
        labels = match_labels(engine.description, data)
        images = score_images(engine, samples, settings, keep_maps=with_boxes(boxes), report=report)
    finally:
        engine.close()
    scores = set_beside_truth(engine.description, data, images, labels, options)
    met = get_acquainted(known, images.samples, images.pictures)
    scored = Scored(engine.description, data, images, labels, scores, cut, met)
    draw_shuffled = partial(draw_shuffled_maps, model, threads=settings.threads)
    checks = check_boxed_maps(images, scored.columns, boxes, draw_shuffled, describe_part(data, options.split))
    evaluation = replace(_measure(scored, boxes, checks, options), model_place=str(locate_model(model)))
    _write(out, evaluation, scored)
    return evaluation


def read_split_data(data_path: Path, options: EvaluationOptions) -> tuple[LabelledImages, bool]:
    """Read labelled images with the part that is asked for; unlike for training, nothing else need be there.

    A part that the data does not bring along is cut as training cuts it: the same options give the same images.
    The second value tells whether that was done.

    Raises:
        UsageError: the data cannot be read, or has no such part, or shares patients with its training part.
    """
    data = read_data(data_path, options.data)
    if options.split == ALL_PARTS:
        return data, False
    cut = options.split not in {sample.split for sample in data.samples}
    data = split_data(data, options.data) if cut else data
    present = sorted({sample.split for sample in data.samples})
    if options.split not in present:
        raise UsageError(
            f"{data.root}: no image belongs to the part {options.split}; there are {', '.join(present)}. "
            f"Evaluate one of them, or all images with --split {ALL_PARTS}."
        )
    return check_patients(data, allow_leak=options.data.allow_leak), cut


def match_labels(model: EngineDescription, data: LabelledImages) -> tuple[int, ...]:
    """Return which of the model's outputs the data can judge: those with a label of the same name.

    All classes of a multi-class model are judged together: a class that the data lacks is true of no image.

    Raises:
        UsageError: there is none.
    """
    names = [label.name for label in model.labels]
    shared = tuple(place for place, name in enumerate(names) if name in data.labels)
    if not shared:
        raise UsageError(
            f"{data.root}: has none of the model's labels. The model knows {', '.join(names)}; the data has "
            f"{', '.join(data.labels)}. Name the columns or folders alike, or make one label with --binary."
        )
    return tuple(range(len(names))) if model.task == "multiclass" else shared


def set_beside_truth(
    model: EngineDescription,
    data: LabelledImages,
    images: ScoredImages,
    outputs: Sequence[int],
    options: EvaluationOptions,
) -> LabelledScores:
    """Set what the model says beside what is true, label by label, and draw the resamples."""
    labels = tuple(model.labels[place] for place in outputs)
    targets = _targets(labels, data.labels, images.samples, exclusive=model.task == "multiclass")
    patients = [sample.patient for sample in images.samples]
    weights = draw_resamples(patients, count=options.resamples, seed=options.seed)
    return judge_scores(labels, model.task, targets, images.probabilities[:, outputs], patients, weights)


def _targets(labels: Sequence[Label], names: Sequence[str], samples: Sequence[Sample], *, exclusive: bool) -> Float32:
    """Return the targets in the order of the model's labels, float32 [N,C], nan where unknown.

    Of exclusive classes, one that the data lacks is false; an image of a class that the model lacks is unknown.
    """
    targets = take_targets(samples, names, [label.name for label in labels], missing=0.0)
    if exclusive:
        targets[np.nan_to_num(targets).sum(axis=1) != 1] = np.nan
    return targets


def _measure(scored: Scored, boxes: Boxes, checks: Mapping[str, MapCheck], options: EvaluationOptions) -> Evaluation:
    samples, scores = scored.images.samples, scored.scores
    measured = measure_labels(scores)
    shortcuts = find_shortcuts(scored.images, scores, measured)
    calls = {label.name: called for label, called in zip(scores.labels, scores.calls, strict=True)}
    pointing = measure_pointing(scored.images, scored.columns, boxes, calls, scores.weights)
    return Evaluation(
        model=scored.model,
        data=_describe_data(scored, options.split),
        measured=measured,
        subgroups=measure_subgroups(scores, samples),
        shortcuts=shortcuts,
        pointing=tuple(replace(each, check=checks.get(each.label)) for each in pointing),
        worklist=_measure_worklist(scored, options),
        cautions=tuple(find_cautions(scored, measured, shortcuts)),
        resamples=options.resamples,
        seed=options.seed,
        evaluated_at=now_text(),
        cxrbatch_version=__version__,
    )


def _measure_worklist(scored: Scored, options: EvaluationOptions) -> WorklistFigures | None:
    studies = [sample.study_key(options.settings.group_by) for sample in scored.images.samples]
    return measure_worklist(scored.scores, scored.model.verdict_rule, studies, seed=options.seed)


def find_shortcuts(images: ScoredImages, scores: LabelledScores, measured: MeasuredLabels) -> tuple[Shortcut, ...]:
    """Predict every label from what is known of the images besides their pixels."""
    auroc_of = {label.label: label.figures[Figure.AUROC] for label in measured.labels if Figure.AUROC in label.figures}
    patients = np.array([sample.patient for sample in images.samples], dtype=object)
    found = []
    for predictor in trivial_predictors(images.samples, images.sizes):
        for column, label in enumerate(scores.labels):
            known = ~np.isnan(scores.targets[:, column])
            truths = scores.targets[known, column] > 0.5
            if label.name not in auroc_of:
                continue
            auroc = predict_trivially(predictor.of_images(known), truths, patients[known].tolist())
            if auroc is not None:
                found.append(compare_with_model(predictor.name, label.name, auroc, auroc_of[label.name]))
    return tuple(found)


def _describe_data(scored: Scored, split: str) -> EvaluatedData:
    samples = scored.images.samples
    patients, of_unknown = count_patients(samples)
    return EvaluatedData(
        root=str(scored.data.root),
        layout=scored.data.layout,
        sha256=scored.data.sha256,
        split=split,
        images=len(samples),
        patients=patients,
        refused=dict(Counter(image.reason for image in scored.images.refused)),
        of_unknown=of_unknown,
        chosen_by=bool(scored.met.chose.any()) or bool(is_choosing_part(scored.training, samples)),
    )


def _load_boxes(data: LabelledImages, named: Path | None) -> Boxes:
    """Read the boxes that are named, or those that lie beside the data; by the images' paths."""
    folder = data.root if data.root.is_dir() else data.root.parent
    path = named or find_boxes(folder)
    return read_boxes_of(data, path, lenient=named is None) if path is not None else {}


def describe_part(data: LabelledImages, split: str) -> str:
    """Name the images that are evaluated, for people."""
    return f"{'all images' if split == ALL_PARTS else f'the part {split}'} of {data.root.name}"


def with_boxes(boxes: Boxes) -> frozenset[str]:
    """Return the paths of the images that have boxes."""
    return frozenset(image for image, _ in boxes)


def _write(out: Path, evaluation: Evaluation, scored: Scored) -> None:
    with output_errors_explained(out):
        durable.make_folder(out)
        plots = write_plots(out, evaluation.measured, scored.scores)
        write_predictions(out, scored.data, scored.images, scored.scores, scored.outputs)
        durable.replace_text(out / METRICS_JSON, to_json(evaluation, indent=2) + "\n")
        write_evaluation_page(out, evaluation, plots)
