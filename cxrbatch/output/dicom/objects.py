"""All objects of a study, by file name. Start at `render_objects`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.config import HeatmapChoice
from cxrbatch.output.dicom.encapsulated_pdf import render_document
from cxrbatch.output.dicom.object_files import DOCUMENT, OVERLAY, SR, referable_images
from cxrbatch.output.dicom.overlay import render_overlay
from cxrbatch.output.dicom.sr import render_sr
from cxrbatch.records import StudyResult


@dataclass(frozen=True, slots=True)
class ObjectParts:
    """What objects are made of beside the result: pictures by file name, report.pdf (empty without one), and the
    structured report of the revision before."""

    pictures: Mapping[str, bytes]
    pdf: bytes = b""
    former: Path | None = None


def render_objects(
    result: StudyResult, parts: ObjectParts, kinds: Collection[str], heatmaps: HeatmapChoice
) -> dict[str, bytes]:
    """Return the objects of these kinds (`sr`, `sc`, `pdf`); none of a study whose images nothing can refer to."""
    images = referable_images(result)
    if not images:
        return {}
    objects: dict[str, bytes] = {}
    if "sr" in kinds:
        objects[SR] = render_sr(result, heatmaps, parts.former)
    if "sc" in kinds:
        for number, image in images:
            if overlay := render_overlay(result, number, image, parts.pictures, heatmaps):
                objects[OVERLAY.format(number)] = overlay
    if "pdf" in kinds and parts.pdf:
        objects[DOCUMENT] = render_document(result, parts.pdf)
    return objects
