"""The report's findings: a line per label with its verdict, and the one sentence that sums them up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cxrbatch.output.report.trust import Trust, trust_in
from cxrbatch.pages import wording
from cxrbatch.pages.labels import shown_label
from cxrbatch.pages.language import gettext as _, msgid, ngettext, number
from cxrbatch.records import Label, StudyResult, Verdict, VerdictRule

NOT_JUDGED = msgid("Not judged")
_NOT_NORMAL = msgid("So this study is not called normal.")
_WITHOUT_VERDICT = msgid("This engine gives probabilities without a verdict. The highest is {highest}.")
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
        return _("No verdict")
    return _(wording.PRIORITY_NAMES[verdict.priority])


def coverage(verdict: Verdict) -> str:
    """Return how many of the engine's findings were judged; empty where all or none were."""
    judged, asked = len(verdict.judged), len(verdict.asked)
    if judged in {0, asked}:
        return ""
    return _("{judged} of {asked} findings judged").format(judged=judged, asked=asked)


def engine_coverage(labels: Sequence[Label]) -> str:
    """Return which findings an engine cannot judge, in one sentence; empty where it judges all."""
    asked = [label for label in labels if not label.normal] or list(labels)
    without = [label_name(label) for label in asked if label.operating_point is None]
    if not without:
        return ""
    if len(without) == len(asked):
        return _("This engine gives no verdict: none of its findings has a threshold.")
    said = ngettext(
        "This engine judges {judged} of its {asked} findings, so it calls no study normal: {names} has no threshold.",
        "This engine judges {judged} of its {asked} findings, so it calls no study normal: {names} have no threshold.",
        len(without),
    )
    return said.format(judged=len(asked) - len(without), asked=len(asked), names=some_of(without, _LABELS_NAMED))


def some_of(names: Sequence[str], most: int) -> str:
    """Return names with commas between them, and that there are others where there are more than `most`."""
    named = ", ".join(names[:most])
    return _("{names} and others").format(names=named) if len(names) > most else named


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
    return _("The members of this engine disagree about {names}.").format(names=some_of(named, _LABELS_NAMED))


def _points_sentence(result: StudyResult, verdict: Verdict) -> str:
    scored = dict(zip((label.name for label in verdict.labels), result.probabilities, strict=True))
    highest = _highest(verdict.asked, scored)
    if not verdict.judged:
        return _(_WITHOUT_VERDICT).format(highest=highest)
    if all(label.normal for label in verdict.asked):
        if verdict.priority == "normal":
            return _("The one class of this engine reaches its threshold: {highest}.").format(highest=highest)
        return _("The one class of this engine does not reach its threshold: {highest}.").format(highest=highest)
    if len(verdict.judged) < len(verdict.asked):
        said = _("No judged finding reaches its threshold; the highest is {highest}.")
        return said.format(highest=_highest(verdict.judged, scored))
    return _("No finding reaches its threshold. The highest is {highest}.").format(highest=highest)


def _classes_sentence(result: StudyResult, verdict: Verdict) -> str:
    """Say which class wins, where classes exclude each other; in several images several may."""
    scored = dict(zip((label.name for label in verdict.labels), result.probabilities, strict=True))
    if not any(call is not None for call in verdict.calls):
        return _(_WITHOUT_VERDICT).format(highest=_highest(verdict.labels, scored))
    called = [label for label, call in zip(verdict.labels, verdict.calls, strict=True) if call]
    if not called:
        said = _("No class that may be judged is the likeliest. The highest is {highest}.")
        return said.format(highest=_highest(verdict.labels, scored))
    named = ", ".join(named_score(label, scored[label.name]) for label in called)
    if len(result.images) == 1:
        return _("The likeliest class is {names}.").format(names=named)
    return _("The likeliest class of every image: {names}.").format(names=named)


def novelty(result: StudyResult, verdict: Verdict) -> str:
    """Say which images are unlike those that the engine learned from, and what follows; empty where none is."""
    unlike, count = result.unlike_training, len(result.images)
    if not unlike:
        return ""
    if count == 1:
        said = _("This image is unlike those that the engine learned from: its scores may mean little.")
    else:
        said = ngettext(
            "Image {numbers} of {count} is unlike those that the engine learned from: its scores may mean little.",
            "Images {numbers} of {count} are unlike those that the engine learned from: their scores may mean little.",
            len(unlike),
        ).format(numbers=", ".join(map(str, unlike)), count=count)
    would_be_normal = verdict.priority == "incomplete" and len(verdict.judged) == len(verdict.asked)
    return f"{said} {_(_NOT_NORMAL)}" if would_be_normal and not verdict.findings else said


def _not_judged(result: StudyResult, verdict: Verdict) -> str:
    """Say what a verdict leaves open, and what of that ranks highest among the validation images."""
    left = [label for label in verdict.asked if label not in verdict.judged]
    if not left or not verdict.judged:
        return ""
    judged = ngettext(
        "Only {judged} of {asked} findings were judged: one has no threshold{rank}.",
        "Only {judged} of {asked} findings were judged: {left} have no threshold{rank}.",
        len(left),
    ).format(judged=len(verdict.judged), asked=len(verdict.asked), left=len(left), rank=_highest_rank(result, left))
    return f"{judged} {_(_NOT_NORMAL)}" if verdict.priority == "incomplete" else judged


def _highest_rank(result: StudyResult, labels: Sequence[Label]) -> str:
    scored = dict(zip((label.name for label in result.engine.labels), result.probabilities, strict=True))
    ranked = [(rank, label.urgent, label) for label in labels if (rank := label.rank(scored[label.name])) is not None]
    if not ranked:
        return ""
    first = max(ranked, key=lambda item: item[:2])[2]
    words = rank_in_words(first, scored[first.name])
    if len(labels) == 1:
        return _("; it is {rank}").format(rank=words)
    return _("; of these, {name} is {rank}").format(name=label_name(first), rank=words)


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
        source = _("image {number}").format(number=values.index(highest) + 1) if len(values) > 1 else ""
        line = _finding_line(label, call, highest, result.engine.verdict_rule)
        word = _verdict_word(label, call, verdict)
        spread = f"± {number(spreads[n], 2)}" if spreads else ""
        contested = contests[n] and word not in {wording.NO_VALUE, _(NOT_JUDGED)}
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
        return _(NOT_JUDGED)
    if label.normal:
        # It may be called although something else was found, or left unjudged.
        return _("Nothing found") if call and verdict.priority == "normal" else wording.NO_VALUE
    if call:
        return _("Positive, urgent") if label.urgent else _("Positive")
    return _("Negative")


def rank_in_words(label: Label, value: float) -> str:
    """Return how this probability compares with those of the validation images; empty where those are not known."""
    rank = label.rank(value)
    if rank is None:
        return ""
    if value > label.reference[-1]:
        return _("higher than all validation images")
    if rank < 0.01:
        return _("among the lowest {percent} of validation images").format(percent=f"1{wording.FIXED_SPACE}%")
    # Downwards, and never all of them: 99.9 % is not, nor is the highest of them higher than itself.
    percent = f"{min(int(100 * rank), 99)}{wording.FIXED_SPACE}%"
    return _("higher than {percent} of validation images").format(percent=percent)


def label_name(label: Label) -> str:
    """Return a label as people read it, in the language spoken where it is known: NIH's Pleural_Thickening."""
    return shown_label(own_name(label))


def own_name(label: Label) -> str:
    """Return a label as the engine has it, in every language, with spaces: Pleural Thickening."""
    return wording.plain(label.name.replace("_", " "), longest=80)


def named_score(label: Label, value: float) -> str:
    """Return a label and its probability, with as many decimals as its verdict takes."""
    return f"{label_name(label)} {wording.probability(value, label.operating_point)}"
