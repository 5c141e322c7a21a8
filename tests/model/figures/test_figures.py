"""Labels, their mean, a multi-class task as a whole, and subgroups, on images that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxrbatch.model.data.labelled import Sample, age_band
from cxrbatch.model.figures.bootstrap import draw_resamples
from cxrbatch.model.figures.figures import LabelledScores, make_calls, measure_labels, measure_subgroups, quantiles
from cxrbatch.model.figures.metrics import Figure
from cxrbatch.records import Label, Task

NAN = float("nan")


def scores(
    targets: list[list[float]],
    probabilities: list[list[float]],
    points: tuple[float | None, ...],
    task: Task = "multilabel",
    resamples: int = 20,
    times: int = 1,
) -> LabelledScores:
    """Set scores beside truth; every image comes so many times, of another patient each."""
    targets, probabilities = targets * times, probabilities * times
    labels = tuple(Label(name, point) for name, point in zip("ABCD", points, strict=False))
    answered = np.array(probabilities, np.float32)
    likeliest = answered.argmax(axis=1).astype(np.int64)
    return LabelledScores(
        labels=labels,
        task=task,
        targets=np.array(targets, np.float32),
        probabilities=answered,
        calls=make_calls(labels, task, answered),
        classes=likeliest if task == "multiclass" else np.empty(0, np.int64),
        weights=draw_resamples([str(image) for image in range(len(targets))], count=resamples, seed=0),
    )


def test_unknown_targets_are_left_out_label_by_label() -> None:
    found = measure_labels(
        scores(
            [[1, NAN], [0, 1], [NAN, 0], [1, 0]], [[0.9, 0.9], [0.2, 0.8], [0.9, 0.7], [0.1, 0.1]], (0.5, None), times=5
        )
    )
    first, second = found.labels
    assert (first.images, first.positives, second.images, second.positives) == (15, 10, 15, 5)
    assert first.figures[Figure.AUROC].value == 0.5
    assert second.figures[Figure.AUROC].value == 1.0
    assert found.macro[Figure.AUROC].value == 0.75
    # No operating point, no verdict: the mean is over the first label alone.
    assert Figure.SENSITIVITY not in second.figures
    assert found.macro[Figure.SENSITIVITY].value == 0.5
    assert found.classes is None


def test_a_label_that_is_never_known_is_not_measured() -> None:
    found = measure_labels(scores([[1, NAN], [0, NAN]], [[0.9, 0.5], [0.2, 0.5]], (0.5, 0.5)))
    assert [label.label for label in found.labels] == ["A"]


def test_an_operating_point_is_reached_at_its_very_value() -> None:
    point = float(np.float32(0.3))
    (calls,) = make_calls([Label("A", point)], "binary", np.array([[0.3], [0.29]], np.float32))
    assert calls is not None
    assert calls.tolist() == [True, False]


def test_classes_are_answered_by_the_likeliest_one() -> None:
    found = measure_labels(
        scores(
            [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [NAN, NAN, NAN]],
            [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.1, 0.4], [1, 0, 0]],
            (0.5, 0.9, 0.3),
            "multiclass",
        )
    )
    assert found.classes is not None
    assert found.classes.confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 0))
    assert found.classes.images == 4
    assert found.classes.accuracy.value == 0.5
    assert found.classes.accuracy.low < 0.5 < found.classes.accuracy.high
    assert found.classes.balanced_accuracy == pytest.approx((0.5 + 1 + 0) / 3)
    first, _, third = found.labels
    assert first.figures[Figure.SENSITIVITY].value == 0.5
    # 0.4 reaches the third class's own point, but another is likelier, and one image is one class.
    assert third.figures[Figure.SENSITIVITY].value == 0.0


def test_a_class_that_nobody_may_judge_has_no_figures_of_a_verdict() -> None:
    found = measure_labels(scores([[1, 0], [0, 1]], [[0.9, 0.1], [0.2, 0.8]], (None, 0.5), "multiclass"))
    assert Figure.SENSITIVITY not in found.labels[0].figures
    assert found.labels[1].figures[Figure.SENSITIVITY].value == 1.0


def test_quantiles_rise_from_the_lowest_score_to_the_highest() -> None:
    found = quantiles(np.array([0.5, 0.1, 0.123456, 0.9], np.float32))
    assert (len(found), found[0], found[-1]) == (101, 0.1, 0.9)
    assert list(found) == sorted(found)
    assert found[50] == pytest.approx(np.median([0.5, 0.1, 0.123456, 0.9]), rel=1e-3)


def test_subgroups_count_images_and_patients_and_measure_them_alone() -> None:
    people = [("p1", "F", 30.0), ("p1", "F", 31.0), ("p2", "M", 65.0), ("p3", "M", None), ("p4", "F", 85.0)]
    samples = [
        Sample(Path(f"{at}.png"), "test", (0.0,), patient_id=patient, sex=sex, age=age, view="PA")
        for at, (patient, sex, age) in enumerate(people)
    ]
    samples = [
        replace(sample, patient_id=f"{sample.patient_id}-{time}", path=Path(f"{time}-{sample.path}"))
        for time in range(5)
        for sample in samples
    ]
    groups = measure_subgroups(
        scores([[1], [0], [1], [0], [1]], [[0.9], [0.1], [0.2], [0.8], [0.7]], (0.5,), times=5), samples
    )
    counted = {(group.column, group.group): (group.images, group.patients) for group in groups}
    assert counted == {
        ("sex", "F"): (15, 10),
        ("sex", "M"): (10, 10),
        ("age", "18-39"): (10, 5),
        ("age", "60-79"): (5, 5),
        ("age", "80+"): (5, 5),
        ("age", "unknown"): (5, 5),
    }
    assert [group.group for group in groups if group.column == "age"] == ["18-39", "60-79", "80+", "unknown"]
    by_sex = {group.group: group.measured.labels[0].figures for group in groups if group.column == "sex"}
    assert (by_sex["F"][Figure.AUROC].value, by_sex["M"][Figure.AUROC].value) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("age", "band"),
    [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (79.5, "60-79"), (80, "80+"), (None, "unknown"), (NAN, "unknown")],
)
def test_age_bands(age: float | None, band: str) -> None:
    assert age_band(age) == band


def test_too_few_patients_measure_no_ranking_however_many_images_they_bring() -> None:
    # One patient with the finding, four images of her: 0.93 from one patient is no figure.
    targets, answered = [[1.0]] * 4 + [[0.0]] * 15, [[0.8]] * 4 + [[0.9]] + [[0.1]] * 14
    cases = scores(targets, answered, (0.5,))
    one_patient = replace(cases, patients=np.array([0] * 4 + [*range(1, 16)]))
    (of_one,), (of_four,) = measure_labels(one_patient).labels, measure_labels(cases).labels
    for found, patients in ((of_one, 1), (of_four, 4)):
        assert (found.too_few, found.patients_with, found.patients_without, found.positives) == (True, patients, 15, 4)
        assert not {Figure.AUROC, Figure.AVERAGE_PRECISION} & set(found.figures)
    assert of_one.figures[Figure.SENSITIVITY].low < 0.21 < of_four.figures[Figure.SENSITIVITY].low
    (of_five,) = measure_labels(scores(targets[:1] * 5 + targets[4:], answered[:1] * 5 + answered[4:], (0.5,))).labels
    assert not of_five.too_few
    assert of_five.figures[Figure.AUROC].value == pytest.approx(14 / 15)


def test_several_labels_at_the_edge_have_no_certain_mean() -> None:
    found = measure_labels(
        scores([[1.0, 1.0]] * 15 + [[0.0, 0.0]] * 15, [[0.9, 0.9]] * 15 + [[0.1, 0.1]] * 15, (0.5, 0.5))
    )
    mean, first = found.macro[Figure.SENSITIVITY], found.labels[0].figures[Figure.SENSITIVITY]
    assert (first.value, mean.value, mean.high) == (1.0, 1.0, 1.0)
    assert first.low == pytest.approx(0.796, abs=1e-3)
    # Two independent labels of 15 each tell as much as one of 30, or a little less.
    assert first.low < mean.low < 0.8866
    assert found.macro[Figure.AUROC].low < 0.95
    assert found.macro[Figure.F1].low < 0.95


def test_the_accuracy_of_classes_is_wilsons_at_the_edge() -> None:
    right = scores(
        [[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 5, [[0.9, 0.1]] * 10 + [[0.2, 0.8]] * 5, (None, None), "multiclass"
    )
    classes = measure_labels(right).classes
    assert classes is not None
    assert (classes.accuracy.value, classes.accuracy.high) == (1.0, 1.0)
    assert classes.accuracy.low == pytest.approx(0.796, abs=1e-3)
