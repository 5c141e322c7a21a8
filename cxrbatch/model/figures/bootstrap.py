"""95 % intervals by the bootstrap over patients (Efron and Tibshirani 1993).

Images of one patient resemble each other, so patients are drawn, with all of their images, not images. A resample
is a column of weights: how often each image is in it. Every figure is a sum over weighted images, and AUROC one
over ranks, so that all resamples of a label are a few array operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbatch.model.figures.metrics import CALIBRATION_BINS, Calls, Figure, Figures, Truths, calibration_bin
from cxrbatch.records import Float32

Weights = NDArray[np.uint8]
Resampled = NDArray[np.float64]

COVERAGE = 0.95
_WEIGHTS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval, which is the figure itself where nothing was resampled."""

    value: float
    low: float
    high: float

    @classmethod
    def stored(cls, figures: Mapping[str, float], name: str) -> Estimate | None:
        """Return the estimate that figures by name hold as NAME, NAME_low and NAME_high; None where they lack it."""
        if name not in figures:
            return None
        value = figures[name]
        return cls(value, figures.get(f"{name}_low", value), figures.get(f"{name}_high", value))


def draw_resamples(patients: Sequence[str], *, count: int, seed: int) -> Weights:
    """Draw patients with replacement, as many as there are, `count` times.

    Args:
        patients: who is on each of the N images.
        count: how many resamples.
        seed: where chance comes from.

    Returns:
        uint8 [count,N]: how often each image is in each resample; the same number for all images of a patient.
    """
    _, patient_of_image = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    n_patients = int(patient_of_image.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=count)
    # That anybody is drawn more than 255 times in as many draws as there are patients does not happen.
    return np.minimum(drawn, 255).astype(np.uint8)[:, patient_of_image]


def resample_figures(
    truths: Truths, probabilities: Float32, calls: Calls | None, weights: Weights
) -> dict[Figure, Resampled]:
    """Measure one label in every resample; nan where a resample cannot tell a figure.

    Args:
        truths: bool [N].
        probabilities: float32 [N], 0..1.
        calls: bool [N], or None where the label has no operating point.
        weights: uint8 [B,N], of `draw_resamples`.

    Returns:
        Per figure float64 [B].
    """
    order = np.argsort(probabilities, kind="stable")
    truths, probabilities = truths[order], probabilities[order]
    calls = None if calls is None else calls[order]
    parts = [_measure_part(truths, probabilities, calls, part) for part in _parts(weights, order)]
    return {figure: np.concatenate([part[figure] for part in parts]) for figure in parts[0]} if parts else {}


def resample_mean(values: NDArray[np.float64], weights: Weights) -> Resampled:
    """Return the mean of one value per image, float64 [N], in every resample: float64 [B]."""
    every_image = np.arange(len(values))
    parts = (_share(part @ values, part.sum(axis=1)) for part in _parts(weights, every_image))
    return np.concatenate([np.empty(0), *parts])


def estimate(value: float, resampled: Resampled) -> Estimate:
    """Return a figure with the interval that holds the middle 95 % of its resamples (percentile method).

    Resamples that could not tell the figure are left out. Some figures (the calibration error above all) are
    larger in every resample than in the data; the interval is widened to hold the figure itself.
    """
    told = resampled[np.isfinite(resampled)]
    if not told.size:
        return Estimate(value, value, value)
    low, high = np.quantile(told, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def estimate_figures(figures: Figures, resampled: Mapping[Figure, Resampled]) -> dict[Figure, Estimate]:
    """Return every figure with its interval."""
    nothing = np.empty(0)
    return {figure: estimate(value, resampled.get(figure, nothing)) for figure, value in figures.items()}


def average_resampled(resampled: Sequence[Resampled]) -> Resampled:
    """Return the mean over labels in every resample, float64 [B], of the labels that could be told there."""
    stacked = np.stack(resampled)
    told = np.isfinite(stacked)
    return _share(np.where(told, stacked, 0.0).sum(axis=0), told.sum(axis=0))


def _parts(weights: Weights, order: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Yield the weights in the images' order, some resamples at a time, so that memory stays small."""
    rows = max(1, _WEIGHTS_AT_ONCE // max(1, weights.shape[1]))
    for start in range(0, len(weights), rows):
        yield weights[start : start + rows, order].astype(np.float64)


def _measure_part(
    truths: Truths, probabilities: Float32, calls: Calls | None, weights: NDArray[np.float64]
) -> dict[Figure, Resampled]:
    total = weights.sum(axis=1)
    error = (probabilities.astype(np.float64) - truths) ** 2
    auroc, average_precision = _rank_figures(truths, probabilities, weights)
    figures = {
        Figure.AUROC: auroc,
        Figure.AVERAGE_PRECISION: average_precision,
        Figure.BRIER: _share(weights @ error, total),
        Figure.CALIBRATION_ERROR: _share(_calibration_gap(truths, probabilities, weights), total),
    }
    return figures if calls is None else figures | _call_figures(truths, calls, weights)


def _rank_figures(truths: Truths, probabilities: Float32, weights: NDArray[np.float64]) -> tuple[Resampled, Resampled]:
    """Return AUROC and average precision of images in rising order of probability; tied images form one step."""
    steps = np.flatnonzero(np.diff(probabilities, prepend=-1.0))
    positive = np.add.reduceat(weights * truths, steps, axis=1)
    negative = np.add.reduceat(weights * ~truths, steps, axis=1)
    positives, negatives = positive.sum(axis=1), negative.sum(axis=1)
    # A pair counts where the positive image is higher, half where both tie (Mann and Whitney 1947).
    below = np.cumsum(negative, axis=1) - negative / 2
    auroc = _share((positive * below).sum(axis=1), positives * negatives)
    # From the top: the share of true images among all admitted so far, weighed by the true ones of each step.
    found = np.cumsum(positive[:, ::-1], axis=1)
    admitted = found + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(found, admitted, out=np.zeros_like(found), where=admitted > 0)
    gained = (positive[:, ::-1] * precision).sum(axis=1)
    return auroc, np.where(negatives > 0, _share(gained, positives), np.nan)


def _call_figures(truths: Truths, calls: Calls, weights: NDArray[np.float64]) -> dict[Figure, Resampled]:
    hits, misses = weights @ (truths & calls), weights @ (truths & ~calls)
    false_alarms, passes = weights @ (~truths & calls), weights @ (~truths & ~calls)
    return {
        Figure.SENSITIVITY: _share(hits, hits + misses),
        Figure.SPECIFICITY: _share(passes, passes + false_alarms),
        Figure.PPV: _share(hits, hits + false_alarms),
        Figure.NPV: _share(passes, passes + misses),
        Figure.F1: np.where(hits + misses > 0, _share(2 * hits, 2 * hits + misses + false_alarms), np.nan),
    }


def _calibration_gap(truths: Truths, probabilities: Float32, weights: NDArray[np.float64]) -> Resampled:
    """Return the sum over bins of |sum of probabilities - number of true images|."""
    in_bin = calibration_bin(probabilities)[:, np.newaxis] == np.arange(CALIBRATION_BINS)
    surplus = (probabilities.astype(np.float64) - truths)[:, np.newaxis] * in_bin
    return np.asarray(np.abs(weights @ surplus).sum(axis=1), np.float64)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> Resampled:
    share: Resampled = np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)
    return share
