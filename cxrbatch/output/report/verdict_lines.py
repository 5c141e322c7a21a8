"""The verdict in plain words, which a report says first: what was found, how sure, and how often that is wrong.

How often is said only where the engine knows it from enough images: a share of three images says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cxrbatch.config import HeatmapChoice
from cxrbatch.output.report.findings import label_name, named_score, some_of
from cxrbatch.output.report.places import place_of
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, msgid, ngettext, whole
from cxrbatch.records import FEWEST_IMAGES, EngineDescription, Label, StudyResult, Verdict, VerdictRule

_MOST_LINES = 4
_MOST_NAMED = 14
_LIKELY_FROM = 0.5
_WHERE = {
    "val": msgid("in validation"),
    "test": msgid("on its test images"),
    "train": msgid("on its training images"),
    "out-of-fold": msgid("in cross-validation"),
}


@dataclass(frozen=True, slots=True)
class VerdictLine:
    """What is said of one finding that is called.

    `where` says where its heatmap has its peak, `trust` how often such a verdict is wrong; or nothing.
    """

    said: str
    where: str = ""
    trust: str = ""
    urgent: bool = False


def verdict_lines(
    result: StudyResult, verdict: Verdict, heatmaps: HeatmapChoice = "validated"
) -> tuple[VerdictLine, ...]:
    """Return a line per finding that is called, urgent ones first; the last of many names the others."""
    scored = _by_name(result)
    found = sorted(verdict.findings, key=lambda label: (not label.urgent, -scored[label.name]))
    shown = found if len(found) <= _MOST_LINES + 1 else found[:_MOST_LINES]
    lines = [
        replace(_line(label, scored[label.name], result), where=place_of(result, label, heatmaps)) for label in shown
    ]
    others = found[len(shown) :]
    if others:
        named = some_of([named_score(label, scored[label.name]) for label in others], _MOST_NAMED)
        said = ngettext("{count} other finding: {names}", "{count} other findings: {names}", len(others))
        lines.append(VerdictLine(said.format(count=len(others), names=named)))
    return tuple(lines)


def misses_sentence(result: StudyResult, verdict: Verdict) -> str:
    """Say, where nothing is called, how often the engine misses what it judged; empty where that is not known."""
    if verdict.findings or not verdict.judged:
        return ""
    rule = result.engine.verdict_rule
    known = [(label, missed) for label in verdict.judged if not label.normal and (missed := _misses(label, rule))]
    if not known:
        return ""
    known.sort(key=lambda item: not item[0].urgent)
    told = some_of([f"{label_name(label)} {missed}" for label, missed in known], _MOST_NAMED)
    where = _where(result.engine, _("where that was measured"))
    return _("How often it misses {where}: {names}.").format(where=where, names=told)


def _line(label: Label, value: float, result: StudyResult) -> VerdictLine:
    rule = result.engine.verdict_rule
    point = None if rule == "argmax" else label.operating_point
    if rule == "argmax":
        alone = len(result.images) == 1
        why = _("the likeliest class") if alone else _("the likeliest class of at least one image")
    else:
        why = _("threshold {value}").format(value=wording.operating_point(point))
    form = (
        _("{name} likely: {probability}, {why}")
        if value >= _LIKELY_FROM
        else _("{name} possible: {probability}, {why}")
    )
    said = form.format(name=label_name(label), probability=wording.probability(value, point), why=why)
    return VerdictLine(said, trust=_trust(label, result.engine), urgent=label.urgent)


def _trust(label: Label, engine: EngineDescription) -> str:
    missed = _misses(label, engine.verdict_rule)
    alarms = _false_alarms(label, engine.verdict_rule)
    known = [_("misses {share}").format(share=missed) if missed else "", alarms]
    said = ", ".join(filter(None, known))
    return " ".join(filter(None, (said, _where(engine)))) if said else ""


def _misses(label: Label, rule: VerdictRule) -> str:
    """Return how many images with the finding are not called."""
    share, count = label.figure("sensitivity", rule), label.images_with
    if share is None or count is None or count < FEWEST_IMAGES:
        return ""
    # A share of nothing is certain of nobody: of so many images there was none.
    if share >= 1:
        return _("none of {count}").format(count=whole(count))
    return _("{number} of 100").format(number=_of_hundred(1 - share))


def _false_alarms(label: Label, rule: VerdictRule) -> str:
    """Return how many images without the finding are called."""
    share, count = label.figure("specificity", rule), label.images_without
    if share is None or count is None or count < FEWEST_IMAGES:
        return ""
    if share >= 1:
        return _("no false alarm on {count} without it").format(count=whole(count))
    said = ngettext(
        "{number} false alarm per 100 without it", "{number} false alarms per 100 without it", round(100 * (1 - share))
    )
    return said.format(number=_of_hundred(1 - share))


def _of_hundred(share: float) -> str:
    number = round(100 * share)
    return str(number) if number else _("fewer than 1")


def _where(engine: EngineDescription, otherwise: str = "") -> str:
    part = engine.training.get("measured_on")
    return _(_WHERE[part]) if isinstance(part, str) and part in _WHERE else otherwise


def _by_name(result: StudyResult) -> dict[str, float]:
    labels: Sequence[Label] = result.engine.labels
    return dict(zip((label.name for label in labels), result.probabilities, strict=True))
