"""The worklist is measured by study, on lists that can be counted by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cxrbatch.model.evaluate.worklist import WorklistFigures, measure_worklist
from cxrbatch.model.figures.bootstrap import draw_resamples
from cxrbatch.model.figures.figures import judge_scores
from cxrbatch.model.figures.intervals import wilson
from cxrbatch.records import Label, Task, VerdictRule

NAN = float("nan")
TWO = (Label("A", 0.5), Label("B", 0.5, urgent=True))
CLASSES = (Label("covid", 0.5), Label("normal", 0.5, normal=True), Label("other", 0.5))


def measure(
    labels: tuple[Label, ...],
    cases: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    task: Task = "multilabel",
    studies: list[str] | None = None,
    resamples: int = 50,
    seed: int = 0,
) -> WorklistFigures:
    """Measure cases of (targets, probabilities), one image a study unless told, one study a patient."""
    names = studies or [str(at) for at in range(len(cases))]
    targets, probabilities = (np.array([case[at] for case in cases], np.float32) for at in (0, 1))
    weights = draw_resamples(names, count=resamples, seed=0)
    rule: VerdictRule = "argmax" if task == "multiclass" else "threshold"
    found = measure_worklist(judge_scores(labels, task, targets, probabilities, names, weights), rule, names, seed=seed)
    assert found is not None
    return found


def test_any_finding_counts_whichever_label_raises_the_alarm() -> None:
    found = measure(
        TWO,
        [
            ([1, 0], [0.9, 0.1]),  # found
            ([1, 0], [0.1, 0.9]),  # an alarm for another finding is an alarm
            ([0, 1], [0.1, 0.2]),  # missed
            ([0, 0], [0.1, 0.7]),  # a false alarm
            *[([0, 0], [0.1, 0.1])] * 3,
            ([0, NAN], [0.9, 0.9]),  # nobody knows
            ([1, NAN], [0.9, 0.9]),  # one finding is enough to know
        ],
    )
    assert (found.studies, found.with_finding, found.without, found.unknown) == (8, 4, 4, 1)
    assert found.sensitivity is not None and found.specificity is not None and found.false_alarms_per_100 is not None
    assert (found.sensitivity.value, found.specificity.value) == (0.75, 0.75)
    assert (found.specificity.low, found.specificity.high) == pytest.approx(wilson(0.75, 4))
    assert found.false_alarms_per_100.value == 25.0
    assert found.false_alarms_per_100.high == pytest.approx(100 * (1 - found.specificity.low))
    assert found.priorities == {"urgent": (2, 1), "abnormal": (1, 0), "normal": (1, 3)}


def test_images_of_a_study_speak_together() -> None:
    cases = [([0, 0], [0.1, 0.1]), ([1, 0], [0.8, 0.1]), ([0, 0], [0.1, 0.1]), ([0, 0], [0.6, 0.1])]
    found = measure(TWO, cases, studies=["s1", "s1", "s2", "s2"])
    assert (found.with_finding, found.without) == (1, 1)
    assert found.priorities == {"abnormal": (1, 1)}


def test_a_study_with_a_label_that_nobody_may_judge_is_not_normal() -> None:
    found = measure((Label("A", 0.5), Label("Hernia", None)), [([0, 1], [0.1, 0.99]), ([0, 0], [0.1, 0.1])])
    assert found.priorities == {"incomplete": (1, 1)}
    assert found.cleared is not None and found.specificity is not None and found.sensitivity is not None
    assert (found.sensitivity.value, found.specificity.value, found.cleared.value) == (0.0, 1.0, 0.0)


def test_without_any_operating_point_there_is_no_alarm_to_judge_but_an_order() -> None:
    found = measure((Label("A", None),), [([1], [0.9]), ([0], [0.2]), ([0], [0.1])])
    assert (found.sensitivity, found.specificity, found.false_alarms_per_100, found.cleared) == (None,) * 4
    assert found.sorted is not None and found.sorted.first.mean == 0.0


def test_exclusive_classes_are_decided_once() -> None:
    # The likeliest class is called though none reaches its point; normal is called where it is the likeliest.
    cases = [([1, 0, 0], [0.4, 0.3, 0.3]), ([0, 1, 0], [0.3, 0.4, 0.3]), ([0, 0, 1], [0.3, 0.4, 0.3])]
    found = measure(CLASSES, cases, task="multiclass")
    assert found.findings == ("covid", "other")
    assert found.priorities == {"abnormal": (1, 0), "normal": (1, 1)}


def test_sorting_brings_findings_forward() -> None:
    generator = np.random.default_rng(0)
    normal = [([0.0], [float(value)]) for value in generator.random(95) * 0.4]
    sick = [([1.0], [0.6 + 0.05 * at]) for at in range(5)]
    found = measure((Label("A", 0.5),), normal + sick, resamples=0)
    assert found.sorted is not None and found.first_come is not None
    assert (found.sorted.first.mean, found.sorted.each.mean, found.sorted.first.high) == (0.0, 2.0, 0.0)
    # Of 5 among 100 in a random order the first comes after (100 - 5) / (5 + 1), and each after 99 / 2 on average.
    assert found.first_come.first.mean == pytest.approx(95 / 6, abs=2.5)
    assert found.first_come.each.mean == pytest.approx(99 / 2, abs=2.5)


def test_a_useless_model_brings_nothing_forward_and_equals_stay_in_the_order_of_arrival() -> None:
    cases = [([float(at % 10 == 0)], [0.3]) for at in range(100)]
    found = measure((Label("A", 0.5),), cases, resamples=300)
    assert found.sorted == found.first_come


def test_an_urgent_finding_is_read_before_a_stronger_one() -> None:
    cases = [([1, 0], [0.99, 0.1]), ([0, 1], [0.1, 0.6]), ([0, 0], [0.1, 0.1])]
    only_urgent = [([0, target[1]], answered) for target, answered in cases]
    found = measure(TWO, only_urgent, resamples=0)
    assert found.sorted is not None and found.sorted.first.mean == 0.0


def test_the_same_seed_gives_the_same_lists() -> None:
    generator = np.random.default_rng(1)
    cases = [([float(generator.random() < 0.2)], [float(generator.random())]) for _ in range(60)]
    one, same, other = (measure((Label("A", 0.5),), cases, seed=seed) for seed in (3, 3, 4))
    assert one == same
    assert one.first_come != other.first_come


def test_only_findings_and_nothing_known_are_no_error() -> None:
    assert measure((Label("A", 0.5),), [([1], [0.9])]).specificity is None
    unknown = np.full((2, 1), NAN, np.float32)
    weights = draw_resamples(["a", "b"], count=2, seed=0)
    scores = judge_scores((Label("A", 0.5),), "binary", unknown, np.zeros((2, 1), np.float32), ["a", "b"], weights)
    assert measure_worklist(scores, "threshold", ["a", "b"], seed=0) is None
