"""Which of two models is better on the very same images, figure by figure, and whether that is more than chance.

Start at `compare_pairs`. Both models are measured on the same resamples of the same patients, so that what makes an
image hard for both is in no interval. What differs of one label is told in `label_differences`; of all labels here. All
p of means and all p of single labels are each adjusted for how many there are (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import sqrt
from pathlib import Path

import numpy as np

from cxrbatch.model.compare.compared_runs import EvaluatedRun
from cxrbatch.model.compare.label_differences import COMPARED, Judged, compare_label, judge_by_spread, judge_by_swaps
from cxrbatch.model.compare.paired_record import ACCURACY, OVERALL, Difference, PairedModels, Verdict
from cxrbatch.model.compare.predictions import Predictions, SharedImages, read_predictions, share_images
from cxrbatch.model.figures.bootstrap import Estimate, Weights, average_resampled, draw_resamples, resample_mean
from cxrbatch.model.figures.delong import compare_mean_aurocs
from cxrbatch.model.figures.metrics import Figure, Mask
from cxrbatch.model.figures.paired import adjust_holm
from cxrbatch.pages.retelling import kept, nkept
from cxrbatch.records import FEWEST_PATIENTS, likeliest_class

RESAMPLES = 1000
SIGNIFICANT = 0.05


def compare_pairs(
    runs: Sequence[EvaluatedRun], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[tuple[PairedModels, ...], tuple[str, ...]]:
    """Compare every two evaluations on the images that both scored.

    Args:
        runs: the evaluations; of each pair the one that comes first here is the first.
        resamples: of the bootstrap over patients.
        seed: where chance comes from.

    Returns:
        The pairs, and which evaluations could not be compared since their predictions are gone.

    Raises:
        UsageError: a table of predictions cannot be read.
    """
    read = [(run, name, read_predictions(Path(run.run))) for run, name in zip(runs, _names(runs), strict=True)]
    gone = tuple(name for _, name, predictions in read if predictions is None)
    there = [(run, name, predictions) for run, name, predictions in read if predictions is not None]
    pairs = [_compare(first, second, resamples=resamples, seed=seed) for first, second in combinations(there, 2)]
    return _adjust(pairs), gone


def _names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return the models' names; where two are called the same, the folders of their evaluations."""
    names = [run.evaluation.model.name for run in runs]
    return [run.run if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


_Named = tuple[EvaluatedRun, str, Predictions]


def _compare(first: _Named, second: _Named, *, resamples: int, seed: int) -> PairedModels:
    shared = share_images(first[2], second[2])
    weights = np.empty((0, 0), np.uint8)
    if shared.patient_keys:
        weights = draw_resamples(shared.patient_keys, count=resamples, seed=seed)
    classes = _class_answers((first[0], second[0]), shared) if shared.patient_keys else None
    return PairedModels(
        first=first[1],
        second=second[1],
        images=len(shared.patient_keys),
        patients=len(shared.known_patients),
        of_unknown=shared.of_unknown,
        clusters=len(set(shared.patient_keys)),
        only_first=shared.only_first,
        only_second=shared.only_second,
        cautions=tuple(_find_cautions(first, second, shared)),
        differences=tuple(_differences(shared, weights, classes)) if shared.patient_keys else (),
        resamples=resamples,
        seed=seed,
    )


def _find_cautions(first: _Named, second: _Named, shared: SharedImages) -> Iterator[str]:
    """Yield what makes this pair's differences say less than they seem to."""
    for run, name, _ in (first, second):
        if any(caution.severity == "void" for caution in run.evaluation.cautions):
            yield kept("{name} knows these patients, so that a difference in its favour says nothing.").format(
                name=name
            )
        elif run.evaluation.data.chosen_by:
            yield kept("Some of these images also chose thresholds or epoch of {name}, which favours it.").format(
                name=name
            )
    data = [run.evaluation.data for run, _, _ in (first, second)]
    roots = sorted({Path(each.root).name for each in data})
    if len(roots) > 1 and shared.patient_keys:
        matched = kept("The images are of data called {names}: they were matched by file name and patient.")
        yield matched.format(names=" and ".join(roots))
    if shared.contradictions:
        yield nkept(
            "The two evaluations contradict each other in what is true, {count} time: left out.",
            "The two evaluations contradict each other in what is true, {count} times: left out.",
            shared.contradictions,
        ).format(count=shared.contradictions)


def _class_answers(runs: tuple[EvaluatedRun, EvaluatedRun], shared: SharedImages) -> tuple[Mask, Mask, Mask] | None:
    """Return, of two models of the same classes, who answers rightly and on which images that is known, bool [N]."""
    models = [run.evaluation.model for run in runs]
    if any(model.task != "multiclass" or {each.name for each in model.labels} != {*shared.labels} for model in models):
        return None
    known = (shared.targets == 1.0).sum(axis=1) == 1
    truths = np.nan_to_num(shared.targets).argmax(axis=1)
    right = []
    for model, probabilities in zip(models, shared.probabilities, strict=True):
        labels = sorted(model.labels, key=lambda label: shared.labels.index(label.name))
        answers = np.array([likeliest_class(labels, row) for row in probabilities.tolist()], dtype=object)
        right.append(np.asarray(answers == truths, np.bool_))
    return (right[0], right[1], known) if known.any() else None


def _differences(
    shared: SharedImages, weights: Weights, classes: tuple[Mask, Mask, Mask] | None
) -> Iterator[Difference]:
    by_label = [compare_label(shared, column, weights) for column in range(len(shared.labels))]
    if len(shared.labels) > 1:
        for figure in COMPARED:
            parts = [found[figure] for found in by_label if figure in found and found[figure].moved.size]
            if mean := _compare_means(figure, parts, shared):
                yield mean
    if classes is not None:
        yield _compare_accuracy(shared, classes, weights)
    for found in by_label:
        yield from (judged.difference for judged in found.values())


# --------------------------------------------------------------------------- over all labels


def _compare_means(figure: Figure, parts: Sequence[Judged], shared: SharedImages) -> Difference | None:
    """Compare the means over the labels that enough patients speak for; None where these are fewer than two."""
    if len(parts) < 2:
        return None
    each = [part.difference for part in parts]
    first, second = (float(np.mean([getattr(one, side) for one in each])) for side in ("first", "second"))
    bare = Difference(label=OVERALL, figure=figure.value, first=first, second=second)
    found = judge_by_spread(bare, average_resampled([part.moved for part in parts]))
    found = replace(found, interval=_widen(found.interval, [one.interval for one in each if one.interval is not None]))
    tested = [part.delong for part in parts if part.delong is not None]
    if len(tested) == len(parts):
        return replace(found, p=compare_mean_aurocs(tested, shared.patients), test="delong")
    return found


def _widen(mean: Estimate | None, parts: Sequence[Estimate]) -> Estimate | None:
    """Let the interval of a mean be at least as wide as independent labels make it (MOVER, Zou and Donner 2008)."""
    if mean is None or not parts:
        return mean
    down = sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    up = sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return Estimate(mean.value, min(mean.low, mean.value - down), max(mean.high, mean.value + up))


def _compare_accuracy(shared: SharedImages, classes: tuple[Mask, Mask, Mask], weights: Weights) -> Difference:
    first, second, known = classes
    right, patients = (first[known], second[known]), shared.patients[known]
    bare = Difference(label=OVERALL, figure=ACCURACY, first=float(right[0].mean()), second=float(right[1].mean()))
    if len(np.unique(patients)) < FEWEST_PATIENTS:
        return bare
    moved = resample_mean(right[0].astype(np.float64) - right[1], weights[:, known])
    return judge_by_swaps(bare, *right, patients, moved)


# --------------------------------------------------------------------------- verdicts


def _adjust(pairs: Sequence[PairedModels]) -> tuple[PairedModels, ...]:
    """Adjust every p for how many there are of its kind, over all pairs, and say what was shown."""
    adjusted: dict[tuple[int, int], float] = {}
    tests = {}
    for overall in (True, False):
        places = [
            (number, at)
            for number, pair in enumerate(pairs)
            for at, each in enumerate(pair.differences)
            if each.p is not None and (each.label == OVERALL) == overall
        ]
        found = adjust_holm([pairs[number].differences[at].p or 0.0 for number, at in places])
        adjusted |= dict(zip(places, found, strict=True))
        tests[overall] = len(places)
    return tuple(
        replace(
            pair,
            differences=tuple(_conclude(each, adjusted.get((number, at))) for at, each in enumerate(pair.differences)),
            tests_overall=tests[True],
            tests_of_labels=tests[False],
        )
        for number, pair in enumerate(pairs)
    )


def _conclude(difference: Difference, adjusted: float | None) -> Difference:
    """Say who is better only where the test and the interval agree."""
    if adjusted is None or difference.interval is None:
        return difference
    return replace(difference, adjusted=adjusted, verdict=_verdict(difference.interval, adjusted))


def _verdict(interval: Estimate, adjusted: float) -> Verdict:
    if adjusted >= SIGNIFICANT or interval.low <= 0.0 <= interval.high:
        return "none"
    return "first" if interval.value > 0.0 else "second"
