"""The figures themselves: AUROC, what an operating point does, calibration.

The points come from scikit-learn and torchmetrics; `bootstrap` resamples the same figures for their intervals.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from cxrbatch.records import Float32

Truths = NDArray[np.bool_]
Mask = NDArray[np.bool_]
Calls = NDArray[np.bool_]

CALIBRATION_BINS = 15
"""Bins of equal width for the expected calibration error, as in Guo et al. 2017."""


class Figure(str, Enum):
    """What is measured of one label. Stable: a key of metrics.json."""

    AUROC = "auroc"
    AVERAGE_PRECISION = "average_precision"
    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"
    PPV = "ppv"
    NPV = "npv"
    F1 = "f1"
    BRIER = "brier"
    CALIBRATION_ERROR = "calibration_error"


Figures = dict[Figure, float]


def measure_figures(truths: Truths, probabilities: Float32, calls: Calls | None) -> Figures:
    """Measure one label; a figure that its images cannot tell (one class only, nobody called) is left out.

    Args:
        truths: bool [N], N > 0.
        probabilities: float32 [N], 0..1.
        calls: bool [N], who is called positive; None where the label has no operating point.
    """
    figures: Figures = {
        Figure.BRIER: float(brier_score_loss(truths, probabilities, pos_label=True)),
        Figure.CALIBRATION_ERROR: measure_calibration_error(truths, probabilities),
    }
    auroc = measure_auroc(truths, probabilities)
    if auroc is not None:
        figures[Figure.AUROC] = auroc
        figures[Figure.AVERAGE_PRECISION] = float(average_precision_score(truths, probabilities))
    return figures if calls is None else figures | measure_calls(truths, calls)


def measure_calls(truths: Truths, calls: Calls) -> Figures:
    """Measure what an operating point does to one label: truths and calls, bool [N]."""
    figures: Figures = {}
    if truths.any():
        figures[Figure.SENSITIVITY] = float(recall_score(truths, calls))
        figures[Figure.F1] = float(f1_score(truths, calls, zero_division=0.0))
    if not truths.all():
        figures[Figure.SPECIFICITY] = float(recall_score(~truths, ~calls))
    if calls.any():
        figures[Figure.PPV] = float(precision_score(truths, calls))
    if not calls.all():
        figures[Figure.NPV] = float(precision_score(~truths, ~calls))
    return figures


def measure_calibration_error(truths: Truths, probabilities: Float32) -> float:
    """Return the mean gap between probability and frequency over CALIBRATION_BINS bins (Naeini et al. 2015).

    Args:
        truths: bool [N].
        probabilities: float32 [N], 0..1: of the finding, not of the likelier answer.
    """
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    gap = binary_calibration_error(
        torch.from_numpy(probabilities.astype(np.float64)), torch.from_numpy(truths.astype(np.int64)), CALIBRATION_BINS
    )
    return float(gap)


def calibration_bin(probabilities: Float32) -> NDArray[np.int64]:
    """Return the bin 0..CALIBRATION_BINS-1 of each probability; a bin holds its lower edge, the last both."""
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)[1:-1]
    return np.asarray(np.searchsorted(edges, probabilities, side="right"), np.int64)


def count_confusions(truths: NDArray[np.int64], calls: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Return images by (true class, called class), int64 [C,C], of class numbers [N]."""
    return np.asarray(confusion_matrix(truths, calls, labels=range(n_classes)), np.int64)


def measure_auroc(truths: Truths, scores: Float32) -> float | None:
    """Return the area under the ROC curve of one label, or None where only one class is present.

    Args:
        truths: bool [N].
        scores: float32 [N]; any increasing function of them gives the same area.
    """
    if truths.all() or not truths.any():
        return None
    return float(roc_auc_score(truths, scores))


def measure_aurocs(targets: Float32, scores: Float32) -> tuple[float | None, ...]:
    """Return the area under the ROC curve of each label: float32 [N,C], targets 0, 1 or nan where not known."""
    known = ~np.isnan(targets)
    return tuple(
        measure_auroc(targets[known[:, label], label] > 0.5, scores[known[:, label], label])
        if known[:, label].any()
        else None
        for label in range(targets.shape[1])
    )


def average_over_labels(values: list[float | None]) -> float | None:
    """Return the mean of those that could be measured ("macro"), or None when none could."""
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else None


def sensitivity_and_specificity(truths: Truths, calls: Truths) -> tuple[float, float]:
    """Return the rate of true cases that were called, and of others that were not; both bool [N], both classes."""
    return float(calls[truths].mean()), float((~calls[~truths]).mean())
