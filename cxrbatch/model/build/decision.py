"""What decides a verdict, and what wishes and local labelled images make of it: a calibration and operating points.

Start at `choose_locally`, which also tells what that does to an engine's figures. Nothing here touches a file of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from cxrbatch.engine.manifest import AdjustedLabel
from cxrbatch.errors import UsageError
from cxrbatch.model.build.local_images import LocalImages
from cxrbatch.model.figures.figures import make_calls
from cxrbatch.model.figures.metrics import Calls, Figure, measure_calibration_error, measure_calls
from cxrbatch.model.figures.operating_points import (
    MIN_CASES as FEWEST_FOR_POINTS,
    OperatingPointRule,
    parse_operating_point,
    place_operating_points,
)
from cxrbatch.model.train.calibration import MIN_CASES, Calibration, fit_calibration
from cxrbatch.records import Float32, Label, Task

FOLDS = 5
"""Parts that patients are put into, each of which is measured with what the others chose."""

_SEED = 0
_TOLD = (Figure.SENSITIVITY, Figure.SPECIFICITY)


@dataclass(frozen=True, slots=True)
class WantedPoints:
    """Operating points as a person asks for them: a rule for all, or values by label; None takes a verdict away."""

    text: str = ""
    rule: OperatingPointRule | None = None
    fixed: dict[str, float | None] = field(default_factory=dict)

    @property
    def needs_data(self) -> bool:
        """Whether only labelled images can tell what is meant."""
        return self.rule is not None and self.rule.goal != "fixed"


def parse_points(text: str) -> WantedPoints:
    """Read a rule such as youden or fixed=0.3, or values by label, such as Mass=0.4,Hernia=none; "" asks for nothing.

    Raises:
        UsageError: it is neither.
    """
    if text.strip().startswith("alarms"):
        raise UsageError("alarms: only training chooses points for them, over all findings together.")
    try:
        return WantedPoints(text, rule=parse_operating_point(text)) if text.strip() else WantedPoints()
    except UsageError as error:
        parts = [part.strip().rpartition("=") for part in text.split(",")]
        values = {name.strip(): _read_point(value.strip()) for name, equals, value in parts if equals}
        if len(values) < len(parts) or "" in values or "unreadable" in values.values():
            raise UsageError(f"{error} Or name labels: Mass=0.4,Hernia=none.") from None
    return WantedPoints(text, fixed={name: value for name, value in values.items() if not isinstance(value, str)})


def _read_point(text: str) -> float | Literal["unreadable"] | None:
    if text.casefold() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        return "unreadable"
    return value if 0.0 < value < 1.0 else "unreadable"


@dataclass(frozen=True, slots=True)
class Decision:
    """What decides a verdict: the labels with their operating points, the task, and the calibration."""

    labels: tuple[Label, ...]
    task: Task
    calibration: Calibration

    def probabilities(self, images: LocalImages) -> Float32:
        """Return the calibrated probabilities of the images, float32 [N,C]."""
        return self.calibration.probabilities(images.logits, self.task)

    def calls(self, images: LocalImages) -> tuple[Calls | None, ...]:
        """Return who is called per label, bool [N]; None without a verdict."""
        probabilities = self.probabilities(images)
        return make_calls(self.labels, self.task, probabilities)


def choose(before: Decision, images: LocalImages | None, points: WantedPoints, *, calibrate: bool) -> Decision:
    """Return the decision that the wishes, and the images where there are any, lead to.

    What nothing is known about stays as it was. An operating point that nobody asked to be moved goes where it calls
    the same images as before.
    """
    calibration = before.calibration
    if images is not None and calibrate:
        calibration = _then(
            calibration, fit_calibration(_scaled(calibration, images.logits), images.targets, before.task)
        )
    carried = carry_points(before, calibration)
    placed: Sequence[float | None] = [None] * len(before.labels)
    if points.rule is not None and not points.needs_data:
        placed = [points.rule.value] * len(before.labels)
    elif points.rule is not None and images is not None:
        probabilities = calibration.probabilities(images.logits, before.task)
        placed = place_operating_points(points.rule, images.targets, probabilities)
    found = [old if new is None else new for old, new in zip(carried, placed, strict=True)]
    labels = tuple(
        replace(
            label,
            operating_point=points.fixed.get(label.name, point),
            reference=carry_reference(before, calibration, place),
        )
        for place, (label, point) in enumerate(zip(before.labels, found, strict=True))
    )
    return Decision(labels, before.task, calibration)


def _scaled(calibration: Calibration, logits: Float32) -> Float32:
    scaled = logits / np.array(calibration.temperature) + np.array(calibration.offset)
    return np.asarray(scaled, np.float32)


def _then(first: Calibration, second: Calibration) -> Calibration:
    """Return one calibration that does what two do, one after the other."""
    pairs = list(zip(first.temperature, first.offset, second.temperature, second.offset, strict=True))
    return Calibration(tuple(a * c for a, _, c, _ in pairs), tuple(b / c + d for _, b, c, d in pairs))


def carry_points(before: Decision, calibration: Calibration) -> tuple[float | None, ...]:
    """Return where each label's operating point calls the same images under another calibration."""
    return tuple(_carry(before, calibration, place) for place in range(len(before.labels)))


def _carry(before: Decision, calibration: Calibration, place: int) -> float | None:
    """Move an operating point to where it calls the same images; of classes, the likeliest is called as before."""
    point = before.labels[place].operating_point
    if calibration == before.calibration or point is None or before.task == "multiclass":
        return point
    return _moved(point, before.calibration, calibration, place)


def carry_reference(before: Decision, calibration: Calibration, place: int) -> tuple[float, ...]:
    """Return what a label's validation images score under another calibration; of classes nobody can tell."""
    reference = before.labels[place].reference
    if calibration == before.calibration:
        return reference
    if before.task == "multiclass":
        return ()
    return tuple(_moved(probability, before.calibration, calibration, place) for probability in reference)


def _moved(probability: float, old: Calibration, new: Calibration, place: int) -> float:
    """Return what a probability of one label becomes under another calibration."""
    if not 0 < probability < 1:
        return probability
    logit = (np.log(probability / (1 - probability)) - old.offset[place]) * old.temperature[place]
    return float(1 / (1 + np.exp(-(logit / new.temperature[place] + new.offset[place]))))


def choose_locally(
    before: Decision, images: LocalImages, points: WantedPoints, *, calibrate: bool
) -> tuple[Decision, dict[str, AdjustedLabel]]:
    """Return what the images lead to, and each label's figures before and after, also on patients that chose none."""
    after = choose(before, images, points, calibrate=calibrate)
    unseen = _cross_fit(before, images, points, calibrate=calibrate)
    told: dict[str, AdjustedLabel] = {}
    stages = [(each.probabilities(images), each.calls(images)) for each in (before, after)] + [unseen]
    for place, label in enumerate(before.labels):
        known = ~np.isnan(images.targets[:, place])
        truths = images.targets[known, place] > 0.5
        was, now, unseen_figures = (
            _measure(truths, probabilities[known, place], calls[place], known) for probabilities, calls in stages
        )
        note = _why_left(truths, before, MIN_CASES if calibrate else FEWEST_FOR_POINTS)
        told[label.name] = AdjustedLabel(len(truths), int(truths.sum()), was, now, unseen_figures, note)
    return after, told


def _cross_fit(
    before: Decision, images: LocalImages, points: WantedPoints, *, calibrate: bool
) -> tuple[Float32, tuple[Calls | None, ...]]:
    """Return probabilities and calls where every patient's come of what the others' images chose.

    Images of fewer patients than folds get nan and no calls: nothing can be said.
    """
    names, patient = np.unique(np.array(images.patients, dtype=object).astype(str), return_inverse=True)
    probabilities = np.full_like(images.logits, np.nan)
    if len(names) < FOLDS:
        return probabilities, (None,) * len(before.labels)
    fold = (np.random.default_rng(_SEED).permutation(len(names)) % FOLDS)[patient]
    calls = np.zeros(images.logits.shape, np.bool_)
    judged = np.ones(len(before.labels), np.bool_)
    for number in range(FOLDS):
        held = fold == number
        decision, others = choose(before, images.part(~held), points, calibrate=calibrate), images.part(held)
        probabilities[held] = decision.probabilities(others)
        for place, called in enumerate(decision.calls(others)):
            judged[place] &= called is not None
            calls[held, place] = False if called is None else called
    return probabilities, tuple(calls[:, place] if judged[place] else None for place in range(len(judged)))


def _measure(truths: Calls, probabilities: Float32, calls: Calls | None, known: Calls) -> dict[str, float]:
    if not len(truths) or np.isnan(probabilities).any():
        return {}
    figures = {Figure.CALIBRATION_ERROR.value: measure_calibration_error(truths, probabilities)}
    if calls is not None:
        measured = measure_calls(truths, calls[known])
        figures |= {figure.value: measured[figure] for figure in _TOLD if figure in measured}
    return figures


def _why_left(truths: Calls, before: Decision, needed: int) -> str:
    """Say why a label was left as it was; empty where it was not."""
    what = "calibration" if needed == MIN_CASES else "operating point"
    positives, images = int(truths.sum()), len(truths)
    if before.task == "multiclass":
        least = needed * len(before.labels)
        return "" if images >= least else f"{what} left as it was: {images} images, where at least {least} are needed"
    if min(positives, images - positives) >= needed:
        return ""
    return (
        f"{what} left as it was: {positives} images with it and {images - positives} without, where at least {needed} "
        f"of each are needed"
    )
