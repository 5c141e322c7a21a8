"""What the folds' networks say of the images that they did not learn from: one row each, in out-of-fold.csv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.network.checkpoint import load_checkpoint
from cxrbatch.model.train.checks import Training
from cxrbatch.model.train.fit import predict_logits
from cxrbatch.pages.cells import write_rows
from cxrbatch.records import Float32
from cxrbatch.system.durable import replacing

OUT_OF_FOLD_CSV = "out-of-fold.csv"
FOLD_PART = "val"
"""The part of a fold's split that its network did not learn from."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """N images, each scored by the network of the one fold that did not learn from it.

    `images` are paths below the data, `patients` keys that keep images together (`Sample.patient`), `fold`, int64 [N],
    counts from 1; `targets`, float32 [N,C], is nan where unknown; `logits`, float32 [N,C], are before calibration.
    """

    labels: tuple[str, ...]
    images: tuple[str, ...]
    patients: tuple[str, ...]
    fold: NDArray[np.int64]
    targets: Float32
    logits: Float32


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """What is made of N images by what other folds' images chose: `probabilities`, and `calls`, float32 [N,C].

    A call is 1 or 0, or nan where the others could not place an operating point.
    """

    probabilities: Float32
    calls: Float32


def score_out_of_fold(trainings: Sequence[Training]) -> tuple[OutOfFold, tuple[Sample, ...]]:
    """Score every image outside of the test part by the network that did not learn from it.

    Args:
        trainings: one per fold, finished: their checkpoints lie where they say, with images in one order.

    Returns:
        The scores, and the images in their order.
    """
    data = trainings[0].images
    logits = np.full((len(data.samples), len(data.labels)), np.nan, np.float32)
    fold = np.zeros(len(data.samples), np.int64)
    for training in trainings:
        network = load_checkpoint(training.checkpoint).network
        rows = training.prepared.rows(FOLD_PART)
        logits[rows] = predict_logits(network, training.prepared.part(FOLD_PART), training.options.devices)
        fold[rows] = training.fold
    samples = tuple(sample for sample, number in zip(data.samples, fold.tolist(), strict=True) if number)
    return _gather(data, samples, fold[fold > 0], logits[fold > 0]), samples


def _gather(data: LabelledImages, samples: Sequence[Sample], fold: NDArray[np.int64], logits: Float32) -> OutOfFold:
    return OutOfFold(
        labels=data.labels,
        images=tuple(data.name_of(sample) for sample in samples),
        patients=tuple(sample.patient for sample in samples),
        fold=fold,
        targets=np.array([sample.targets for sample in samples], np.float32),
        logits=logits,
    )


def write_out_of_fold(folder: Path, scores: OutOfFold, fitted: CrossFitted) -> None:
    """Write the table: path, patient (a key), fold, and per label target_, logit_, prob_ and positive_.

    Logits are before calibration. Probabilities and calls are those of calibrations and operating points that other
    folds chose; cells are empty where truth or verdict is unknown.
    """
    columns = [f"{kind}_{label}" for label in scores.labels for kind in ("target", "logit", "prob", "positive")]
    place = folder / OUT_OF_FOLD_CSV
    with replacing(place) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        write_rows(stream, [["path", "patient", "fold", *columns]])
        write_rows(stream, _rows(scores, fitted))


def _rows(scores: OutOfFold, fitted: CrossFitted) -> Iterator[list[object]]:
    cells = np.stack([scores.targets, scores.logits, fitted.probabilities, fitted.calls], axis=2)
    for at, (image, patient) in enumerate(zip(scores.images, scores.patients, strict=True)):
        row = cells[at].reshape(-1).tolist()
        # Nine digits hold every float32.
        yield [image, patient, int(scores.fold[at]), *("" if np.isnan(cell) else float(f"{cell:.9g}") for cell in row)]
