"""Points chosen together keep the rate of alarms, and miss less than any other common rank would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from cxrbatch.errors import UsageError
from cxrbatch.model.figures.alarms import Alarms, ImagesByStudy, place_for_alarms
from cxrbatch.model.figures.operating_points import enough_cases, parse_operating_point, place_operating_points
from cxrbatch.records import Float32, Label

LABELS = tuple(Label(name) for name in "ABC")
CLASSES = (Label("covid"), Label("normal", normal=True), Label("viral"))


def place(
    rate: float,
    targets: Float32,
    probabilities: Float32,
    labels: tuple[Label, ...] = LABELS,
    studies: list[str] | None = None,
) -> tuple[tuple[float | None, ...], Alarms]:
    names = studies or [str(at) for at in range(len(targets))]
    images = ImagesByStudy(targets, probabilities, names, names)
    return place_for_alarms(rate, labels, images, judged=enough_cases(targets))


def draw(seed: int, normal: int = 200, sick: int = 60) -> tuple[Float32, Float32]:
    generator = np.random.default_rng(seed)
    targets = np.zeros((normal + sick, 3), np.float32)
    targets[np.arange(sick), generator.integers(0, 3, sick)] = 1
    raw = 1.5 * targets + generator.normal(0, 1, targets.shape)
    # Coarse scores tie, and the labels live on different scales.
    return targets, (np.round(1 / (1 + np.exp(-raw)), 2) * [1.0, 0.5, 0.1]).astype(np.float32)


def alarms_of(points: tuple[float | None, ...], probabilities: Float32) -> np.ndarray:
    columns = [probabilities[:, at].astype(float) >= point for at, point in enumerate(points) if point is not None]
    return np.asarray(np.any(columns, axis=0))


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5]))
@settings(max_examples=40, deadline=None)
def test_the_rate_is_kept_and_one_rank_more_would_break_it(seed: int, rate: float) -> None:
    targets, probabilities = draw(seed)
    points, reached = place(rate, targets, probabilities)
    normal = targets.sum(axis=1) == 0
    raised = alarms_of(points, probabilities)
    assert raised[normal].mean() == reached.rate.value <= rate
    assert raised[~normal].mean() == reached.sensitivity.value  # type: ignore[union-attr]
    for at, point in enumerate(points):
        if point is None:  # nobody scores above those who must not be called
            assert (probabilities[:, at] == probabilities[normal, at].max()).sum() > reached.per_label
            continue
        assert (probabilities[normal, at].astype(float) >= point).sum() <= reached.per_label
    looser = [np.sort(probabilities[normal, at])[::-1][reached.per_label] for at in range(3)]
    assert alarms_of(tuple(map(float, looser)), probabilities)[normal].mean() > rate


def test_points_one_by_one_promise_less_than_together() -> None:
    targets, probabilities = draw(1, normal=2000, sick=300)
    together, _ = place(0.05, targets, probabilities)
    alone = place_operating_points(parse_operating_point("specificity=0.95"), targets, probabilities)
    normal = targets.sum(axis=1) == 0
    assert alarms_of(alone, probabilities)[normal].mean() > 0.1
    assert 0.04 < alarms_of(together, probabilities)[normal].mean() <= 0.05


def test_exclusive_classes_are_placed_the_same_way_and_normal_has_no_point() -> None:
    generator = np.random.default_rng(5)
    targets = np.eye(3, dtype=np.float32)[generator.integers(0, 3, 300)]
    raw = np.exp(2 * targets + generator.normal(0, 1, targets.shape))
    probabilities = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    points, reached = place(0.1, targets, probabilities, CLASSES)
    assert points[1] is None
    assert reached.normal_studies == int(targets[:, 1].sum())
    normal = targets[:, 1] == 1
    assert alarms_of(points, probabilities)[normal].mean() == reached.rate.value <= 0.1
    assert reached.sensitivity is not None and reached.sensitivity.value > 0.5
    assert reached.rate.low < reached.rate.value < reached.rate.high


def test_studies_count_and_not_images() -> None:
    targets = np.zeros((60, 1), np.float32)
    targets[:10] = 1
    probabilities = np.linspace(0.9, 0.1, 60, dtype=np.float32)[:, np.newaxis]
    studies = [str(at // 2) for at in range(60)]
    points, reached = place(0.04, targets, probabilities, (Label("A"),), studies)
    assert (reached.normal_studies, reached.with_finding, reached.rate.value) == (25, 5, 1 / 25)
    assert points[0] is not None and float(probabilities[12, 0]) < points[0] <= float(probabilities[10, 0])


def test_a_label_that_too_few_images_speak_for_gets_no_point_and_raises_no_alarm() -> None:
    targets, probabilities = draw(2)
    targets[:, 2] = 0
    targets[0, 2] = 1
    points, reached = place(0.05, targets, probabilities)
    assert points[2] is None and points[0] is not None
    assert reached.rate.value <= 0.05


@pytest.mark.parametrize(("normal", "rate"), [(0, 0.5), (19, 0.05), (9, 0.1)])
def test_too_few_normal_studies_are_refused_with_what_it_takes(normal: int, rate: float) -> None:
    targets, probabilities = draw(3, normal=normal)
    with pytest.raises(UsageError, match=rf"{normal} are known to have no finding, and it takes {round(1 / rate)}"):
        place(rate, targets, probabilities)


def test_studies_of_which_not_all_is_known_are_not_normal() -> None:
    targets, probabilities = draw(4)
    targets[-150:, 1] = np.nan
    _, reached = place(0.1, targets, probabilities)
    assert (reached.normal_studies, reached.with_finding) == (50, 60)


def test_one_by_one_is_not_asked_for_alarms() -> None:
    with pytest.raises(ValueError, match="together"):
        place_operating_points(parse_operating_point("alarms=5%"), *draw(0))
