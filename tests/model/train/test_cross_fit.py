"""Folds judged by what the others chose: made-up logits, no network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.engine.training_facts import CHOICES
from cxrbatch.model.data.dataset import PreparedImages
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.model.figures.operating_points import parse_operating_point, place_operating_points
from cxrbatch.model.network.pretrained import Init
from cxrbatch.model.train.calibration import Calibration, fit_calibration
from cxrbatch.model.train.checks import Training
from cxrbatch.model.train.cross_fit import FittedFolds, cross_fit
from cxrbatch.model.train.options import TrainingOptions
from cxrbatch.model.train.out_of_fold import OutOfFold, write_out_of_fold
from cxrbatch.model.train.record import NOBODY, TrainingPlan
from cxrbatch.records import Label, Task
from tests.factories.training import make_run, read_out_of_fold

LABELS = ("A", "B")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrbatch.model.train.cross_fit.RESAMPLES", 20)


def draw(seed: int, *, skill: float, images: int = 120, folds: int = 3, labels: tuple[str, ...] = LABELS) -> OutOfFold:
    """Make two images a patient; each fold's network has a scale of its own."""
    generator = np.random.default_rng(seed)
    fold = np.arange(images) // 2 % folds + 1
    targets = (generator.random((images, len(labels))) < 0.4).astype(np.float32)
    logits = (targets - 0.5) * skill + generator.normal(0, 1, targets.shape)
    return OutOfFold(
        labels=labels,
        images=tuple(f"{at}.png" for at in range(images)),
        patients=tuple(f"patient:{at // 2}" for at in range(images)),
        fold=fold.astype(np.int64),
        targets=targets,
        logits=(logits * (0.8 + 0.2 * fold[:, np.newaxis])).astype(np.float32),
    )


def fit(scores: OutOfFold, *, rule: str = "youden", task: Task = "multilabel", keep: str = "last") -> FittedFolds:
    samples = tuple(
        Sample(Path("/data") / image, "train", tuple(map(float, truth)), patient_id=patient)
        for image, truth, patient in zip(scores.images, scores.targets, scores.patients, strict=True)
    )
    images = LabelledImages(Path("/data"), scores.labels, samples, task=task, normal_label="normal")
    plan = TrainingPlan(operating_point=parse_operating_point(rule), architecture="tiny", size_px=64)
    training = Training(
        PreparedImages(images, np.empty((0, 1, 64, 64), np.uint8)),
        Path("model.safetensors"),
        plan,
        TrainingOptions(),
        Init("tiny", "random weights"),
        1,
        NOBODY,
    )
    runs = []
    for number in sorted(set(scores.fold.tolist())):
        labels = tuple(Label(name) for name in scores.labels)
        run = make_run(fold=number, labels=labels, task=task)
        chosen = dict.fromkeys(CHOICES if keep == "best" else CHOICES[1:], "val")
        facts = replace(run.facts, training=replace(run.facts.training, chosen_on=chosen))
        runs.append(replace(run, facts=facts))
    return cross_fit(training, scores, samples, runs, 1)


def test_each_fold_is_judged_by_what_the_others_chose() -> None:
    scores = draw(0, skill=2.0)
    folds = fit(scores)
    for run in folds.runs:
        own = scores.fold == run.fold
        calibration = fit_calibration(scores.logits[~own], scores.targets[~own], "multilabel")
        answers = calibration.probabilities(scores.logits[~own], "multilabel")
        points = place_operating_points(parse_operating_point("youden"), scores.targets[~own], answers)
        assert tuple(label.operating_point for label in run.facts.labels) == points
        expected = calibration.probabilities(scores.logits[own], "multilabel")
        np.testing.assert_array_equal(folds.fitted.probabilities[own], expected)
        for place, point in enumerate(points):
            assert point is not None
            np.testing.assert_array_equal(folds.fitted.calls[own, place] == 1.0, expected[:, place] >= point)
        assert run.facts.training.chosen_on == dict.fromkeys(CHOICES[1:], "other folds")
        assert not run.facts.training.figures_promise_too_much


def test_the_checkpoint_has_what_all_images_chose_and_figures_that_none_of_them_did() -> None:
    scores = draw(1, skill=2.0)
    folds = fit(scores)
    calibration = fit_calibration(scores.logits, scores.targets, "multilabel")
    answers = calibration.probabilities(scores.logits, "multilabel")
    points = place_operating_points(parse_operating_point("youden"), scores.targets, answers)
    assert folds.whole.calibration == calibration
    assert tuple(label.operating_point for label in folds.whole.facts.labels) == points
    training = folds.whole.facts.training
    assert (training.measured_on, training.images["out-of-fold"]) == ("out-of-fold", 120)
    assert not training.figures_promise_too_much
    for place, label in enumerate(folds.whole.measured.labels):
        truths = scores.targets[:, place] == 1.0
        called = folds.fitted.calls[:, place] == 1.0
        assert label.figures[Figure.SENSITIVITY].value == pytest.approx(called[truths].mean())
        of_folds = [run.measured.labels[place].figures[Figure.AUROC].value for run in folds.runs]
        auroc = label.figures[Figure.AUROC]
        assert auroc.value == pytest.approx(np.mean(of_folds))
        assert auroc.low < auroc.value < auroc.high
    kept_best = fit(scores, keep="best").whole.facts.training
    assert kept_best.chosen_by_the_measured == ("epoch",)


def test_scores_of_chance_are_not_made_to_look_better(monkeypatch: pytest.MonkeyPatch) -> None:
    # What calibrates costs most of the time, and chooses nothing here.
    plain = Calibration((1.0, 1.0), (0.0, 0.0))
    monkeypatch.setattr("cxrbatch.model.train.cross_fit.fit_calibration", lambda *_: plain)

    def surplus(measured: dict[Figure, object]) -> float:
        return sum(getattr(measured[figure], "value", 0.0) for figure in (Figure.SENSITIVITY, Figure.SPECIFICITY)) - 1

    honest, flattered = [], []
    for seed in range(12):
        scores = draw(seed, skill=0.0, images=60)
        folds = fit(scores)
        honest.append(surplus(folds.whole.measured.macro))  # type: ignore[arg-type]
        answers = folds.whole.calibration.probabilities(scores.logits, "multilabel")
        for place, label in enumerate(folds.whole.facts.labels):
            truths, called = scores.targets[:, place] == 1.0, answers[:, place] >= (label.operating_point or 2.0)
            flattered.append(called[truths].mean() + (~called[~truths]).mean() - 1)
    assert abs(np.mean(honest)) < 0.08
    assert np.mean(flattered) > 0.1


def test_exclusive_classes_and_a_rate_of_alarms_are_cross_fitted_too() -> None:
    names = ("one", "two", "normal")
    scores = draw(2, skill=0.0, labels=names)
    truth = np.arange(120) % 3
    targets = np.eye(3, dtype=np.float32)[truth]
    classes = replace(scores, targets=targets, logits=(scores.logits + 2 * targets).astype(np.float32))
    whole = fit(classes, task="multiclass").whole
    assert whole.measured.classes is not None
    assert whole.facts.training.figures["accuracy"] == whole.measured.classes.accuracy.value > 0.6

    alarms = fit(draw(3, skill=3.0), rule="alarms=20%").whole
    assert alarms.alarms is not None
    assert alarms.alarms.normal_studies == int((draw(3, skill=3.0).targets == 0).all(axis=1).sum())
    assert alarms.facts.training.figures["alarm_rate"] == alarms.alarms.rate.value < 0.5


def test_a_label_without_a_point_in_one_fold_is_not_judged(tmp_path: Path) -> None:
    scores = draw(4, skill=2.0)
    # All of those with B are in the first fold: without it nobody could choose a point.
    scores.targets[:, 1] = np.where((scores.fold == 1) & (np.arange(120) % 4 < 2), 1.0, 0.0)
    folds = fit(scores)
    label = folds.whole.measured.labels[1]
    assert folds.whole.facts.labels[1].operating_point is not None
    assert Figure.SENSITIVITY not in label.figures
    write_out_of_fold(tmp_path, scores, folds.fitted)
    assert "0.png,patient:0,1," in (tmp_path / "out-of-fold.csv").read_text()


def test_the_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    scores = draw(5, skill=1.0, labels=("=A", "B|c"))
    scores.targets[3, 0] = np.nan
    write_out_of_fold(tmp_path, scores, fit(scores).fitted)
    found = read_out_of_fold(tmp_path)
    assert (found.labels, found.images, found.patients) == (scores.labels, scores.images, scores.patients)
    for name in ("fold", "targets", "logits"):
        np.testing.assert_array_equal(getattr(found, name), getattr(scores, name))
