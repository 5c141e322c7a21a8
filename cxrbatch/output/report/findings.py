"""The report's findings: a line per label with its verdict, and the one sentence that sums them up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cxrbatch.output.report.trust import Trust, trust_in
from cxrbatch.pages import wording
from cxrbatch.records import Label, StudyResult, Verdict, VerdictRule

NOT_JUDGED = "Not judged"
# Of the findings that an engine cannot judge, so many are named.
_LABELS_NAMED = 14


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One line of the table of findings; `percent` and `operating_percent` place the bar and its tick.

    `rank` says, of a label without a verdict, how its probability compares with those of the validation images;
    `trust` holds what was measured of its verdicts. `spread` is how far an ensemble's members disagree, `contested`
    tells that they do so about the verdict.
    """

    name: str
    probability: str
    percent: str
    operating_point: str
    operating_percent: str
    positive: bool
    urgent: bool
    judged: bool
    rank: str
    trust: Trust
    verdict: str = ""
    image: str = ""
    spread: str = ""
    contested: bool = False


def priority_name(result: StudyResult, verdict: Verdict) -> str:
    """Return the study's priority in words; an engine without operating points calls nothing normal."""
    if all(label.operating_point is None for label in result.engine.labels):
        return "No verdict"
    return wording.PRIORITY_NAMES[verdict.priority]


def coverage(verdict: Verdict) -> str:
    """Return how many of the engine's findings were judged; empty where all or none were."""
    judged, asked = len(verdict.judged), len(verdict.asked)
    return "" if judged in {0, asked} else f"{judged} of {asked} findings judged"


def engine_coverage(labels: Sequence[Label]) -> str:
    """Return which findings an engine cannot judge, in one sentence; empty where it judges all."""
    asked = [label for label in labels if not label.normal] or list(labels)
    without = [label_name(label) for label in asked if label.operating_point is None]
    if not without:
        return ""
    if len(without) == len(asked):
        return "This engine gives no verdict: none of its findings has an operating point."
    named = ", ".join(without[:_LABELS_NAMED]) + (" and others" if len(without) > _LABELS_NAMED else "")
    have = "has" if len(without) == 1 else "have"
    return (
        f"This engine judges {len(asked) - len(without)} of its {len(asked)} findings, so it calls no study normal: "
        f"{named} {have} no operating point."
    )


def summary(result: StudyResult, verdict: Verdict) -> str:
    """Return the sentences that tell what the lines of the verdict leave open: all where nothing is called."""
    missing = _not_judged(result, verdict)
    nothing = _classes_sentence if result.engine.verdict_rule == "argmax" else _points_sentence
    return " ".join(filter(None, ("" if verdict.findings else nothing(result, verdict), missing)))


def contested_sentence(result: StudyResult) -> str:
    """Say about which verdicts the members of an ensemble disagree; empty where about none."""
    named = [label_name(label) for label, at in zip(result.engine.labels, result.contested, strict=True) if at]
    if not named:
        return ""
    shown = ", ".join(named[:_LABELS_NAMED]) + (" and others" if len(named) > _LABELS_NAMED else "")
    return f"The members of this engine disagree about {shown}."


def _points_sentence(result: StudyResult, verdict: Verdict) -> str:
    scored = dict(zip((label.name for label in verdict.labels), result.probabilities, strict=True))
    highest = _highest(verdict.asked, scored)
    if not verdict.judged:
        return f"This engine gives probabilities without a verdict. The highest is {highest}."
    if all(label.normal for label in verdict.asked):
        reached = "reaches" if verdict.priority == "normal" else "does not reach"
        return f"The one class of this engine {reached} its threshold: {highest}."
    if len(verdict.judged) < len(verdict.asked):
        return f"No judged finding reaches its threshold; the highest is {_highest(verdict.judged, scored)}."
    return f"No finding reaches its threshold. The highest is {highest}."


def _classes_sentence(result: StudyResult, verdict: Verdict) -> str:
    """Say which class wins, where classes exclude each other; in several images several may."""
    scored = dict(zip((label.name for label in verdict.labels), result.probabilities, strict=True))
    if not any(call is not None for call in verdict.calls):
        return f"This engine gives probabilities without a verdict. The highest is {_highest(verdict.labels, scored)}."
    called = [label for label, call in zip(verdict.labels, verdict.calls, strict=True) if call]
    if not called:
        return f"No class that may be judged is the likeliest. The highest is {_highest(verdict.labels, scored)}."
    named = ", ".join(named_score(label, scored[label.name]) for label in called)
    if len(result.images) == 1:
        return f"The likeliest class is {named}."
    return f"The likeliest class of every image: {named}."


def novelty(result: StudyResult, verdict: Verdict) -> str:
    """Say which images are unlike those that the engine learned from, and what follows; empty where none is."""
    unlike, count = result.unlike_training, len(result.images)
    if not unlike:
        return ""
    learned = "unlike those that the engine learned from"
    if count == 1:
        said = f"This image is {learned}: its scores may mean little."
    elif len(unlike) == 1:
        said = f"Image {unlike[0]} of {count} is {learned}: its scores may mean little."
    else:
        said = f"Images {', '.join(map(str, unlike))} of {count} are {learned}: their scores may mean little."
    would_be_normal = verdict.priority == "incomplete" and len(verdict.judged) == len(verdict.asked)
    return f"{said} So this study is not called normal." if would_be_normal and not verdict.findings else said


def _not_judged(result: StudyResult, verdict: Verdict) -> str:
    """Say what a verdict leaves open, and what of that ranks highest among the validation images."""
    left = [label for label in verdict.asked if label not in verdict.judged]
    if not left or not verdict.judged:
        return ""
    cannot = "one has" if len(left) == 1 else f"{len(left)} have"
    judged = f"Only {len(verdict.judged)} of {len(verdict.asked)} findings were judged: {cannot} no operating point"
    nothing = " So this study is not called normal." if verdict.priority == "incomplete" else ""
    return f"{judged}{_highest_rank(result, left)}.{nothing}"


def _highest_rank(result: StudyResult, labels: Sequence[Label]) -> str:
    scored = dict(zip((label.name for label in result.engine.labels), result.probabilities, strict=True))
    ranked = [(rank, label.urgent, label) for label in labels if (rank := label.rank(scored[label.name])) is not None]
    if not ranked:
        return ""
    _, _, first = max(ranked, key=lambda item: item[:2])
    which = "it is" if len(labels) == 1 else f"of these, {label_name(first)} is"
    return f"; {which} {rank_in_words(first, scored[first.name])}"


def _highest(labels: Sequence[Label], scored: dict[str, float]) -> str:
    label = max(labels, key=lambda label: scored[label.name])
    return named_score(label, scored[label.name])


def finding_lines(result: StudyResult, verdict: Verdict) -> tuple[FindingLine, ...]:
    """Return a line per label: urgent positives, other positives, what nobody may judge, the rest.

    Each group is in the order of falling probability.
    """
    lines = []
    spreads, contests = result.disagreement, result.contested
    for n, (label, call) in enumerate(zip(verdict.labels, verdict.calls, strict=True)):
        values = [image.probabilities[n] for image in result.images]
        highest = max(values)
        called = call is True and not label.normal
        place = (not (called and label.urgent), not called, call is not None or label.normal, -highest, n)
        source = f"image {values.index(highest) + 1}" if len(values) > 1 else ""
        line = _finding_line(label, call, highest, result.engine.verdict_rule)
        word = _verdict_word(label, call, verdict)
        spread = f"± {spreads[n]:.2f}" if spreads else ""
        contested = contests[n] and word not in {wording.NO_VALUE, NOT_JUDGED}
        lines.append((place, replace(line, verdict=word, image=source, spread=spread, contested=contested)))
    return tuple(line for _, line in sorted(lines, key=lambda item: item[0]))


def _finding_line(label: Label, call: bool | None, value: float, rule: VerdictRule) -> FindingLine:
    point = None if rule == "argmax" else label.operating_point
    return FindingLine(
        name=label_name(label),
        probability=wording.probability(value, point),
        percent=f"{100 * value:.1f}",
        operating_point=wording.operating_point(point),
        operating_percent="" if point is None else f"{100 * min(max(point, 0.0), 1.0):.1f}",
        positive=call is True and not label.normal,
        urgent=label.urgent,
        judged=call is not None,
        rank=rank_in_words(label, value) if call is None else "",
        trust=trust_in(label, rule),
    )


def _verdict_word(label: Label, call: bool | None, verdict: Verdict) -> str:
    if call is None:
        return NOT_JUDGED
    if label.normal:
        # It may be called although something else was found, or left unjudged.
        return "Nothing found" if call and verdict.priority == "normal" else wording.NO_VALUE
    if call:
        return "Positive, urgent" if label.urgent else "Positive"
    return "Negative"


def rank_in_words(label: Label, value: float) -> str:
    """Return how this probability compares with those of the validation images; empty where those are not known."""
    rank = label.rank(value)
    if rank is None:
        return ""
    if value > label.reference[-1]:
        return "higher than all validation images"
    if rank < 0.01:
        return f"among the lowest 1{wording.FIXED_SPACE}% of validation images"
    # Downwards, and never all of them: 99.9 % is not, nor is the highest of them higher than itself.
    return f"higher than {min(int(100 * rank), 99)}{wording.FIXED_SPACE}% of validation images"


def label_name(label: Label) -> str:
    """Return a label as people write it: NIH's Pleural_Thickening is Pleural Thickening."""
    return wording.plain(label.name.replace("_", " "), longest=80)


def named_score(label: Label, value: float) -> str:
    """Return a label and its probability, with as many decimals as its verdict takes."""
    return f"{label_name(label)} {wording.probability(value, label.operating_point)}"
