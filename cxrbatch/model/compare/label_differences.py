"""One label of two models on the images that both scored: which figures differ, and whether that is more than chance.

Start at `compare_label`. AUROCs are tested by DeLong's test with patients kept together (`figures.delong`), rates by
swapping the models' answers patient by patient (`figures.paired`), other figures by the spread of their difference over
the resamples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from cxrbatch.model.compare.paired_record import Difference
from cxrbatch.model.compare.predictions import SharedImages
from cxrbatch.model.figures.bootstrap import Estimate, Resampled, Weights, estimate, resample_figures
from cxrbatch.model.figures.delong import AurocDifference, compare_aurocs, two_sided
from cxrbatch.model.figures.intervals import Patients, auroc_at_edge
from cxrbatch.model.figures.metrics import Calls, Figure, Figures, Mask, measure_figures
from cxrbatch.model.figures.paired import estimate_rate_difference, swap_patients
from cxrbatch.records import FEWEST_PATIENTS, Float32

COMPARED = (Figure.AUROC, Figure.AVERAGE_PRECISION, Figure.SENSITIVITY, Figure.SPECIFICITY)


@dataclass(frozen=True, slots=True)
class Judged:
    """A difference, and what a mean over labels needs of it: its resamples, float64 [B], and, of an AUROC, its test."""

    difference: Difference
    moved: Resampled
    delong: AurocDifference | None = None


@dataclass(frozen=True, slots=True)
class _LabelPair:
    """One label of both models on its known images: `answers` are scores float32 [N] and calls bool [N] of either.

    `figures` and `resampled` are theirs; `counts` are the patients with the finding, and without it.
    """

    label: str
    truths: Mask
    patients: Patients
    answers: tuple[tuple[Float32, Calls | None], tuple[Float32, Calls | None]]
    figures: tuple[Figures, Figures]
    resampled: tuple[dict[Figure, Resampled], dict[Figure, Resampled]]
    counts: tuple[int, int]

    def moved(self, figure: Figure) -> Resampled:
        """Return first - second in the resamples, float64 [B]."""
        own, its = (each.get(figure, np.empty(0)) for each in self.resampled)
        return own - its

    def bare(self, figure: Figure) -> Difference:
        """Return the two values, with nothing said of their difference yet."""
        values, (with_it, without) = (each[figure] for each in self.figures), self.counts
        first, second = values
        return Difference(
            label=self.label,
            figure=figure.value,
            first=first,
            second=second,
            patients_with=with_it,
            patients_without=without,
        )

    def has_too_few(self, figure: Figure) -> bool:
        """Tell whether fewer patients than it takes speak for a figure."""
        asked = {Figure.SENSITIVITY: self.counts[:1], Figure.SPECIFICITY: self.counts[1:]}.get(figure, self.counts)
        return min(asked) < FEWEST_PATIENTS


def compare_label(shared: SharedImages, column: int, weights: Weights) -> dict[Figure, Judged]:
    """Compare a label, by its column and `weights`, uint8 [B,N], of the resamples; nothing where nobody knows it."""
    known = ~np.isnan(shared.targets[:, column])
    if not known.any():
        return {}
    pair = _make_pair(shared, column, known, weights[:, known])
    found = {}
    for figure in COMPARED:
        if figure not in pair.figures[0] or figure not in pair.figures[1]:
            continue
        if pair.has_too_few(figure):
            found[figure] = Judged(pair.bare(figure), np.empty(0))
        elif figure is Figure.AUROC:
            found[figure] = _compare_auroc(pair, shared, column, known)
        elif figure is Figure.AVERAGE_PRECISION:
            moved = pair.moved(figure)
            found[figure] = Judged(judge_by_spread(pair.bare(figure), moved), moved)
        else:
            found[figure] = _compare_rate(pair, figure)
    return found


def _make_pair(shared: SharedImages, column: int, known: Mask, weights: Weights) -> _LabelPair:
    truths, patients = shared.targets[known, column] > 0.5, shared.patients[known]
    first, second = (
        (probabilities[known, column], _calls(calls[known, column]))
        for probabilities, calls in zip(shared.probabilities, shared.calls, strict=True)
    )
    return _LabelPair(
        label=shared.labels[column],
        truths=truths,
        patients=patients,
        answers=(first, second),
        figures=(measure_figures(truths, *first), measure_figures(truths, *second)),
        resampled=(resample_figures(truths, *first, weights), resample_figures(truths, *second, weights)),
        counts=(len(np.unique(patients[truths])), len(np.unique(patients[~truths]))),
    )


def _calls(calls: Float32) -> Calls | None:
    """Return who is called, bool [N]; None where one of the images has no verdict."""
    return None if np.isnan(calls).any() else calls > 0.5


def _compare_auroc(pair: _LabelPair, shared: SharedImages, column: int, known: Mask) -> Judged:
    first, second = (probabilities[:, column] for probabilities in shared.probabilities)
    tested = compare_aurocs(shared.targets[:, column] > 0.5, first, second, shared.patients, known=known)
    moved, bare = pair.moved(Figure.AUROC), pair.bare(Figure.AUROC)
    interval = estimate(bare.first - bare.second, moved)
    if moved.size and {bare.first, bare.second} & {0.0, 1.0}:
        interval = _at_edge(pair, interval)
    return Judged(replace(bare, interval=interval, p=tested.p, test="delong"), moved, tested)


def _at_edge(pair: _LabelPair, drawn: Estimate) -> Estimate:
    """Return a difference's interval where an AUROC is 0 or 1, which is so in every resample.

    The two ends' distances are added as those of independent figures are (MOVER, Zou and Donner 2008): what the
    models have in common would make them smaller.
    """
    first, second = (_auroc_alone(pair, place) for place in (0, 1))
    low = drawn.value - sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2)
    high = drawn.value + sqrt((first.high - first.value) ** 2 + (second.value - second.low) ** 2)
    return Estimate(drawn.value, max(-1.0, min(drawn.low, low)), min(1.0, max(drawn.high, high)))


def _auroc_alone(pair: _LabelPair, place: int) -> Estimate:
    value = pair.figures[place][Figure.AUROC]
    if value in (0.0, 1.0):
        return auroc_at_edge(value, *pair.counts)
    return estimate(value, pair.resampled[place][Figure.AUROC])


def _compare_rate(pair: _LabelPair, figure: Figure) -> Judged:
    among = pair.truths if figure is Figure.SENSITIVITY else ~pair.truths
    first, second = (
        (calls if calls is not None else pair.truths)[among] == pair.truths[among] for _, calls in pair.answers
    )
    moved = pair.moved(figure)
    return Judged(judge_by_swaps(pair.bare(figure), first, second, pair.patients[among], moved), moved)


def judge_by_swaps(bare: Difference, first: Mask, second: Mask, patients: Patients, moved: Resampled) -> Difference:
    """Complete the difference of two shares of right answers, bool [N]."""
    interval = estimate_rate_difference(first, second, patients, moved)
    return replace(bare, interval=interval, p=swap_patients(first, second, patients), test="swaps")


def judge_by_spread(bare: Difference, moved: Resampled) -> Difference:
    """Complete a difference by how it varies over the resamples."""
    value, told = bare.first - bare.second, moved[np.isfinite(moved)]
    p = two_sided(value, float(told.var())) if told.size else None
    return replace(bare, interval=estimate(value, moved), p=p, test="bootstrap")
