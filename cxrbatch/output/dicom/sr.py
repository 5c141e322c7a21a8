"""The structured report: what the engine says of each image, as measurements that a machine can read.

A Comprehensive 3D SR after TID 1500 "Measurement Report" (PS3.16), as the IHE profile AI Results asks for: an image
library, and for each image and label a measurement group (TID 1501) with the probability as Certainty of Finding, the
verdict as Presence of property, and which algorithm says so (TID 4019). Nobody has verified it, and it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from cxrbatch.config import HeatmapChoice
from cxrbatch.errors import Flag
from cxrbatch.output.dicom import codes
from cxrbatch.output.dicom.codes import Code, clipped, code_of_finding, dcm
from cxrbatch.output.dicom.content_items import (
    ACQUIRED,
    CONTAINS,
    MODIFIES,
    OBSERVED,
    TEMPLATE_RESOURCE,
    TEMPLATE_RESOURCE_UID,
    code_item,
    container,
    content_sequence,
    image_item,
    number_item,
    text_item,
    uid_item,
)
from cxrbatch.output.dicom.identity import (
    MANUFACTURER,
    RESEARCH,
    begin_object,
    coded,
    device_uid,
    finished_bytes,
    instance_reference,
    object_uid,
    orientation_of,
    tracking_uid,
    version_of,
)
from cxrbatch.output.dicom.object_files import referable_images
from cxrbatch.output.report.findings import label_name
from cxrbatch.output.report.maps import shown_heatmaps
from cxrbatch.pages import wording
from cxrbatch.records import (
    OUTSIDE_LUNGS,
    EngineDescription,
    Heatmap,
    ImageResult,
    Label,
    StudyResult,
    call_image,
    call_is_contested,
)

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SR_SERIES_NUMBER = 9901
_FIGURES = ("sensitivity", "specificity", "auroc")
_TITLE = dcm("126000", "Imaging Measurement Report")
_MEASUREMENTS, _GROUP = dcm("126010", "Imaging Measurements"), dcm("125007", "Measurement Group")
_LIBRARY, _LIBRARY_GROUP = dcm("111028", "Image Library"), dcm("126200", "Image Library Group")
_SOURCE = Code("260753009", "SCT", "Source")
_FINDING_SITE = Code("363698007", "SCT", "Finding Site")
_PARAMETERS = dcm("111002", "Algorithm Parameters")
_MODALITIES = {
    "CR": "Computed Radiography",
    "DX": "Digital Radiography",
    "RG": "Radiographic imaging",
}


def render_sr(result: StudyResult, heatmaps: HeatmapChoice, former: Path | None = None) -> bytes:
    """Return the structured report of a study as a DICOM file.

    Args:
        result: the study; one of its images at least can be referred to (`referable_images`).
        heatmaps: of which labels the place of the heatmap's peak is told.
        former: the structured report of the revision before, which this one follows.
    """
    images = [image for _, image in referable_images(result)]
    made = begin_object(result, COMPREHENSIVE_3D_SR, "sr", object_uid(result, _kind(images, heatmaps)))
    made.Modality, made.SeriesNumber, made.InstanceNumber = "SR", SR_SERIES_NUMBER, 1
    made.SeriesDescription = f"{RESEARCH}: findings"
    made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    made.PerformedProcedureCodeSequence, made.ReferencedPerformedProcedureStepSequence = [], []
    made.CurrentRequestedProcedureEvidenceSequence = [_evidence(result, images)]
    if former is not None and (reference := _former_document(former, result)):
        made.PredecessorDocumentsSequence = [reference]
    _add_root(made)
    groups = [group for image in images for group in _groups(image, result.engine, heatmaps)]
    parts = [*_context(result.engine), _library(images), container(_MEASUREMENTS, groups)]
    return finished_bytes(made, result) + content_sequence(parts)


def _kind(images: Sequence[ImageResult], heatmaps: HeatmapChoice) -> str:
    """Return what an object's UID depends on: places were not told at first, and what says more is another object."""
    has_places = any(heatmap.place for image in images for heatmap in image.heatmaps)
    return f"sr {heatmaps}{' places' if has_places else ''}"


def _add_root(made: Dataset) -> None:
    """Add what the root of the content says of itself: all but its items, which are the end of the file."""
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = [coded(_TITLE)]
    template = Dataset()
    template.MappingResource, template.MappingResourceUID = TEMPLATE_RESOURCE, TEMPLATE_RESOURCE_UID
    template.TemplateIdentifier = "1500"
    made.ContentTemplateSequence = [template]


# --------------------------------------------------------------------------- what is referred to


def _evidence(result: StudyResult, images: list[ImageResult]) -> Dataset:
    by_series: dict[str, list[Dataset]] = {}
    for image in images:
        by_series.setdefault(image.header.series_instance_uid, []).append(instance_reference(image.header))
    return _study_reference(result.header.study_instance_uid, by_series)


def _former_document(former: Path, result: StudyResult) -> Dataset | None:
    """Return the reference to an earlier report; None where somebody put something else in its place."""
    try:
        said = dcmread(former, specific_tags=["StudyInstanceUID", "SeriesInstanceUID"])
        reference, study, series = Dataset(), str(said.StudyInstanceUID), str(said.SeriesInstanceUID)
        reference.ReferencedSOPClassUID = said.file_meta.MediaStorageSOPClassUID
        reference.ReferencedSOPInstanceUID = said.file_meta.MediaStorageSOPInstanceUID
    except (OSError, EOFError, AttributeError, ValueError, InvalidDicomError):
        return None
    return _study_reference(study, {series: [reference]}) if study == result.header.study_instance_uid else None


def _study_reference(study_instance_uid: str, by_series: dict[str, list[Dataset]]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = []
    for uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = uid, references
        study.ReferencedSeriesSequence.append(series)
    return study


# --------------------------------------------------------------------------- content


def _context(engine: EngineDescription) -> list[bytes]:
    """Return what goes for the whole report: its language, the device that observes, the procedure (TID 1204, 1004)."""
    return [
        code_item(MODIFIES, dcm("121049", "Language of Content Item and Descendants"), codes.ENGLISH),
        code_item(OBSERVED, dcm("121005", "Observer Type"), dcm("121007", "Device")),
        uid_item(OBSERVED, dcm("121012", "Device Observer UID"), device_uid(engine)),
        text_item(OBSERVED, dcm("121013", "Device Observer Name"), f"{MANUFACTURER} ({RESEARCH})"),
        text_item(OBSERVED, dcm("121014", "Device Observer Manufacturer"), MANUFACTURER),
        text_item(OBSERVED, dcm("121015", "Device Observer Model Name"), _engine_name(engine)),
        text_item(OBSERVED, dcm("121016", "Device Observer Serial Number"), engine.sha256),
        code_item(MODIFIES, dcm("121058", "Procedure reported"), codes.PLAIN_CHEST_RADIOGRAPH),
    ]


def _library(images: list[ImageResult]) -> bytes:
    """Return the image library (TID 1600): which images, of which modality, how large."""
    entries = []
    for image in images:
        header, said = image.header, []
        if meaning := _MODALITIES.get(header.modality.upper()):
            said.append(code_item(ACQUIRED, dcm("121139", "Modality"), dcm(header.modality.upper(), meaning)))
        said.append(number_item(ACQUIRED, dcm("110910", "Pixel Data Rows"), header.rows, codes.PIXELS))
        said.append(number_item(ACQUIRED, dcm("110911", "Pixel Data Columns"), header.columns, codes.PIXELS))
        entries.append(image_item(CONTAINS, _SOURCE, header, said))
    return container(_LIBRARY, [container(_LIBRARY_GROUP, entries)])


def _groups(image: ImageResult, engine: EngineDescription, heatmaps: HeatmapChoice) -> Iterator[bytes]:
    """Yield a measurement group (TID 1501) per label of one image."""
    labels, rule = engine.labels, engine.verdict_rule
    calls = call_image(labels, rule, image.probabilities)
    contested = call_is_contested(labels, rule, image.probabilities, image.disagreement)
    shown = {heatmap.label: heatmap for heatmap in shown_heatmaps(image, labels, heatmaps)}
    outside = {name for name, heatmap in shown.items() if heatmap.place == OUTSIDE_LUNGS and not heatmap.faint}
    for label, probability, call, is_contested in zip(labels, image.probabilities, calls, contested, strict=True):
        items = [
            text_item(OBSERVED, dcm("112039", "Tracking Identifier"), f"{MANUFACTURER} {label_name(label)}"),
            uid_item(OBSERVED, dcm("112040", "Tracking Unique Identifier"), tracking_uid(image, engine, label.name)),
            code_item(CONTAINS, dcm("121071", "Finding"), code_of_finding(label.name)),
            code_item(MODIFIES, _FINDING_SITE, codes.CHEST),
            *_algorithm(engine, label),
            number_item(CONTAINS, dcm("111012", "Certainty of Finding"), 100 * probability, codes.PERCENT),
        ]
        if label.operating_point is not None and rule == "threshold":
            items.append(number_item(CONTAINS, codes.OPERATING_POINT, 100 * label.operating_point, codes.PERCENT))
        items.append(code_item(CONTAINS, dcm("121052", "Presence of property"), _presence(call)))
        if place := _place(shown.get(label.name), image):
            items.append(text_item(CONTAINS, codes.HEATMAP_PEAK, place))
        is_outside = bool(call) and not label.normal and label.name in outside
        if comment := _comment(image, call, engine, is_contested=is_contested, is_outside=is_outside):
            items.append(text_item(CONTAINS, dcm("121106", "Comment"), comment))
        items.append(image_item(CONTAINS, dcm("121112", "Source of Measurement"), image.header))
        yield container(_GROUP, items, "1501")


def _algorithm(engine: EngineDescription, label: Label) -> Iterator[bytes]:
    """Yield which algorithm says so (TID 4019), and what was measured of its verdicts on this label."""
    rule = engine.verdict_rule
    yield text_item(MODIFIES, dcm("111001", "Algorithm Name"), _engine_name(engine))
    yield text_item(MODIFIES, dcm("111003", "Algorithm Version"), version_of(engine))
    yield text_item(MODIFIES, _PARAMETERS, f"backend={engine.backend} precision={engine.precision} verdict={rule}")
    for name in _FIGURES:
        if (value := label.figure(name, rule)) is not None:
            low, high = label.figure(f"{name}_low", rule), label.figure(f"{name}_high", rule)
            interval = f" (95 % {low:.3f} to {high:.3f})" if low is not None and high is not None else ""
            yield text_item(MODIFIES, _PARAMETERS, f"{name}={value:.3f}{interval}")
    yield code_item(MODIFIES, dcm("111000", "Algorithm Family"), dcm("123110", "Artificial Intelligence"))


def _engine_name(engine: EngineDescription) -> str:
    return clipped(engine.name, 64) or "engine"


def _notice(engine: EngineDescription) -> str:
    return wording.plain(engine.notice, longest=600)


def _presence(call: bool | None) -> Code:
    if call is None:
        return codes.NOT_JUDGED
    return codes.PRESENT if call else codes.ABSENT


def _place(heatmap: Heatmap | None, image: ImageResult) -> str:
    """Say in words where a heatmap has its peak; empty where it is not shown, or has none.

    That is the place in the patient that the report names. Where it is not known, the third and half of the image are
    told: which side of the patient that is depends on how the image lies, and is told where the source says that.
    """
    if heatmap is None or heatmap.faint or not image.header.rows or not image.header.columns:
        return ""
    at = f"column {heatmap.peak_x:.0f}, row {heatmap.peak_y:.0f}"
    if heatmap.place in wording.PLACES:
        return f"{wording.PLACES[heatmap.place]}; {at}"
    thirds = ("upper third", "middle third", "lower third")
    height = thirds[min(int(3 * heatmap.peak_y / image.header.rows), 2)]
    is_right_half = heatmap.peak_x >= image.header.columns / 2
    words = [f"{height}, {'right' if is_right_half else 'left'} half of the image"]
    orientation = orientation_of(image.header)
    if orientation and orientation[0][0] in "LR":
        towards_left = orientation[0][0] == "L"
        words.append(f"the patient's {'left' if is_right_half == towards_left else 'right'} by Patient Orientation")
    return "; ".join([*words, at])


def _comment(
    image: ImageResult, call: bool | None, engine: EngineDescription, *, is_contested: bool, is_outside: bool
) -> str:
    """Return what a reader of the score must know: why there is no verdict, what is special about image and engine."""
    sentences = [notice] if (notice := _notice(engine)) else []
    if call is None:
        sentences.append("Nobody may judge this finding: too few images stand behind its operating point.")
    if is_outside:
        sentences.append("The heatmap has its peak outside of the lungs: this score may come from something else.")
    if is_contested:
        sentences.append("The members of this engine disagree about this verdict.")
    sentences += [wording.FLAG_SENTENCES[flag] for flag in image.flags if flag is not Flag.DUPLICATE_UID]
    return " ".join(sentences)
