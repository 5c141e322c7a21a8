"""How soon a study is to be read: its priority, and its strength among those of the same priority.

Both follow from its result alone, and stand in columns of their own, so that an index has all studies in reading order.
"""

from __future__ import annotations

from collections.abc import Iterable

from cxrbatch.records import Priority, StudyResult, Verdict

READING_ORDER: tuple[Priority, ...] = ("urgent", "abnormal", "incomplete", "unscored", "normal")
"""What to read first. A study without a score comes before the normal ones: nothing is known of it, and of an
incomplete one not enough."""


def standing(result: StudyResult | None) -> tuple[Priority, float | None]:
    """Return priority and strength of a study with this result; without one it has no strength."""
    if result is None:
        return "unscored", None
    verdict = result.verdict
    return verdict.priority, strength(verdict, result.probabilities)


def strength(verdict: Verdict, probabilities: Iterable[float]) -> float:
    """Return the probability of the finding that is shown first: a called one, an urgent one of these, the strongest.

    To six decimals; labels that stand for a normal image count where there are no others.
    """
    scored = list(zip(verdict.labels, probabilities, verdict.calls, strict=True))
    findings = [each for each in scored if not each[0].normal] or scored
    ranked = (
        ((call is True and not label.normal), (call is True and not label.normal and label.urgent), probability)
        for label, probability, call in findings
    )
    best = max(((urgent, called, probability) for called, urgent, probability in ranked), default=None)
    return round(best[2], 6) if best else 0.0
