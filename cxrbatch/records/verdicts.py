"""The verdict: which findings follow from an engine's probabilities, by image and by study. Start at `judge_study`.

Everybody who says what was found asks here (run, tables, report, worklist, API, evaluation, model card), so that no
two of them can disagree. Two rules turn probabilities into calls. `threshold`: each label by itself, from its operating
point on. `argmax`: the classes exclude each other, and the likeliest class is the one that is called. A label without
an operating point has too few images behind it for either: nobody may judge it, and its call is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan

from cxrbatch.records.engines import EngineDescription, Label, Priority, VerdictRule

Calls = tuple[bool | None, ...]
"""Per label, in the engine's order: called, not called, or None where nobody may judge."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an image or a study is called: `calls` per label, and how soon somebody should look at it."""

    labels: tuple[Label, ...]
    calls: Calls
    priority: Priority

    @property
    def findings(self) -> tuple[Label, ...]:
        """The findings that are called, in the engine's order; a class that means "nothing found" is none."""
        return tuple(label for label, call in zip(self.labels, self.calls, strict=True) if call and not label.normal)

    @property
    def asked(self) -> tuple[Label, ...]:
        """What the engine is asked for: its findings, or its one class that means "nothing found"."""
        return tuple(label for label in self.labels if not label.normal) or self.labels

    @property
    def judged(self) -> tuple[Label, ...]:
        """What was judged of that, called or not."""
        whole = len(self.asked) == len(self.labels)
        return tuple(
            label
            for label, call in zip(self.labels, self.calls, strict=True)
            if call is not None and (whole or not label.normal)
        )


def judge_study(
    engine: EngineDescription, images: Sequence[Sequence[float]], *, unlike_training: bool = False
) -> Verdict:
    """Return the verdict on a study.

    A finding is called for the study if it is called in any of its images; a class that means "nothing found" only if
    it is called in all of them. Under `threshold` a finding is so called exactly where the study's probability, the
    maximum over its images, reaches the operating point. Under `argmax` two classes may be called for a study, one in
    each image, never for one image.

    Args:
        engine: its labels and its rule.
        images: per scored image, at least one, the probability of every label, 0..1, in the engine's order. What is no
            number gives no verdict.
        unlike_training: one of the images lies beyond the threshold of the distance to the training images. What is
            found stands; that nothing is found says little then, so the study is `incomplete` and not `normal`.
    """
    verdict = judge(engine.labels, engine.verdict_rule, images)
    if unlike_training and verdict.priority == "normal":
        return replace(verdict, priority="incomplete")
    return verdict


def judge(labels: Sequence[Label], rule: VerdictRule, images: Sequence[Sequence[float]]) -> Verdict:
    """Return the verdict on a study, or on one image, as `judge_study` does, without an engine's description."""
    calls_of = [call_image(labels, rule, probabilities) for probabilities in images]
    columns = zip(*calls_of, strict=True)
    calls = tuple(_over_images(label, column) for label, column in zip(labels, columns, strict=True))
    return Verdict(tuple(labels), calls, _priority(labels, rule, calls))


def call_image(labels: Sequence[Label], rule: VerdictRule, probabilities: Sequence[float]) -> Calls:
    """Return what one image is called; under `argmax` at most one class.

    Args:
        labels: of the engine; under `argmax` all its classes.
        rule: how it turns probabilities into calls.
        probabilities: as many, 0..1.
    """
    if rule == "argmax":
        winner = likeliest_class(labels, probabilities)
        return tuple(
            None if label.operating_point is None or winner is None else place == winner
            for place, label in enumerate(labels)
        )
    return tuple(
        None if label.operating_point is None or isnan(probability) else probability >= label.operating_point
        for label, probability in zip(labels, probabilities, strict=True)
    )


def likeliest_class(labels: Sequence[Label], probabilities: Sequence[float]) -> int | None:
    """Return the place of the likeliest class; None where one of the probabilities is no number.

    Of equally likely ones an urgent finding comes first, then any finding, then the class that means "nothing found".
    """
    if any(map(isnan, probabilities)):
        return None
    return max(
        range(len(labels)), key=lambda place: (probabilities[place], labels[place].urgent, not labels[place].normal)
    )


def call_is_contested(
    labels: Sequence[Label], rule: VerdictRule, probabilities: Sequence[float], disagreement: Sequence[float]
) -> tuple[bool, ...]:
    """Tell of which labels one image's call lies within what the members of an ensemble disagree by.

    Under `threshold` the operating point lies less than one standard deviation of the members from the probability.
    Under `argmax` the two likeliest classes do so from each other: what their probabilities vary by, added up.

    Args:
        labels: of the engine.
        rule: how it turns probabilities into calls.
        probabilities: as many, 0..1.
        disagreement: as many standard deviations; none where the engine is no ensemble.
    """
    if not disagreement or (rule == "argmax" and len(labels) < 2):
        return (False,) * len(labels)
    calls = call_image(labels, rule, probabilities)
    if rule == "argmax":
        return _contested_classes(calls, probabilities, disagreement)
    return tuple(
        call is not None and label.operating_point is not None and abs(probability - label.operating_point) < spread
        for label, call, probability, spread in zip(labels, calls, probabilities, disagreement, strict=True)
    )


def _contested_classes(calls: Calls, probabilities: Sequence[float], disagreement: Sequence[float]) -> tuple[bool, ...]:
    first, second, *_ = sorted(range(len(calls)), key=lambda place: -probabilities[place])
    near = probabilities[first] - probabilities[second] < disagreement[first] + disagreement[second]
    return tuple(near and place in {first, second} and call is not None for place, call in enumerate(calls))


def _over_images(label: Label, calls: Sequence[bool | None]) -> bool | None:
    if label.normal:
        return None if None in calls else all(calls)
    return True if True in calls else None if None in calls else False


def _priority(labels: Sequence[Label], rule: VerdictRule, calls: Calls) -> Priority:
    """Return `normal` only where every finding was judged, none is called, and no class contradicts that."""
    if all(call is None for call in calls):
        return "unscored"
    called = [label for label, call in zip(labels, calls, strict=True) if call and not label.normal]
    if any(label.urgent for label in called):
        return "urgent"
    if called:
        return "abnormal"
    findings = [call for label, call in zip(labels, calls, strict=True) if not label.normal]
    nothing_found = [call for label, call in zip(labels, calls, strict=True) if label.normal]
    if None in findings or (rule == "argmax" and True not in nothing_found):
        return "incomplete"
    # An engine that knows nothing but "normal" says "not normal" by not calling that.
    return "normal" if findings or True in nothing_found else "abnormal"
