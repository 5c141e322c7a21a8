"""What a report says of where heatmaps have their peaks; nothing where the place is not known (`place_finder`)."""

from __future__ import annotations

from collections.abc import Sequence

from cxrbatch.config import HeatmapChoice
from cxrbatch.output.report.cautions import Remark, image_name
from cxrbatch.output.report.findings import label_name
from cxrbatch.output.report.maps import shown_heatmaps
from cxrbatch.pages import wording
from cxrbatch.pages.language import gettext as _
from cxrbatch.records import OUTSIDE_LUNGS, Heatmap, ImageResult, Label, StudyResult


def place_in_words(heatmap: Heatmap) -> str:
    """Return where a heatmap has its peak, for a caption; empty where that is not known, or there is no peak."""
    place = wording.place_name(heatmap.place)
    return _("peak: {place}").format(place=place) if place and not heatmap.faint else ""


def place_of(result: StudyResult, label: Label, choice: HeatmapChoice) -> str:
    """Return where the peak of a label lies in the image that its probability is of; empty where it is not shown."""
    number = result.engine.labels.index(label)
    image = max(result.images, key=lambda image: image.probabilities[number])
    shown = shown_heatmaps(image, result.engine.labels, choice)
    return next((place_in_words(heatmap) for heatmap in shown if heatmap.label == label.name), "")


def outside_remarks(result: StudyResult, choice: HeatmapChoice) -> list[Remark]:
    """Warn of findings that are called, and whose heatmaps, as far as they are shown, peak outside of the lungs."""
    called = [label.name for label in result.verdict.findings]
    names = {label.name: label_name(label) for label in result.engine.labels}
    remarks = []
    for number, image in enumerate(result.images, start=1):
        outside = [names[name] for name in _outside(image, result.engine.labels, choice) if name in called]
        if outside:
            source = image_name(number) if len(result.images) > 1 else ""
            remarks.append(Remark(source, wording.outside_sentence(outside)))
    return remarks


def _outside(image: ImageResult, labels: Sequence[Label], choice: HeatmapChoice) -> list[str]:
    shown = shown_heatmaps(image, labels, choice)
    return [heatmap.label for heatmap in shown if heatmap.place == OUTSIDE_LUNGS and not heatmap.faint]
