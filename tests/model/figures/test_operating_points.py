"""Thresholds do what their rule asks, and labels that too few images speak for get none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from cxrbatch.errors import UsageError
from cxrbatch.model.figures.metrics import sensitivity_and_specificity
from cxrbatch.model.figures.operating_points import (
    MIN_CASES,
    OperatingPointRule,
    parse_operating_point,
    place_operating_points,
)
from cxrbatch.records import Float32

CASES = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2 * MIN_CASES, max_size=60)


def rates(cases: list[tuple[bool, float]], point: float) -> tuple[float, float]:
    """Return sensitivity and specificity; compared in double, as a verdict is, for a point lies between two floats."""
    truths, scores = np.array([truth for truth, _ in cases]), np.array([score for _, score in cases], np.float64)
    return sensitivity_and_specificity(truths, scores >= point)


def place(text: str, targets: list[float] | Float32, scores: list[float] | Float32) -> float | None:
    columns = (np.array(values, np.float32)[:, np.newaxis] for values in (targets, scores))
    (point,) = place_operating_points(parse_operating_point(text), *columns)
    return point


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("sensitivity=0.95", OperatingPointRule("sensitivity", 0.95)),
        (" specificity=.9 ", OperatingPointRule("specificity", 0.9)),
        ("youden", OperatingPointRule("youden")),
        ("f1", OperatingPointRule("f1")),
        ("fixed=0.3", OperatingPointRule("fixed", 0.3)),
        ("alarms=5%", OperatingPointRule("alarms", 0.05)),
        ("alarms=0.125", OperatingPointRule("alarms", 0.125)),
        ("sensitivity=95%", OperatingPointRule("sensitivity", 0.95)),
    ],
)
def test_rules_are_read_and_written_back(text: str, rule: OperatingPointRule) -> None:
    assert parse_operating_point(text) == rule
    assert parse_operating_point(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "best",
        "youden=0.5",
        "sensitivity",
        "sensitivity=95",
        "fixed=nan",
        "fixed=0",
        "alarms=5",
        "alarms=0%",
        "alarms=100%",
        "alarms",
        "alarms=%",
    ],
)
def test_what_is_no_rule_is_refused_with_the_rules_that_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"sensitivity=0\.95"):
        parse_operating_point(text)


@given(CASES, st.floats(0.05, 0.99))
def test_the_sensitivity_asked_for_is_reached_at_the_best_specificity(
    cases: list[tuple[bool, float]], goal: float
) -> None:
    truths, scores = np.array([truth for truth, _ in cases]), np.array([score for _, score in cases], np.float32)
    point = place(f"sensitivity={goal}", truths.astype(np.float32), scores)
    if point is None:
        assert min(truths.sum(), (~truths).sum()) < MIN_CASES
        return
    sensitivity, specificity = rates(cases, point)
    assert sensitivity >= goal - 1e-9
    for cut in set(scores.tolist()):
        other_sensitivity, other_specificity = rates(cases, cut)
        assert other_sensitivity < goal + 1e-9 or other_specificity <= specificity


@given(CASES, st.floats(0.05, 0.99))
def test_the_specificity_asked_for_is_reached_or_there_is_no_verdict(
    cases: list[tuple[bool, float]], goal: float
) -> None:
    truths, scores = np.array([truth for truth, _ in cases]), np.array([score for _, score in cases], np.float32)
    point = place(f"specificity={goal}", truths.astype(np.float32), scores)
    if point is not None:
        assert rates(cases, point)[1] >= goal - 1e-9
    elif min(truths.sum(), (~truths).sum()) >= MIN_CASES:
        assert rates(cases, float(scores.max()))[1] < goal + 1e-9


@pytest.mark.parametrize("thirds", [1, 2])
def test_a_rate_that_is_reached_but_for_rounding_is_reached(thirds: int) -> None:
    targets, scores = [0.0] * 6 + [1.0] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, *[0.15, 0.25, 0.35, 0.45, 0.55, 0.9]]
    point = place(f"specificity={thirds / 3}", targets, scores)
    assert point == pytest.approx((0.225, 0.425)[thirds - 1])


def test_points_lie_halfway_between_two_images() -> None:
    targets = [0.0] * 5 + [1.0] * 5
    scores = [0.1, 0.2, 0.3, 0.4, 0.6, 0.5, 0.7, 0.8, 0.9, 0.95]
    assert place("sensitivity=0.8", targets, scores) == pytest.approx(0.65)
    assert place("sensitivity=0.81", targets, scores) == pytest.approx(0.45)
    assert place("specificity=0.99", targets, scores) == pytest.approx(0.65)
    assert place("youden", targets, scores) == pytest.approx(0.65)
    # F1 is 10/11 from 0.5 on (5 hits, 1 false alarm) and 8/9 from 0.7 on (4 hits, 1 miss).
    assert place("f1", targets, scores) == pytest.approx(0.45)
    assert place("fixed=0.3", targets, scores) == 0.3


@pytest.mark.parametrize("text", ["sensitivity=0.9", "specificity=0.9", "youden", "f1", "fixed=0.3"])
def test_too_few_images_either_way_give_no_verdict(text: str) -> None:
    few = [1.0] * (MIN_CASES - 1) + [0.0] * 20
    assert place(text, few, np.linspace(0, 1, 24, dtype=np.float32)) is None
    assert place(text, [1 - target for target in few], np.linspace(0, 1, 24, dtype=np.float32)) is None


def test_unknown_targets_neither_count_nor_move_the_point() -> None:
    targets = [0.0] * 5 + [1.0] * 5
    scores = [0.1, 0.2, 0.3, 0.4, 0.6, 0.5, 0.7, 0.8, 0.9, 0.95]
    assert place("youden", [*targets, np.nan, np.nan], [*scores, 0.55, 0.99]) == place("youden", targets, scores)
    assert place("youden", [np.nan, *targets[1:]], scores) is None


def test_a_specificity_that_only_silence_reaches_is_no_operating_point() -> None:
    assert place("specificity=0.95", [1.0] * 5 + [0.0] * 5, [0.1] * 5 + [0.9] * 5) is None
