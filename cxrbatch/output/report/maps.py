"""Which heatmaps a report shows, and what it says of those that nobody has validated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cxrbatch.config import HeatmapChoice
from cxrbatch.output.report.findings import label_name
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _, msgid, ngettext
from cxrbatch.pages.retelling import retold
from cxrbatch.records import Heatmap, ImageResult, Label, StudyResult

NOT_VALIDATED = msgid("not validated")
NOBODY_CHECKED = msgid("nobody has checked, on images in which the finding is marked, whether they point at it")

_MOST_NAMED = 4
_LONGEST_REASON = 300


def shown_heatmaps(image: ImageResult, labels: Sequence[Label], choice: HeatmapChoice) -> tuple[Heatmap, ...]:
    """Return the heatmaps of an image that its report shows: those that are validated, or all."""
    validated = {label.name for label in labels if label.has_validated_maps}
    return tuple(each for each in image.heatmaps if choice == "all" or each.label in validated)


def map_notes(result: StudyResult, choice: HeatmapChoice) -> tuple[str, ...]:
    """Say of the drawn heatmaps that are not validated why, and how they are had where they are left out.

    A sentence for each reason; empty where every heatmap of the study is validated.
    """
    drawn = {each.label for image in result.images for each in image.heatmaps}
    by_reason: dict[str, list[Label]] = {}
    for label in result.engine.labels:
        if label.name in drawn and not label.has_validated_maps:
            by_reason.setdefault(reason_of(label), []).append(label)
    sentences = []
    for reason, labels in by_reason.items():
        shown = _("Heatmaps of {names} are not validated: {reason}.")
        said = shown if choice == "all" else _("Heatmaps of {names} are not validated and left out: {reason}.")
        sentences.append(said.format(names=_named(labels), reason=reason))
    if sentences and choice != "all":
        option = f"--heatmaps{wording.FIXED_SPACE}all"
        sentences.append(_("Printing the report again with “{option}” shows them.").format(option=option))
    return tuple(sentences)


def reason_of(label: Label) -> str:
    """Say in words why a label's maps are not validated."""
    told = retold(wording.plain(label.maps.reason, longest=_LONGEST_REASON)) if label.maps else ""
    return told or _(NOBODY_CHECKED)


def _named(labels: Iterable[Label]) -> str:
    names = [label_name(label) for label in labels]
    if len(names) > _MOST_NAMED:
        others = len(names) - _MOST_NAMED + 1
        more = ngettext("{count} other finding", "{count} other findings", others).format(count=others)
        names = [*names[: _MOST_NAMED - 1], more]
    return wording.listed(names)
