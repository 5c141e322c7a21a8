"""Calibration, operating points and figures of folds, cross-fitted. Start at `cross_fit`.

Each image is scored once by a network that did not learn from it. One calibration and one set of operating points are
fitted to all of these scores: several times as many as one fold has, and they become the checkpoint's. No image may
measure what it chose, so the figures are of something else: each fold is judged with a calibration and points that
the other folds chose (Stone 1974). Logits are pooled as they are, before calibration: networks of one recipe come
out on about the same scale, and what they differ by makes the calibration a little more careful.

How well images are ranked is measured within each fold and averaged (Forman and Scholz 2010): scores of two networks
put in one order would measure how alike their scales are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrbatch.engine.training_facts import CHOICES
from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.data.urgent import mark_urgent
from cxrbatch.model.figures.alarms import Alarms, ImagesByStudy, measure_alarms
from cxrbatch.model.figures.bootstrap import Estimate, draw_resamples
from cxrbatch.model.figures.figures import (
    RANKING,
    LabelledScores,
    MeasuredLabels,
    judge_scores,
    make_calls,
    measure_labels,
    number_patients,
)
from cxrbatch.model.figures.intervals import widen_mean
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.train.calibration import Calibration, fit_calibration
from cxrbatch.model.train.checks import Training
from cxrbatch.model.train.describe import RESAMPLES, alarm_figures, overall_figures, place_points, with_metrics
from cxrbatch.model.train.out_of_fold import CrossFitted, OutOfFold
from cxrbatch.model.train.record import TrainingRun
from cxrbatch.records import Float32, Label, likeliest_class

OUT_OF_FOLD, OTHER_FOLDS = "out-of-fold", "other folds"
"""What a checkpoint calls the images that measure it, and those that chose how they are judged."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A calibration, the labels with operating points, and what these come to for a rate of alarms."""

    calibration: Calibration
    labels: tuple[Label, ...]
    alarms: Alarms | None


@dataclass(frozen=True, slots=True)
class FittedFolds:
    """The folds' runs, each judged by what the others chose; that of all images together; and what was made of them.

    `whole` has the calibration and the operating points that all images chose, and figures that are cross-fitted.
    """

    runs: tuple[TrainingRun, ...]
    whole: TrainingRun
    fitted: CrossFitted


def cross_fit(
    training: Training, scores: OutOfFold, samples: Sequence[Sample], runs: Sequence[TrainingRun], chosen: int
) -> FittedFolds:
    """Choose calibration and operating points on the scores of all folds, and measure without choosing.

    Args:
        training: one of the folds', for its plan and labels.
        scores: of all images outside of the test part.
        samples: these images, in the same order.
        runs: one per fold, in their order.
        chosen: the place of the run whose network becomes the checkpoint.
    """
    probabilities, calls = np.zeros_like(scores.logits), np.full_like(scores.logits, np.nan)
    judged = []
    for run in runs:
        own = scores.fold == run.fold
        others = _choose(training, scores, samples, ~own)
        probabilities[own] = others.calibration.probabilities(scores.logits[own], training.images.task)
        for place, called in enumerate(make_calls(others.labels, training.images.task, probabilities[own])):
            if called is not None:
                calls[own, place] = called
        judged.append(_judge(run, others, scores, probabilities, own))
    fitted = CrossFitted(probabilities, calls)
    of_all = _choose(training, scores, samples, np.ones(len(samples), bool))
    measured = _measure_all(of_all.labels, training, scores, fitted, [run.measured for run in judged])
    alarms = _cross_fit_alarms(of_all, fitted, scores, samples)
    whole = _as_whole(runs[chosen], replace(of_all, alarms=alarms), measured, scores)
    return FittedFolds(tuple(judged), whole, fitted)


def _choose(training: Training, scores: OutOfFold, samples: Sequence[Sample], among: np.ndarray) -> _Chosen:
    """Let some of the images, bool [N], choose."""
    task, plan = training.images.task, training.plan
    calibration = fit_calibration(scores.logits[among], scores.targets[among], task)
    labels = mark_urgent(training.untrained.labels, plan.urgent)
    choosing = [sample for sample, chooses in zip(samples, among.tolist(), strict=True) if chooses]
    answers = calibration.probabilities(scores.logits[among], task)
    points, alarms = place_points(plan.operating_point, labels, choosing, answers)
    placed = tuple(replace(label, operating_point=point) for label, point in zip(labels, points, strict=True))
    return _Chosen(calibration, placed, alarms)


def _judge(
    run: TrainingRun, others: _Chosen, scores: OutOfFold, probabilities: Float32, own: np.ndarray
) -> TrainingRun:
    """Measure a fold's own images, bool [N], with what the others chose."""
    patients = [patient for patient, inside in zip(scores.patients, own.tolist(), strict=True) if inside]
    weights = draw_resamples(patients, count=RESAMPLES, seed=0)
    judged = judge_scores(others.labels, run.facts.task, scores.targets[own], probabilities[own], patients, weights)
    measured = measure_labels(judged)
    facts = run.facts
    chosen_on = _chosen_on(run, facts.training.measured_on)
    training = replace(facts.training, figures=dict(overall_figures(measured)), chosen_on=chosen_on)
    labels = with_metrics(others.labels, measured, probabilities[own])
    return replace(
        run,
        calibration=others.calibration,
        measured=measured,
        alarms=None,
        facts=replace(facts, labels=labels, training=training),
    )


def _chosen_on(run: TrainingRun, measured_on: str) -> dict[str, str]:
    """Say which images chose what, where other folds chose how the measured ones are judged."""
    epoch = {CHOICES[0]: measured_on} if CHOICES[0] in run.facts.training.chosen_by_the_measured else {}
    return epoch | dict.fromkeys(CHOICES[1:], OTHER_FOLDS)


def _measure_all(
    labels: Sequence[Label],
    training: Training,
    scores: OutOfFold,
    fitted: CrossFitted,
    folds: Sequence[MeasuredLabels],
) -> MeasuredLabels:
    """Measure all images with what other folds chose for each; how they are ranked within each fold."""
    task, probabilities = training.images.task, fitted.probabilities
    without_verdict = [bool(np.isnan(column).any()) for column in fitted.calls.T]
    likeliest = [likeliest_class(labels, row) or 0 for row in probabilities.tolist()]
    measured = measure_labels(
        LabelledScores(
            labels=tuple(labels),
            task=task,
            targets=scores.targets,
            probabilities=probabilities,
            calls=tuple(
                None if unknown else fitted.calls[:, place] > 0.5 for place, unknown in enumerate(without_verdict)
            ),
            classes=np.array(likeliest, np.int64) if task == "multiclass" else np.empty(0, np.int64),
            weights=draw_resamples(scores.patients, count=RESAMPLES, seed=0),
            patients=number_patients(scores.patients),
        )
    )
    return _rank_within(measured, folds)


def _rank_within(measured: MeasuredLabels, folds: Sequence[MeasuredLabels]) -> MeasuredLabels:
    """Put the mean over the folds in the place of AUROC and average precision over all images."""
    by_label = [{label.label: label.figures for label in fold.labels} for fold in folds]

    def averaged(figures: dict[Figure, Estimate], of_folds: Sequence[dict[Figure, Estimate]]) -> dict[Figure, Estimate]:
        found = dict(figures)
        for figure in RANKING:
            parts = [each[figure] for each in of_folds if figure in each]
            if parts and figure in found:
                mean = float(np.mean([part.value for part in parts]))
                # Folds share no patient, so their intervals add up as those of independent figures.
                found[figure] = widen_mean(Estimate(mean, mean, mean), parts)
        return found

    labels = tuple(
        replace(label, figures=averaged(label.figures, [each.get(label.label, {}) for each in by_label]))
        for label in measured.labels
    )
    return replace(measured, labels=labels, macro=averaged(measured.macro, [fold.macro for fold in folds]))


def _cross_fit_alarms(
    of_all: _Chosen, fitted: CrossFitted, scores: OutOfFold, samples: Sequence[Sample]
) -> Alarms | None:
    """Say what a rate of alarms comes to where other folds chose the points."""
    if of_all.alarms is None:
        return None
    findings = [place for place, label in enumerate(of_all.labels) if not label.normal]
    raised = (fitted.calls[:, findings] == 1.0).any(axis=1)
    studies = [sample.study_key() for sample in samples]
    by_study = ImagesByStudy(scores.targets, fitted.probabilities, studies, scores.patients)
    return measure_alarms(of_all.alarms, of_all.labels, by_study, raised)


def _as_whole(run: TrainingRun, of_all: _Chosen, measured: MeasuredLabels, scores: OutOfFold) -> TrainingRun:
    """Describe the checkpoint: one fold's network with what all images chose, and figures that nobody chose."""
    facts, images = run.facts, len(scores.images)
    training = replace(
        facts.training,
        figures=dict(overall_figures(measured)) | alarm_figures(of_all.alarms),
        images=facts.training.images | {OUT_OF_FOLD: images},
        measured_on=OUT_OF_FOLD,
        chosen_on=_chosen_on(run, OUT_OF_FOLD),
    )
    answers = of_all.calibration.probabilities(scores.logits, facts.task)
    return replace(
        run,
        calibration=of_all.calibration,
        measured=measured,
        alarms=of_all.alarms,
        facts=replace(facts, labels=with_metrics(of_all.labels, measured, answers), training=training),
    )
