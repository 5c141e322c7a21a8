"""The pictures of a report: radiographs, thumbnails and heatmaps as JPEG files.

A picture's name ends in a hash of its content. So a later revision never overwrites a picture of the one before, and a
picture that was exchanged is told from the one that a result names. Results of earlier versions name theirs plainly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.errors import StudyFailed
from cxrbatch.output.report.heatmap import activation_on_display, draw_heatmap, is_faint, peak_in_stored
from cxrbatch.output.report.place_finder import PlaceFinder
from cxrbatch.output.report.report_files import named_by_content
from cxrbatch.records import EngineDescription, Heatmap, ImagePixels, ImageResult, Label, StudyResult, judge_study

THUMBNAIL_PX = 160
RADIOGRAPH_QUALITY = 90
HEATMAP_QUALITY = 88
THUMBNAIL_QUALITY = 82

_LONGEST_FILE_LABEL = 48


@dataclass(frozen=True, slots=True)
class DrawnStudy:
    """A result whose images name their pictures, and those pictures: JPEG bytes by file name."""

    result: StudyResult
    pictures: Mapping[str, bytes]


def draw_study(result: StudyResult, pixels: Sequence[ImagePixels]) -> DrawnStudy:
    """Draw every picture of a study; `pixels` follows the order of its images."""
    pictures: dict[str, bytes] = {}
    images = []
    for number, (image, arrays) in enumerate(zip(result.images, pixels, strict=True), start=1):
        radiograph = encode_jpeg(arrays.display, RADIOGRAPH_QUALITY)
        thumbnail = encode_jpeg(shrink(arrays.display, THUMBNAIL_PX), THUMBNAIL_QUALITY)
        image_file = named_by_content(f"image-{number}.jpg", radiograph)
        thumbnail_file = named_by_content(f"thumb-{number}.jpg", thumbnail)
        heatmaps = dict(_draw_heatmaps(number, image, arrays, result.engine))
        pictures |= {image_file: radiograph, thumbnail_file: thumbnail}
        pictures |= {heatmap.file: picture for heatmap, picture in heatmaps.items()}
        named = replace(image, image_file=image_file, thumbnail_file=thumbnail_file, heatmaps=tuple(heatmaps))
        images.append(named)
    return DrawnStudy(replace(result, images=tuple(images)), pictures)


def labels_to_draw(image: ImageResult, engine: EngineDescription) -> list[int]:
    """Return which labels get a heatmap on this image: the positive ones, or the highest when none is.

    Urgent ones come first, then the more probable, as in the table of findings.
    A class that means "nothing found" gets none: there is no place to point at.
    """
    labels, calls = engine.labels, judge_study(engine, [image.probabilities]).calls
    findings = [n for n, label in enumerate(labels) if not label.normal] or list(range(len(labels)))
    positive = [n for n in findings if calls[n]]
    if not positive:
        return [max(findings, key=lambda n: image.probabilities[n])]
    return sorted(positive, key=lambda n: (not labels[n].urgent, -image.probabilities[n]))


def heatmap_file_names(number: int, labels: Sequence[Label]) -> list[str]:
    """Return one file name per label: only letters, digits and _ of the label, different even where those agree."""
    names: list[str] = []
    for position, label in enumerate(labels, start=1):
        safe = re.sub(r"[^A-Za-z0-9]+", "_", label.name).strip("_")[:_LONGEST_FILE_LABEL]
        name = f"heatmap-{number}-{safe or f'_{position}'}.jpg"
        # Compared without case: a folder may be copied to a disk that does not tell "a" from "A". And again: the name
        # that gets its place at its end may be another label's own.
        while name.lower() in (earlier.lower() for earlier in names):
            safe = f"{safe}_{position}"
            name = f"heatmap-{number}-{safe}.jpg"
        names.append(name)
    return names


def shrink(display: NDArray[np.uint8], long_side_px: int) -> NDArray[np.uint8]:
    """Return the image with its long side at most `long_side_px`, by area averaging.

    By half first, where that goes even: averages of averages of four pixels each, in half the time.
    """
    height, width = display.shape[:2]
    factor = min(1.0, long_side_px / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if factor < 0.5 and height % 2 == 0 and width % 2 == 0:
        display = np.asarray(cv2.resize(display, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(display, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Encode grey [H,W] or RGB [H,W,3] uint8 pixels as JPEG, without metadata."""
    ordered = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded, content = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise StudyFailed(f"a picture of {pixels.shape} cannot be written as JPEG")
    return content.tobytes()


def _draw_heatmaps(
    number: int, image: ImageResult, arrays: ImagePixels, engine: EngineDescription
) -> Iterator[tuple[Heatmap, bytes]]:
    labels = engine.labels
    files, finder = heatmap_file_names(number, labels), PlaceFinder(image, arrays.display)
    for n in labels_to_draw(image, engine):
        activation = activation_on_display(arrays.cams[n], arrays.geometry, arrays.display.shape, engine.cells)
        peak_x, peak_y = peak_in_stored(activation, arrays.geometry)
        overlay = encode_jpeg(draw_heatmap(arrays.display, activation), HEATMAP_QUALITY)
        file = named_by_content(files[n], overlay)
        is_nowhere = is_faint(activation)
        geometry = arrays.geometry
        place = "" if is_nowhere else finder.place(peak_x / geometry.columns, peak_y / geometry.rows)
        yield Heatmap(labels[n].name, file, peak_x, peak_y, is_nowhere, place), overlay
