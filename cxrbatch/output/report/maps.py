"""Which heatmaps a report shows, and what it says of those that nobody has validated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cxrbatch.config import HeatmapChoice
from cxrbatch.output.report.findings import label_name
from cxrbatch.pages import wording
from cxrbatch.records import Heatmap, ImageResult, Label, StudyResult

NOT_VALIDATED = "not validated"
NOBODY_CHECKED = "nobody has checked, on images in which the finding is marked, whether they point at it"

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
        what = f"Heatmaps of {_named(labels)} are {NOT_VALIDATED}"
        sentences.append(f"{what if choice == 'all' else f'{what} and left out'}: {reason}.")
    if sentences and choice != "all":
        sentences.append(f"Printing the report again with “--heatmaps{wording.FIXED_SPACE}all” shows them.")
    return tuple(sentences)


def reason_of(label: Label) -> str:
    """Say in words why a label's maps are not validated."""
    told = wording.plain(label.maps.reason, longest=_LONGEST_REASON) if label.maps else ""
    return told or NOBODY_CHECKED


def _named(labels: Iterable[Label]) -> str:
    names = [label_name(label) for label in labels]
    if len(names) > _MOST_NAMED:
        names = [*names[: _MOST_NAMED - 1], f"{len(names) - _MOST_NAMED + 1} other findings"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
