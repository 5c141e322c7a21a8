"""How far to trust an engine's verdicts: what was measured of each label, on how many images, in a reader's words.

The figures are those of engine.json; an engine of an earlier version has fewer of them, and shows what it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, msgid, number, pgettext, whole
from cxrbatch.records import FEWEST_IMAGES, EngineDescription, Label, VerdictRule

_POINTS, _EPOCH = "operating points", "epoch"
_PARTS = {
    "val": msgid("validation images"),
    "test": msgid("test images"),
    "train": msgid("training images"),
    "out-of-fold": msgid("images of all folds"),
}


@dataclass(frozen=True, slots=True)
class Share:
    """A measured share and its 95 % interval; empty where not known."""

    value: str = ""
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """What was measured of one label's verdicts; `images` says on how many with the finding, and how many without."""

    sensitivity: Share = Share()
    specificity: Share = Share()
    auroc: str = ""
    images: str = ""

    @property
    def has_verdicts(self) -> bool:
        """Tell whether anything was measured at the operating point."""
        return bool(self.sensitivity.value or self.specificity.value)


def trust_in(label: Label, rule: VerdictRule) -> Trust:
    """Return what was measured of one label; a label that nobody may judge has nothing at its operating point."""
    auroc = label.figure("auroc", rule)
    images = ""
    if label.images_with is not None and label.images_without is not None:
        images = f"{label.images_with}{wording.FIXED_SPACE}/{wording.FIXED_SPACE}{label.images_without}"
    ranking = _too_few() if label.has_too_few_images else "" if auroc is None else number(auroc, 2)
    if label.operating_point is None:
        return Trust(auroc=ranking, images=images)
    return Trust(_share(label, "sensitivity", rule), _share(label, "specificity", rule), ranking, images)


def _share(label: Label, name: str, rule: VerdictRule) -> Share:
    value, low, high = (label.figure(f"{name}{bound}", rule) for bound in ("", "_low", "_high"))
    if value is None:
        return Share()
    # An interval without width is a bootstrap's at the edge, where it knows nothing: 15 of 15 is not certainty.
    if low is None or high is None or low >= high:
        return Share(number(value, 2))
    return Share(number(value, 2), f"{number(low, 2)}{wording.RANGE}{number(high, 2)}")


def trust_note(engine: EngineDescription, lines: tuple[Trust, ...]) -> str:
    """Say in plain words what the figures beside the verdicts mean and where they come from; empty without any."""
    if not any(trust.has_verdicts or trust.auroc for trust in lines):
        return ""
    too_few, sentences = _too_few(), list[str]()
    if any(trust.has_verdicts for trust in lines):
        sentences += _verdict_sentences(engine, lines)
    if any(trust.auroc not in {"", too_few} for trust in lines):
        said = _("AUROC: how well probabilities tell the two kinds apart ({half} is chance, 1 is always).")
        sentences.append(said.format(half=number(0.5, 1)))
    if any(trust.images for trust in lines):
        sentences.append(_("Images: how many had the finding / had it not."))
    if any(trust.auroc == too_few for trust in lines):
        said = _("“{few}”: fewer than {count} images with the finding or without it, too few to measure.")
        sentences.append(said.format(few=too_few, count=FEWEST_IMAGES))
    return " ".join([*sentences, measured_on(engine)])


def _too_few() -> str:
    """Return what stands for an AUROC; on paper in a column of 10 mm, beyond which it would push what follows away."""
    return pgettext("at most seven letters", "too few")


def _verdict_sentences(engine: EngineDescription, lines: tuple[Trust, ...]) -> Iterator[str]:
    """Say what is measured of verdicts, and first what they go by."""
    exclusive = engine.verdict_rule == "argmax"
    if not exclusive:
        yield _("Threshold: the probability from which on a finding is called positive.")
    has_intervals = any(trust.sensitivity.interval or trust.specificity.interval for trust in lines)
    interval = _("; in brackets the {percent} interval").format(percent=f"95{wording.FIXED_SPACE}%")
    brackets = interval if has_intervals else ""
    if exclusive:
        said = _(
            "Sensitivity: of the images with the finding, the share that is named the likeliest class. Specificity: of "
            "the images without it, the share that is not{brackets}."
        )
    else:
        said = _(
            "Sensitivity: of the images with the finding, the share that is called positive. Specificity: of the "
            "images without it, the share that is not{brackets}."
        )
    yield said.format(brackets=brackets)


SPREAD = msgid(
    "±: how far the networks of this engine, an ensemble, lie apart (standard deviation of their probabilities). "
    "“Members disagree”: the verdict would be another within that distance. Where they agree they can still all be "
    "wrong: they learned from much the same images."
)
"""What a report says of the disagreement of an ensemble's members."""

UNMEASURED = msgid(
    "Nobody measured this engine as a whole: it is an ensemble, and what is known is known of its members."
)


def spread_note(engine: EngineDescription, spreads: Iterable[str]) -> str:
    """Say what the disagreement beside the probabilities means; empty where there is none."""
    if not any(spreads):
        return ""
    is_measured = any(label.metrics for label in engine.labels)
    return _(SPREAD) if is_measured else f"{_(SPREAD)} {_(UNMEASURED)}"


def measured_on(engine: EngineDescription) -> str:
    """Say on which images an engine's figures were measured."""
    facts = engine.training
    part, images, data = facts.get("measured_on"), facts.get("images"), wording.plain(str(facts.get("data") or ""))
    if not isinstance(part, str) or not part:
        return _("The engine does not say on which images this was measured.")
    count = images.get(part) if isinstance(images, dict) else None
    where = _(_PARTS[part]) if part in _PARTS else _("images of the part {part}").format(part=wording.plain(part))
    where = f"{whole(count)} {where}" if isinstance(count, int) else where
    form = _("Measured on the {images} of its own data ({data}).") if data else _("Measured on the {images}.")
    return f"{form.format(images=where, data=data)} {_caution(_chosen_by(part, facts.get('chosen_on')))}"


def _caution(chose: str) -> str:
    """Say that figures flatter, and more so where the same images chose something."""
    if chose == _POINTS:
        return _("They also chose the thresholds, so expect somewhat less on images from elsewhere.")
    if chose == _EPOCH:
        return _("They also chose the epoch, so expect somewhat less on images from elsewhere.")
    return _("Expect somewhat less on images from elsewhere.")


def _chosen_by(part: str, chosen_on: object) -> str:
    """Say what the measured images chose that flatters the figures; earlier engines don't tell, and chose on val."""
    if not isinstance(chosen_on, dict) or not chosen_on:
        return _POINTS if part == "val" else ""
    return next((choice for choice in (_POINTS, _EPOCH) if chosen_on.get(choice) == part), "")
