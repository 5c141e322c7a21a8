"""The overlay: a radiograph beside its heatmaps in one picture that every viewer shows, as a Secondary Capture.

What it is stands in the pixels: which finding, its probability and verdict, and that an AI drew it for research. A
viewer that shows nothing else of the object shows that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import Flag, StudyFailed
from cxrbatch.output.dicom.codes import clipped, dcm
from cxrbatch.output.dicom.identity import (
    RESEARCH,
    begin_object,
    coded,
    finished_bytes,
    instance_reference,
    object_uid,
    orientation_of,
)
from cxrbatch.output.report.findings import NOT_JUDGED, label_name
from cxrbatch.output.report.heatmap import Rgb8
from cxrbatch.output.report.maps import NOT_VALIDATED, shown_heatmaps
from cxrbatch.pages import wording
from cxrbatch.records import ImageResult, StudyResult, call_image

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
OVERLAY_SERIES_NUMBER = 9902
_SOURCE_IMAGE = dcm("121322", "Source image for image processing operation")
_QUALITY = 88
_WIDEST_PX, _PANEL_PX, _NARROWEST_PX = 2048, 1024, 480
_BAR, _GAP_PX = 0.055, 4
_INK, _WARNING, _GROUND = (235, 238, 242), (255, 196, 64), (16, 18, 22)
_ISO_JPEG = "ISO_10918_1"


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of an overlay, RGB uint8 [H,W,3], and the line above it."""

    title: str
    pixels: Rgb8


def render_overlay(
    result: StudyResult, number: int, image: ImageResult, pictures: Mapping[str, bytes], heatmaps: HeatmapChoice
) -> bytes | None:
    """Return the overlay of one image as a DICOM file; None where no heatmap of it is shown.

    Args:
        result: the study.
        number: which of its images, counted from 1.
        image: that image, whose pictures are drawn.
        pictures: JPEG files by name.
        heatmaps: which of them are shown.
    """
    shown = shown_heatmaps(image, result.engine.labels, heatmaps)
    if not shown:
        return None
    panels = [Panel("Radiograph", _decoded(pictures[image.image_file]))]
    panels += [Panel(_title(result, image, heatmap.label), _decoded(pictures[heatmap.file])) for heatmap in shown]
    engine = clipped(result.engine.name, 40)
    pixels = draw_panels(panels, f"{RESEARCH} - not for diagnosis - cxrbatch, engine {engine}")
    return _as_object(result, number, image, pixels, heatmaps)


def draw_panels(panels: Sequence[Panel], footer: str) -> Rgb8:
    """Return panels side by side, in rows where there are more than three, each under its title, and a line below all.

    Pictures that are small are enlarged, for the lines have to be legible.
    """
    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    height, width = panels[0].pixels.shape[:2]
    side = max(min(_PANEL_PX, _WIDEST_PX // columns), _NARROWEST_PX)
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    cells = [_cell(panel, size) for panel in panels]
    cells += [np.full_like(cells[0], 0)] * (-len(cells) % columns)
    rows = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    sheet = np.vstack(rows)
    bar = _line(footer, (sheet.shape[1], _bar_height(size[0])), _WARNING)
    return np.vstack([sheet, bar])


def _cell(panel: Panel, size: tuple[int, int]) -> Rgb8:
    """Return a picture under its title, with a gap around it."""
    picture = np.asarray(cv2.resize(panel.pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    below = np.vstack([_line(panel.title, (size[0], _bar_height(size[0])), _INK), picture])
    return np.pad(below, ((_GAP_PX, _GAP_PX), (_GAP_PX, _GAP_PX), (0, 0)))


def _bar_height(width: int) -> int:
    return max(22, round(width * _BAR))


def _line(text: str, size: tuple[int, int], colour: tuple[int, int, int]) -> Rgb8:
    """Return a bar with one line of text, as large as fits; RGB uint8 [H,W,3]."""
    width, height = size
    bar = Image.new("RGB", size, _GROUND)
    pen = ImageDraw.Draw(bar)
    points = height * 0.62
    length = pen.textlength(text, font=_font(round(points)))
    font = _font(max(8, int(points * min(1.0, 0.96 * width / max(length, 1)))))
    pen.text((round(0.02 * width), height / 2), text, fill=colour, font=font, anchor="lm")
    return np.asarray(bar, dtype=np.uint8)


@cache
def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow: the same on every machine."""
    return ImageFont.load_default(points)


def _title(result: StudyResult, image: ImageResult, name: str) -> str:
    """Return what stands above a heatmap: the finding, its probability, its verdict in this image."""
    engine = result.engine
    calls = call_image(engine.labels, engine.verdict_rule, image.probabilities)
    at = next(n for n, label in enumerate(engine.labels) if label.name == name)
    label, call = engine.labels[at], calls[at]
    verdict = NOT_JUDGED if call is None else "Positive" if call else "Negative"
    words = f"{label_name(label)} {wording.probability(image.probabilities[at], label.operating_point)} {verdict}"
    return _legible(words if label.has_validated_maps else f"{words} (map {NOT_VALIDATED})")


def _legible(text: str) -> str:
    """Return text in the letters that the font has: those of western Europe."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _decoded(content: bytes) -> Rgb8:
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if found is None:
        raise StudyFailed("a picture of the report cannot be decoded, so no overlay is made of it")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _encoded(pixels: Rgb8) -> bytes:
    """Return RGB pixels as a baseline JPEG with half as many colours as lines are wide: 4:2:2, YBR_FULL_422."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    encoded, content = cv2.imencode(".jpg", bgr, [*options, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422])
    if not encoded:
        raise StudyFailed(f"an overlay of {pixels.shape} cannot be written as JPEG")
    return content.tobytes()


def _as_object(result: StudyResult, number: int, image: ImageResult, pixels: Rgb8, heatmaps: HeatmapChoice) -> bytes:
    header = image.header
    uid = object_uid(result, f"sc {heatmaps}", number, header.sop_instance_uid)
    made = begin_object(result, SECONDARY_CAPTURE, "sc", uid)
    made.Modality, made.SeriesNumber, made.InstanceNumber = "OT", OVERLAY_SERIES_NUMBER, number
    made.SeriesDescription = f"{RESEARCH}: heatmaps"
    made.ConversionType, made.ImageType = "WSD", ["DERIVED", "SECONDARY"]
    made.PatientOrientation = orientation_of(header)
    laterality = header.source.laterality.upper() if header.source else ""
    made.Laterality = laterality if laterality in {"L", "R"} else ""
    notice = wording.plain(result.engine.notice, longest=600)
    made.ImageComments = f"{RESEARCH}. Where the scores of an engine came from; no segmentation. {notice}".strip()
    made.DerivationDescription = "class activation maps laid over the radiograph"
    source = instance_reference(header)
    source.PurposeOfReferenceCodeSequence = [coded(_SOURCE_IMAGE)]
    made.SourceImageSequence = [source]
    made.BurnedInAnnotation = "YES" if Flag.BURNED_IN_ANNOTATION in image.flags else "NO"
    _add_pixels(made, pixels)
    return finished_bytes(made, result)


def _add_pixels(made: Dataset, pixels: Rgb8) -> None:
    content = _encoded(pixels)
    made.SamplesPerPixel, made.PlanarConfiguration, made.PhotometricInterpretation = 3, 0, "YBR_FULL_422"
    made.Rows, made.Columns = pixels.shape[:2]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", _ISO_JPEG
    made.LossyImageCompressionRatio = f"{pixels.size / len(content):.2f}"
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([content])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
