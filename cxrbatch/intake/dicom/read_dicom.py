"""A DICOM file read: what its header tells, and the decoded Radiograph. Start at `read_dicom`."""

from __future__ import annotations

from dataclasses import replace

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.codecs.jpeg2000 import ENOUGH, ENOUGH_OF_QUARTER
from cxrbatch.intake.codecs.transfer_syntaxes import ENCAPSULATED
from cxrbatch.intake.dicom.dicom_file import DicomFile
from cxrbatch.intake.dicom.elements import Elements
from cxrbatch.intake.dicom.pixel_data import decode_pixels, encoded_pixels, has_hole, hash_stored
from cxrbatch.intake.dicom.pixel_module import PixelModule, check_pixel_module, read_look, read_pixel_module
from cxrbatch.intake.display import display_beside, display_pixels
from cxrbatch.intake.libraries import refusing_malformed
from cxrbatch.intake.screen import Inspection, ScreenFacts, assemble_radiograph, screen_header
from cxrbatch.intake.vocabulary import SpeciesFacts
from cxrbatch.records import Gray8, Header, Radiograph, Rejection, SourceFacts

# The nearest to the image first; Study Description, the farthest, is in the header.
_DESCRIPTIONS = (
    "SeriesDescription",
    "AcquisitionDeviceProcessingDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
)

# Longer than any value of these may be (LO, PS3.5 6.2).
_LONGEST_PART = 64


def inspect_dicom(dicom: DicomFile, settings: Settings, missing_bytes: int = 0) -> Inspection:
    """Tell from the header alone what the file is and whether it is refused already.

    Args:
        dicom: the parsed file, or its beginning.
        settings: the limits.
        missing_bytes: how much of the end of the file was not read.

    Raises:
        ImageRejected: there is no header that makes sense (unreadable_header).
    """
    with refusing_malformed(Reason.UNREADABLE_HEADER, "the DICOM header is damaged"):
        header = read_header(dicom)
        flags = _file_flags(dicom)
        try:
            flags += screen_header(header, _read_screen_facts(dicom.elements), settings)
            _check(read_pixel_module(dicom.elements), dicom, settings, missing_bytes)
        except ImageRejected as rejected:
            # Of what gets no score nothing is written that would join its study.
            return Inspection(replace(header, source=None), flags, Rejection(rejected.reason, rejected.message))
        return Inspection(header, flags)


def read_dicom(dicom: DicomFile, settings: Settings, source_px: int) -> Radiograph:
    """Decode the radiograph of a whole file; an engine's input will be made of at most `source_px` on the long side.

    Raises:
        ImageRejected: with the reason for which it gets no score.
    """
    inspection = inspect_dicom(dicom, settings)
    if inspection.rejection is not None:
        raise ImageRejected(inspection.rejection.reason, inspection.rejection.message)
    module = read_pixel_module(dicom.elements)
    with refusing_malformed(Reason.UNREADABLE_PIXELS, "the pixel data cannot be decoded"):
        look, polarity_flags = read_look(dicom.elements, module)
        encoded = encoded_pixels(dicom, module)
        enough = ENOUGH_OF_QUARTER if settings.jpeg2000 == "quarter" else ENOUGH
        stored = decode_pixels(dicom, module, encoded, enough * source_px)
        displayed = display_pixels(stored, look, source_px)

        def decode_larger() -> Gray8:
            is_whole = stored.shape == (module.rows, module.columns)
            # Reduced again, not from there: a decoder's half of a half is not its quarter.
            larger = stored if is_whole else decode_pixels(dicom, module, encoded, ENOUGH * settings.max_display_px)
            return display_pixels(larger, look, settings.max_display_px).display

        stored_px = max(module.rows, module.columns)
        shown = display_beside(displayed.display, settings.max_display_px, source_px, stored_px, decode_larger)
        is_damaged = dicom.transfer_syntax not in ENCAPSULATED and has_hole(stored)
    damage_flags = (Flag.DAMAGE_SUSPECT,) if is_damaged else ()
    flags = inspection.flags + polarity_flags + displayed.flags + damage_flags
    digest = hash_stored(dicom, module, encoded)
    return assemble_radiograph(inspection.header, displayed.display, flags, digest).shown_as(shown)


def read_header(dicom: DicomFile) -> Header:
    """Read identity and facts as text.

    Raises:
        ImageRejected: there are none; the bytes were no data set of this transfer syntax.
    """
    elements = dicom.elements
    text = elements.text
    header = Header(
        study_instance_uid=text("StudyInstanceUID"),
        series_instance_uid=text("SeriesInstanceUID"),
        sop_instance_uid=text("SOPInstanceUID"),
        sop_class_uid=text("SOPClassUID"),
        patient_id=text("PatientID"),
        patient_id_issuer=text("IssuerOfPatientID"),
        patient_id_universal_issuer=_universal_issuer(elements),
        patient_name=text("PatientName"),
        patient_birth_date=text("PatientBirthDate"),
        patient_sex=text("PatientSex"),
        patient_age=text("PatientAge"),
        accession_number=text("AccessionNumber"),
        study_date=text("StudyDate"),
        study_description=text("StudyDescription"),
        modality=text("Modality"),
        body_part=text("BodyPartExamined"),
        view=text("ViewPosition"),
        rows=elements.integer("Rows", 0),
        columns=elements.integer("Columns", 0),
        photometric=text("PhotometricInterpretation"),
        transfer_syntax=str(dicom.transfer_syntax),
        is_name_certain=elements.is_name_certain,
        patient_orientation=text("PatientOrientation"),
        scanner=_scanner(elements),
        source=_read_source(elements),
    )
    if dicom.is_cut:
        raise ImageRejected(Reason.UNREADABLE_HEADER, "the file ends inside its header")
    if not header.study_instance_uid:
        raise ImageRejected(Reason.UNREADABLE_HEADER, "the header names no study (Study Instance UID)")
    return header


def _read_source(elements: Elements) -> SourceFacts:
    text = elements.text
    return SourceFacts(
        character_set=elements.texts("SpecificCharacterSet"),
        study_time=text("StudyTime"),
        study_id=text("StudyID"),
        referring_physician=text("ReferringPhysicianName"),
        orientation=elements.texts("PatientOrientation"),
        laterality=text("Laterality"),
        timezone=text("TimezoneOffsetFromUTC"),
        identity_removed=text("PatientIdentityRemoved").upper() == "YES",
        removed_by=elements.texts("DeidentificationMethod"),
        removed_by_codes=tuple(
            (item.text("CodeValue"), item.text("CodingSchemeDesignator"), item.text("CodeMeaning"))
            for item in elements.items("DeidentificationMethodCodeSequence")
        ),
    )


def _universal_issuer(elements: Elements) -> str:
    """Return who issued the Patient ID by a name that is one of its kind in the world (PS3.3 C.2.2)."""
    items = elements.items("IssuerOfPatientIDQualifiersSequence")
    return items[0].text("UniversalEntityID") if items else ""


def _scanner(elements: Elements) -> str:
    """Return what took the image: manufacturer, model and station, as many of them as are told."""
    told = (
        elements.text(keyword)[:_LONGEST_PART] for keyword in ("Manufacturer", "ManufacturerModelName", "StationName")
    )
    return " / ".join(filter(None, told))


def _check(module: PixelModule, dicom: DicomFile, settings: Settings, missing_bytes: int) -> None:
    offset = dicom.pixel_data.offset if dicom.pixel_data else 0
    check_pixel_module(module, dicom, len(dicom.body) - offset + missing_bytes, settings)
    if dicom.deflated_badly and not missing_bytes:
        raise ImageRejected(dicom.deflated_badly, "the deflated data do not end where the data set does")


def _read_screen_facts(elements: Elements) -> ScreenFacts:
    views = elements.items("ViewCodeSequence")
    return ScreenFacts(
        manufacturer=elements.text("Manufacturer"),
        intent=elements.text("PresentationIntentType"),
        image_type=elements.texts("ImageType"),
        conversion=elements.text("ConversionType"),
        view_meanings=tuple(item.text("CodeMeaning") for item in views),
        view_codes=tuple(item.text("CodeValue") for item in views),
        region_meanings=tuple(item.text("CodeMeaning") for item in elements.items("AnatomicRegionSequence")),
        orientation=elements.texts("PatientOrientation"),
        descriptions=tuple(elements.text(keyword) for keyword in _DESCRIPTIONS),
        lossy=elements.text("LossyImageCompression"),
        burned_in=elements.text("BurnedInAnnotation"),
        species=_read_species(elements),
    )


def _read_species(elements: Elements) -> SpeciesFacts:
    species, breeds = elements.items("PatientSpeciesCodeSequence"), elements.items("PatientBreedCodeSequence")
    return SpeciesFacts(
        species=(elements.text("PatientSpeciesDescription"), *(item.text("CodeMeaning") for item in species)),
        codes=tuple(item.text("CodeValue") for item in species),
        marks=(
            elements.text("PatientBreedDescription"),
            elements.text("PatientSexNeutered"),
            *(item.text("CodeMeaning") for item in breeds),
        ),
        responsible=elements.text("ResponsiblePersonRole"),
    )


def _file_flags(dicom: DicomFile) -> tuple[Flag, ...]:
    return (*dicom.flags, Flag.CHARSET_REPLACED) if dicom.elements.charset_replaced else dicom.flags
