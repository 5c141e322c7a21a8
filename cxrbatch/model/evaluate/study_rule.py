"""What a study is called, by its images' probabilities, as a run calls it; and in which order its worklist shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cxrbatch.records import EngineDescription, Label

VerdictRule = Literal["threshold", "argmax"]
StudyPriority = Literal["urgent", "abnormal", "incomplete", "unscored", "normal"]

READING_ORDER: tuple[StudyPriority, ...] = ("urgent", "abnormal", "incomplete", "unscored", "normal")
"""What the worklist shows first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a study is called: per label called, not called, or None where nobody may judge; and its priority."""

    labels: tuple[Label, ...]
    calls: tuple[bool | None, ...]
    priority: StudyPriority

    @property
    def findings(self) -> tuple[Label, ...]:
        """The findings that are called."""
        return tuple(label for label, call in zip(self.labels, self.calls, strict=True) if call and not label.normal)


def rule_of(model: EngineDescription) -> VerdictRule:
    """Return how the model's scores become findings: exclusive classes by the likeliest, unless points were chosen."""
    chosen = str(model.training.get("options", {}).get("operating_point", ""))
    is_exclusive = model.task == "multiclass" and len(model.labels) > 1
    return "argmax" if is_exclusive and not chosen.startswith("alarms") else "threshold"


def judge(labels: Sequence[Label], rule: VerdictRule, images: Sequence[Sequence[float]]) -> Verdict:
    """Return the verdict on a study: a finding is called if it is in any image, "nothing found" if in all of them.

    Args:
        labels: of the engine; under `argmax` all its classes.
        rule: how probabilities become calls.
        images: per image, at least one, the probability of every label, 0..1.
    """
    columns = list(zip(*(_call_image(labels, rule, image) for image in images), strict=True))
    calls = tuple(_over_images(label, column) for label, column in zip(labels, columns, strict=True))
    return Verdict(tuple(labels), calls, _priority(labels, calls, rule))


def _call_image(labels: Sequence[Label], rule: VerdictRule, image: Sequence[float]) -> tuple[bool | None, ...]:
    if rule == "argmax":
        winner = max(range(len(labels)), key=lambda at: (image[at], labels[at].urgent, not labels[at].normal))
        return tuple(None if label.operating_point is None else at == winner for at, label in enumerate(labels))
    return tuple(
        None if label.operating_point is None else probability >= label.operating_point
        for label, probability in zip(labels, image, strict=True)
    )


def _over_images(label: Label, calls: Sequence[bool | None]) -> bool | None:
    if label.normal:
        return None if None in calls else all(calls)
    return True if True in calls else None if None in calls else False


def _priority(labels: Sequence[Label], calls: Sequence[bool | None], rule: VerdictRule) -> StudyPriority:
    if all(call is None for call in calls):
        return "unscored"
    called = [label for label, call in zip(labels, calls, strict=True) if call and not label.normal]
    if called:
        return "urgent" if any(label.urgent for label in called) else "abnormal"
    findings = [call for label, call in zip(labels, calls, strict=True) if not label.normal]
    nothing_found = [call for label, call in zip(labels, calls, strict=True) if label.normal]
    if None in findings or (rule == "argmax" and True not in nothing_found):
        return "incomplete"
    return "normal" if findings or True in nothing_found else "abnormal"
