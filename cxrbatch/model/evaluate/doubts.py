"""What else than skill would explain a model's figures: patients that it knows, and shortcuts.

A network can learn the view position, the scanner's image size or the hospital instead of the finding
(Zech et al. 2018). Where one of these, known of an image besides its pixels, reaches the model's AUROC, the model may
have learned nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.model.data.labelled import LabelledImages, Sample, patients_sha256
from cxrbatch.model.figures.bootstrap import Estimate
from cxrbatch.model.figures.metrics import Truths, measure_auroc
from cxrbatch.pages.retelling import kept
from cxrbatch.pages.wording import counted

TRAINING_PART = "train"


def is_trained_on(training: TrainingFacts, data: LabelledImages) -> bool:
    """Tell whether the model learned from this data's training part, as far as its checkpoint says."""
    training_part = [sample for sample in data.samples if sample.split == TRAINING_PART]
    return bool(training_part) and training.patients.get(TRAINING_PART) == patients_sha256(training_part)


def find_overlap(evaluated: Sequence[Sample], data: LabelledImages, training: TrainingFacts) -> tuple[str, ...]:
    """Return, in sentences, how the evaluated images overlap with what the model may have learned from.

    The data's own split tells which patients are its training part; that the model learned from this very
    part is known where the checkpoint says so (`TrainingFacts.patients`).
    """
    learned_from = training.patients.get(TRAINING_PART, "")
    training_part = [sample for sample in data.samples if sample.split == TRAINING_PART]
    shared = {sample.patient for sample in evaluated} & {sample.patient for sample in training_part}
    if learned_from and learned_from == patients_sha256(evaluated):
        return (kept("The model learned from these very patients: its checkpoint names them as its training part."),)
    if not shared:
        return ()
    images = sum(sample.patient in shared for sample in evaluated)
    certain = kept("Of {images} {number} show {patients} of this data's training part, which the model learned from.")
    likely = kept(
        "Of {images} {number} show {patients} of this data's training part, which the model may have learned from."
    )
    said = certain if is_trained_on(training, data) else likely
    every, whose = counted(len(evaluated), "image"), counted(len(shared), "patient")
    return (said.format(images=every, number=images, patients=whose),)


FOLDS = 5
TELLING = 0.6
"""A column with a lower AUROC tells next to nothing; a model that is no better is just a bad one."""

_PRIOR_IMAGES = 2.0
_SEED = 20_170_705


@dataclass(frozen=True, slots=True)
class TrivialPredictor:
    """A column that is no finding: its value per image; `ranked` where more and less mean something (age)."""

    name: str
    values: tuple[str | float | None, ...]
    ranked: bool = False

    def of_images(self, chosen: NDArray[np.bool_]) -> TrivialPredictor:
        """Return the column of some of the images, bool [N]."""
        kept = tuple(value for value, keep in zip(self.values, chosen.tolist(), strict=True) if keep)
        return replace(self, values=kept)


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well one trivial predictor tells one label: its AUROC, and how that stands beside the model's.

    `reaches`: it is as good as the model; `near`: it lies within the model's 95 % interval or above. Neither
    where it hardly tells anything at all (TELLING).
    """

    predictor: str
    label: str
    auroc: float
    reaches: bool
    near: bool


def trivial_predictors(samples: Sequence[Sample], sizes: NDArray[np.int64]) -> tuple[TrivialPredictor, ...]:
    """Return every column that differs between the images.

    Args:
        samples: the N images.
        sizes: int64 [N,2], stored rows and columns.
    """
    rows, columns = sizes[:, 0], sizes[:, 1]
    candidates = (
        TrivialPredictor(kept("view position"), tuple(sample.view or None for sample in samples)),
        TrivialPredictor(kept("image size"), tuple(f"{row} x {column}" for row, column in sizes.tolist())),
        TrivialPredictor(kept("image height"), tuple(rows.astype(float).tolist()), ranked=True),
        TrivialPredictor(kept("image width"), tuple(columns.astype(float).tolist()), ranked=True),
        TrivialPredictor(kept("source folder"), tuple(sample.source or None for sample in samples)),
        TrivialPredictor(kept("age"), tuple(sample.age for sample in samples), ranked=True),
        TrivialPredictor(kept("sex"), tuple(sample.sex or None for sample in samples)),
    )
    return tuple(candidate for candidate in candidates if len(set(candidate.values)) > 1)


def predict_trivially(predictor: TrivialPredictor, truths: Truths, patients: Sequence[str]) -> float | None:
    """Return the AUROC of a trivial predictor for one label, or None where it cannot be measured.

    A ranked column (age, image height) is its own score, in the direction that serves it better; images
    without a value are left out. A category's score is how frequent the finding is among its images in the
    other folds: patients are dealt into 5 folds, so that no image speaks for itself and a category of one image
    tells nothing. Two images of the overall frequency are added to each category (m-estimate, Cestnik 1990).

    Args:
        predictor: the column, N values.
        truths: bool [N].
        patients: who is on each image.
    """
    if predictor.ranked:
        return _auroc_of_ranks(predictor, truths)
    scores = np.empty(len(truths), np.float64)
    fold_of_image = _deal_folds(patients)
    categories = np.array([str(value) for value in predictor.values])
    for fold in range(FOLDS):
        held_out = fold_of_image == fold
        scores[held_out] = _frequency(categories[~held_out], truths[~held_out], categories[held_out])
    return _auroc_within_folds(truths, scores, fold_of_image)


def compare_with_model(predictor: str, label: str, auroc: float, model: Estimate) -> Shortcut:
    """Set the AUROC of a trivial predictor beside the model's."""
    telling = auroc >= TELLING
    return Shortcut(predictor, label, auroc, telling and auroc >= model.value, telling and auroc >= model.low)


def _auroc_of_ranks(predictor: TrivialPredictor, truths: Truths) -> float | None:
    values = np.array([np.nan if value is None else float(value) for value in predictor.values], np.float64)
    known = np.isfinite(values)
    if len(set(values[known].tolist())) < 2:
        return None
    auroc = measure_auroc(truths[known], values[known].astype(np.float32))
    return None if auroc is None else max(auroc, 1.0 - auroc)


def _deal_folds(patients: Sequence[str]) -> NDArray[np.int64]:
    _, patient_of_image = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    dealt = np.random.default_rng(_SEED).permutation(int(patient_of_image.max()) + 1) % FOLDS
    return np.asarray(dealt[patient_of_image], np.int64)


def _frequency(categories: NDArray[np.str_], truths: Truths, asked: NDArray[np.str_]) -> NDArray[np.float64]:
    overall = float(truths.mean()) if len(truths) else 0.0
    frequency = {
        category: (truths[categories == category].sum() + _PRIOR_IMAGES * overall)
        / ((categories == category).sum() + _PRIOR_IMAGES)
        for category in set(categories.tolist())
    }
    return np.array([frequency.get(category, overall) for category in asked.tolist()], np.float64)


def _auroc_within_folds(truths: Truths, scores: NDArray[np.float64], fold_of_image: NDArray[np.int64]) -> float | None:
    """Average the folds' areas, weighed by their pairs.

    Not one area over all: a fold rich in the finding leaves the others poor in it, so scores differ between folds.
    """
    weighed, pairs = 0.0, 0
    for fold in range(FOLDS):
        inside = fold_of_image == fold
        auroc = measure_auroc(truths[inside], scores[inside].astype(np.float32)) if inside.any() else None
        if auroc is not None:
            fold_pairs = int(truths[inside].sum()) * int((~truths[inside]).sum())
            weighed, pairs = weighed + auroc * fold_pairs, pairs + fold_pairs
    return weighed / pairs if pairs else None
