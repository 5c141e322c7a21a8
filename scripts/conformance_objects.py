"""What the objects that cxrbatch makes hold, by module: read from some that have as little in common as can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pydicom
from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cxrbatch.errors import Flag
from cxrbatch.output.dicom.object_files import DOCUMENT, OVERLAY, SR
from cxrbatch.output.dicom.objects import ObjectParts, render_objects
from cxrbatch.output.report.pictures import draw_study
from cxrbatch.records import Label, SourceFacts, StudyResult
from tests.factories.objects import SOURCE, make_dicom_result
from tests.factories.output import make_pixels
from tests.factories.validated import VALIDATED

KINDS = {"sr": SR, "sc": OVERLAY.format(1), "pdf": DOCUMENT}

MODULES: dict[str, str] = {
    "Patient (C.7.1.1)": "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex "
    "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence",
    "General Study (C.7.2.1)": "StudyInstanceUID StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber "
    "StudyDescription",
    "Patient Study (C.7.2.2)": "PatientAge",
    "Series (C.7.3.1, C.17.1, C.24.1)": "Modality SeriesInstanceUID SeriesNumber SeriesDate SeriesTime "
    "SeriesDescription ReferencedPerformedProcedureStepSequence",
    "Equipment (C.7.5.1, C.7.5.2, C.8.6.1)": "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions "
    "ConversionType",
    "SOP Common (C.12.1)": "SOPClassUID SOPInstanceUID SpecificCharacterSet InstanceCreationDate InstanceCreationTime "
    "TimezoneOffsetFromUTC CodingSchemeIdentificationSequence ContributingEquipmentSequence InstanceNumber",
    "Content of the report (C.17.2, C.17.3)": "ContentDate ContentTime CompletionFlag VerificationFlag PreliminaryFlag "
    "PredecessorDocumentsSequence PerformedProcedureCodeSequence CurrentRequestedProcedureEvidenceSequence ValueType "
    "ContinuityOfContent ConceptNameCodeSequence ContentTemplateSequence ContentSequence",
    "Image (C.7.6.1, C.7.6.3)": "ImageType PatientOrientation Laterality ImageComments DerivationDescription "
    "SourceImageSequence BurnedInAnnotation LossyImageCompression LossyImageCompressionRatio "
    "LossyImageCompressionMethod SamplesPerPixel PhotometricInterpretation PlanarConfiguration Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation PixelData",
    "Encapsulated document (C.24.2)": "AcquisitionDateTime DocumentTitle SourceInstanceSequence "
    "MIMETypeOfEncapsulatedDocument EncapsulatedDocumentLength EncapsulatedDocument",
}
"""Attributes by module of PS3.3, under the first that they belong to."""

_COPIED = (
    "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientAge StudyInstanceUID StudyDate "
    "StudyTime StudyID StudyDescription ReferringPhysicianName AccessionNumber PatientOrientation Laterality "
    "TimezoneOffsetFromUTC SpecificCharacterSet PatientIdentityRemoved DeidentificationMethod "
    "DeidentificationMethodCodeSequence"
)


def attribute_table() -> str:
    """Return the attributes of all kinds of object as Markdown, with what each holds in each kind."""
    made = [_objects_of(result) for result in _results()]
    rows = [f"| module | attribute | {' | '.join(KINDS)} |", "| --- " * (len(KINDS) + 2) + "|"]
    for module, keywords in MODULES.items():
        for number, keyword in enumerate(keywords.split()):
            cells = [_cell([_element(each[kind], keyword) for each in made], keyword) for kind in KINDS]
            name = dictionary_description(keyword)
            rows.append(f"| {'' if number else module} | {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def unlisted_attributes() -> set[str]:
    """Return the attributes of objects that no module of the table has."""
    listed = {keyword for keywords in MODULES.values() for keyword in keywords.split()}
    made = [dataset for result in _results() for dataset in _objects_of(result).values()]
    return {element.keyword for dataset in made for element in dataset} - listed


def _results() -> Iterator[StudyResult]:
    """Yield three results: two that have everything, and none of it in common, and one that lacks what it may."""
    codes = (("113100", "DCM", "Basic Application Confidentiality Profile"),)
    removed: dict[str, Any] = {"identity_removed": True, "removed_by": ("by hand",), "removed_by_codes": codes}
    known = replace(SOURCE, character_set=("ISO_IR 100",), timezone="+0100", laterality="L", **removed)
    yield make_dicom_result(((0.9, 0.2, 0.1), (0.9, 0.2, 0.1)), source=known, patient_id_issuer="A")
    other = SourceFacts(("ISO_IR 192",), "101112", "S2", "Roe^Rita", ("R", "F"), "R", "-0500", **removed)
    fields: dict[str, Any] = {
        "patient_name": "Other^O",
        "patient_id": "2",
        "patient_id_issuer": "B",
        "patient_birth_date": "19990101",
    }
    fields |= {"patient_sex": "M", "patient_age": "025Y", "study_date": "20250607", "study_description": "Thorax"}
    fields |= {"accession_number": "A2", "study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.4"}
    second = make_dicom_result(
        ((0.7,),), labels=[Label("Mass", 0.2, maps=VALIDATED)], source=other, revision=2, **fields
    )
    engine = replace(second.engine, name="another", sha256="0badcafe" * 8, notice="Knows phantoms.")
    pictured = replace(second.images[0], flags=(Flag.BURNED_IN_ANNOTATION,))
    yield replace(
        second, images=(pictured,), engine=engine, scored_at="2025-06-08T09:10:11+00:00", cxrbatch_version="9.9"
    )
    nothing: dict[str, Any] = dict.fromkeys([field for field in fields if not field.endswith("_uid")], "")
    yield make_dicom_result(source=None, **nothing)


def _objects_of(result: StudyResult) -> dict[str, Dataset]:
    """Return the objects of a result by kind; of a later revision, that which follows the first."""
    rows = 400 + 100 * result.revision
    drawn = draw_study(result, [make_pixels(len(result.engine.labels), rows=rows) for _ in result.images])
    with TemporaryDirectory() as folder:
        former = None
        if result.revision > 1:
            former = Path(folder) / SR
            first = render_objects(replace(drawn.result, revision=1), ObjectParts({}), ["sr"], "all")
            former.write_bytes(first[SR])
        parts = ObjectParts(drawn.pictures, b"%PDF-1.7" + b" " * result.revision, former)
        objects = render_objects(drawn.result, parts, list(KINDS), "all")
    names = KINDS | {"sc": OVERLAY.format(len(result.images))}
    return {kind: pydicom.dcmread(BytesIO(objects[name])) for kind, name in names.items()}


def _element(dataset: Dataset, keyword: str) -> DataElement | None:
    return dataset[keyword] if keyword in dataset else None  # noqa: SIM401  # get() returns its value


def _cell(found: list[DataElement | None], keyword: str) -> str:
    """Say what an attribute holds in one kind of object, by those of the three results."""
    there = [element for element in found if element is not None]
    if not there:
        return ""
    if all(element.is_empty for element in there):
        return "empty"
    is_always, is_full = len(there) == len(found), not any(element.is_empty for element in there)
    how = "copied" if keyword in _COPIED.split() else "made"
    texts = {str(element.value) for element in there}
    if how == "made" and is_always and len(texts) == 1 and there[0].VR not in {"SQ", "OB", "UN"}:
        return f"`{_text(there[0])}`"
    return how if is_always and is_full else f"{how}, or empty" if is_always else f"{how}, where known"


def _text(element: DataElement) -> str:
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    # A UID by itself: pydicom shows its name.
    return "\\".join("".join(value) if isinstance(value, str) else str(value) for value in values).replace("|", "\\|")
