"""Placing operating points: one threshold per label by a rule, or none where too little is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from cxrbatch.errors import UsageError
from cxrbatch.model.figures.metrics import Truths
from cxrbatch.records import Float32

Goal = Literal["sensitivity", "specificity", "youden", "f1", "fixed", "alarms"]

MIN_CASES = 5
"""Fewer images than this with a finding, or without it, give no operating point: the label is shown without verdict."""

_TAKES_VALUE: tuple[Goal, ...] = ("sensitivity", "specificity", "fixed", "alarms")
_STANDS_ALONE: tuple[Goal, ...] = ("youden", "f1")


@dataclass(frozen=True, slots=True)
class OperatingPointRule:
    """How thresholds are chosen; `value` is the rate to reach, or the threshold itself for "fixed".

    "alarms" chooses those of all labels together (`cxrbatch.model.figures.alarms`), the others one by one.
    """

    goal: Goal = "youden"
    value: float | None = None

    def __str__(self) -> str:
        return self.goal if self.value is None else f"{self.goal}={self.value:g}"


def parse_operating_point(text: str) -> OperatingPointRule:
    """Read sensitivity=0.95, specificity=0.95, youden, f1, fixed=0.3 or alarms=5%; 5% is 0.05.

    Raises:
        UsageError: it is none of these, or the number is not between 0 and 1.
    """
    name, _, number = text.strip().partition("=")
    for goal in _STANDS_ALONE:
        if name == goal and not number:
            return OperatingPointRule(goal)
    for goal in _TAKES_VALUE:
        if name == goal and (value := _rate(number)) is not None:
            return OperatingPointRule(goal, value)
    raise UsageError(
        f"operating point {text!r}: not understood. "
        "Use sensitivity=0.95, specificity=0.95, youden, f1, fixed=0.3 or alarms=5%; numbers lie between 0 and 1, or "
        "0% and 100%."
    )


def place_operating_points(
    rule: OperatingPointRule, targets: Float32, probabilities: Float32
) -> tuple[float | None, ...]:
    """Return a threshold on the probability per label; None where fewer than MIN_CASES images speak either way.

    Args:
        rule: what the threshold must do; not "alarms", which needs to know of studies (`place_for_alarms`).
        targets: float32 [N,C], 0 or 1; nan where unknown, which is left out.
        probabilities: float32 [N,C], 0..1, calibrated.
    """
    if rule.goal == "alarms":
        raise ValueError("alarms: points are chosen together, by place_for_alarms")
    return tuple(_place_one(rule, targets[:, label], probabilities[:, label]) for label in range(targets.shape[1]))


def enough_cases(targets: Float32) -> NDArray[np.bool_]:
    """Return which labels enough images speak for, and against: float32 [N,C], nan unknown -> bool [C]."""
    fewer = np.minimum((targets == 1.0).sum(axis=0), (targets == 0.0).sum(axis=0))
    return np.asarray(fewer >= MIN_CASES, np.bool_)


def choose_operating_point(truths: Truths, scores: Float32) -> float | None:
    """Return the threshold with the greatest sensitivity + specificity (Youden 1950).

    None with one class, and where no threshold is better than calling nothing.

    The threshold lies halfway between the score that it admits last and the next lower one, so that
    rounding in another backend does not turn the image at the edge.
    """
    if truths.all() or not truths.any():
        return None
    false_positive_rate, true_positive_rate, thresholds = roc_curve(truths, scores, drop_intermediate=False)
    admitted = float(thresholds[int(np.argmax(true_positive_rate - false_positive_rate))])
    return halfway_below(admitted, scores) if np.isfinite(admitted) else None


def halfway_below(admitted: float, scores: Float32) -> float:
    """Return the threshold halfway between the score that it admits last and the next lower one, if there is one."""
    lower = scores[scores < admitted]
    return (admitted + float(lower.max())) / 2 if lower.size else admitted


def _place_one(rule: OperatingPointRule, targets: Float32, probabilities: Float32) -> float | None:
    known = ~np.isnan(targets)
    truths, scores = targets[known] > 0.5, probabilities[known]
    if min(int(truths.sum()), int((~truths).sum())) < MIN_CASES:
        return None
    if rule.goal == "fixed":
        return rule.value
    if rule.goal == "youden":
        return _finite(choose_operating_point(truths, scores))
    if rule.goal == "f1":
        return _best_f1(truths, scores)
    return _reaching(rule, truths, scores)


def _reaching(rule: OperatingPointRule, truths: Truths, scores: Float32) -> float | None:
    """Return the threshold that reaches one rate at the least cost of the other.

    Where only calling nobody reaches a specificity, there is none: a verdict that is always "no" is no verdict.
    """
    false_positive_rate, true_positive_rate, thresholds = roc_curve(truths, scores, drop_intermediate=False)
    # 1 - 1/3 and 2/3 differ in their last bit; a rate that is reached but for that is reached.
    goal = (rule.value or 0.0) - 1e-12
    if rule.goal == "sensitivity":
        # Rates rise along the curve: the first one that reaches the goal calls the fewest others.
        admitted = thresholds[int(np.argmax(true_positive_rate >= goal))]
    else:
        admitted = thresholds[int(np.flatnonzero(1.0 - false_positive_rate >= goal)[-1])]
    return _finite(halfway_below(float(admitted), scores))


def _best_f1(truths: Truths, scores: Float32) -> float:
    precision, recall, thresholds = precision_recall_curve(truths, scores)
    # The last point of the curve is "nobody called", which has no threshold.
    f1 = _harmonic_mean(precision[:-1], recall[:-1])
    return halfway_below(float(thresholds[int(np.argmax(f1))]), scores)


def _harmonic_mean(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _finite(threshold: float | None) -> float | None:
    return threshold if threshold is not None and np.isfinite(threshold) else None


def _rate(number: str) -> float | None:
    try:
        value = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        return None
    return value if 0.0 < value < 1.0 else None
