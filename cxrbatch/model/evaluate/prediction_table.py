"""predictions.csv: a row per image, so that any figure can be computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.evaluate.scoring import ScoredImages
from cxrbatch.model.figures.figures import LabelledScores
from cxrbatch.pages.cells import write_rows
from cxrbatch.system.durable import replacing

PREDICTIONS_CSV = "predictions.csv"

Cell = str | int | float


def write_predictions(
    out: Path, data: LabelledImages, images: ScoredImages, scores: LabelledScores, outputs: Sequence[int]
) -> None:
    """Write the table, whole or not at all.

    Columns: path, patient_id, split, sex, age, view, status (scored or refused), reason, and per label target_
    (empty where unknown), logit_, prob_ and positive_ (empty without a verdict).
    """
    labels = [label.name for label in scores.labels]
    head = ["path", "patient_id", "split", "sex", "age", "view", "status", "reason"]
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
                round(float(scores.probabilities[at, column]), 6),
                "" if calls is None else int(calls[at]),
            ]
        yield cells
    for refused in images.refused:
        yield [*_image_cells(data, refused.sample), "refused", refused.reason, *[""] * (4 * len(outputs))]


def _image_cells(data: LabelledImages, sample: Sample) -> list[Cell]:
    age = "" if sample.age is None else f"{sample.age:g}"
    return [data.name_of(sample), sample.patient_id, sample.split, sample.sex, age, sample.view]


def _target(value: float) -> Cell:
    return "" if np.isnan(value) else int(value)
