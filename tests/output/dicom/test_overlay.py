"""The overlay is a picture of the radiograph beside its heatmaps; the document is report.pdf, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from cxrbatch.errors import Flag
from cxrbatch.output.dicom.object_files import referable_images
from cxrbatch.output.dicom.objects import ObjectParts, render_objects
from cxrbatch.output.dicom.overlay import Panel, draw_panels
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.records import Label, StudyResult
from tests.factories.objects import COMPUTED_RADIOGRAPHY, INSTANCE, SOURCE, errors_in, make_dicom_result, needs_dciodvfy
from tests.factories.output import make_pixels

PDF = b"%PDF-1.7 of some odd length"
KINDS = ("sr", "sc", "pdf")


def drawn(result: StudyResult) -> tuple[StudyResult, ObjectParts]:
    study = draw_study(result, [make_pixels(len(result.engine.labels)) for _ in result.images])
    return study.result, ObjectParts(study.pictures, PDF)


@needs_dciodvfy
def test_every_object_is_conformant_and_is_the_same_again(tmp_path: Path) -> None:
    result, parts = drawn(make_dicom_result(((0.9, 0.8, 0.1), (0.9, 0.9, 0.9))))
    objects = render_objects(result, parts, KINDS, "all")
    assert sorted(objects) == ["overlay-1.dcm", "overlay-2.dcm", "report.dcm", "sr.dcm"]
    for name, content in objects.items():
        (tmp_path / name).write_bytes(content)
        assert errors_in(tmp_path / name) == [], name
    assert render_objects(result, parts, KINDS, "all") == objects
    uids = {pydicom.dcmread(tmp_path / name).SOPInstanceUID for name in objects}
    assert len(uids) == len(objects)


def test_an_overlay_shows_radiograph_and_heatmaps_side_by_side() -> None:
    result, parts = drawn(make_dicom_result(((0.9, 0.8, 0.1),)))
    made = pydicom.dcmread(BytesIO(render_objects(result, parts, ("sc",), "all")["overlay-1.dcm"]))
    assert (made.PhotometricInterpretation, made.BurnedInAnnotation, made.Laterality) == ("YBR_FULL_422", "NO", "")
    assert made.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == f"{INSTANCE}.1"
    assert made.PatientOrientation == ["L", "F"]
    pixels = made.pixel_array
    assert pixels.shape == (made.Rows, made.Columns, 3)
    left, middle, right = np.array_split(pixels.astype(int), 3, axis=1)
    colour = [np.ptp(part[100:-60, 20:-20], axis=2).mean() for part in (left, middle, right)]
    assert colour[0] < 3, "the radiograph is grey"
    assert min(colour[1:]) > 6, "heatmaps have colours"
    footer = pixels[-20:].astype(int)
    assert (np.ptp(footer, axis=2) > 100).any(), "the warning stands below, in yellow"


def test_what_is_said_in_the_pixels_is_drawn() -> None:
    grey = np.full((200, 200, 3), 90, np.uint8)
    said, other = (draw_panels([Panel("Radiograph", grey), Panel(title, grey)], "AI") for title in ("Mass", "Nodule"))
    silent = draw_panels([Panel("", grey), Panel("", grey)], "")
    assert said.shape == other.shape
    assert (said != other).any()
    assert silent.max() == 90


@pytest.mark.parametrize("count", range(1, 16))
def test_any_number_of_panels_is_one_sheet_that_is_not_too_wide(count: int) -> None:
    sheet = draw_panels([Panel("Title " * 20, np.zeros((64, 50, 3), np.uint8))] * count, "AI, research use only")
    assert sheet.dtype == np.uint8
    assert 400 < sheet.shape[1] < 2600


def test_heatmaps_that_are_not_shown_make_no_overlay() -> None:
    result, parts = drawn(make_dicom_result(((0.9, 0.2),), labels=(Label("Effusion", 0.5), Label("Mass", 0.5))))
    assert set(render_objects(result, parts, KINDS, "validated")) == {"sr.dcm", "report.dcm"}
    assert set(render_objects(result, parts, KINDS, "all")) == {"sr.dcm", "report.dcm", "overlay-1.dcm"}


def test_what_names_the_patient_in_the_source_does_so_in_the_overlay() -> None:
    result = make_dicom_result(source=replace(SOURCE, laterality="R"))
    burned = replace(result, images=(replace(result.images[0], flags=(Flag.BURNED_IN_ANNOTATION,)),))
    made = pydicom.dcmread(BytesIO(render_objects(*drawn(burned), ("sc",), "all")["overlay-1.dcm"]))
    assert (made.BurnedInAnnotation, made.Laterality) == ("YES", "R")


def test_the_document_holds_the_pdf_and_names_its_images() -> None:
    result, parts = drawn(make_dicom_result(((0.9, 0.2, 0.1), (0.3, 0.4, 0.5))))
    made = pydicom.dcmread(BytesIO(render_objects(result, parts, ("pdf",), "all")["report.dcm"]))
    assert made.EncapsulatedDocument[: made.EncapsulatedDocumentLength] == PDF
    referred = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in made.SourceInstanceSequence]
    assert referred == [(COMPUTED_RADIOGRAPHY, f"{INSTANCE}.{n}") for n in (1, 2)]
    assert made.BurnedInAnnotation == "YES"


@pytest.mark.parametrize(
    "fields",
    [
        {"study_instance_uid": ""},
        {"study_instance_uid": "1.2/../3"},
        {"series_instance_uid": ""},
        {"sop_class_uid": ""},
        {"sop_class_uid": "CR"},
        {"series_instance_uid": "1." + "2" * 63},
    ],
)
def test_what_nothing_can_refer_to_has_no_objects(fields: dict[str, Any]) -> None:
    result, parts = drawn(make_dicom_result(**fields))
    assert render_objects(result, parts, KINDS, "all") == {}


def test_what_is_deidentified_has_no_objects() -> None:
    result = replace(make_dicom_result(), deidentified=True)
    assert referable_images(result) == []
