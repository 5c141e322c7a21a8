"""DICOM files: what a header tells, and the decoded Radiograph. Start at `read_dicom`."""

from __future__ import annotations

import hashlib
from struct import unpack_from
from typing import Any

from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.codecs import (
    ENCAPSULATED,
    PLUGIN,
    REDUCE_OPTION,
    REFUSALS_OPTION,
    Codestream,
    is_whole,
    read_codestream,
    reduced_size,
    reducible_levels,
    register_plugin,
)
from cxrbatch.intake.dicom_file import DicomFile
from cxrbatch.intake.display import Stored, display_pixels, mask_unused_bits
from cxrbatch.intake.elements import Elements, refusing_malformed
from cxrbatch.intake.holes import has_hole
from cxrbatch.intake.pixel_module import PixelModule, check_pixel_module, read_look, read_pixel_module
from cxrbatch.intake.radiograph import Inspection, assemble_radiograph
from cxrbatch.intake.screen import ScreenFacts, screen_header
from cxrbatch.intake.species import SpeciesFacts
from cxrbatch.records import Header, Radiograph, Rejection

# The nearest to the image first; Study Description, the farthest, is in the header.
_DESCRIPTIONS = (
    "SeriesDescription",
    "AcquisitionDeviceProcessingDescription",
    "ProtocolName",
    "PerformedProcedureStepDescription",
)
_ITEM = 0xFFFEE000
_SEQUENCE_END = 0xFFFEE0DD

register_plugin()


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
            return Inspection(header, flags, Rejection(rejected.reason, rejected.message))
        return Inspection(header, flags)


def read_dicom(dicom: DicomFile, settings: Settings) -> Radiograph:
    """Decode the radiograph of a whole file.

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
        stored = decode_pixels(dicom, module, encoded, settings.max_display_px)
        displayed = display_pixels(stored, look, settings.max_display_px)
        is_damaged = dicom.transfer_syntax not in ENCAPSULATED and has_hole(stored)
    damage_flags = (Flag.DAMAGE_SUSPECT,) if is_damaged else ()
    flags = inspection.flags + polarity_flags + displayed.flags + damage_flags
    return assemble_radiograph(inspection.header, displayed.display, flags, _hash_stored(dicom, module, encoded))


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
    )
    if dicom.is_cut:
        raise ImageRejected(Reason.UNREADABLE_HEADER, "the file ends inside its header")
    if not header.study_instance_uid:
        raise ImageRejected(Reason.UNREADABLE_HEADER, "the header names no study (Study Instance UID)")
    return header


def _universal_issuer(elements: Elements) -> str:
    """Return who issued the Patient ID by a name that is one of its kind in the world (PS3.3 C.2.2)."""
    items = elements.items("IssuerOfPatientIDQualifiersSequence")
    return items[0].text("UniversalEntityID") if items else ""


def encoded_pixels(dicom: DicomFile, module: PixelModule) -> bytes | memoryview:
    """Return the value of Pixel Data: native pixels without padding, or the items that hold the encoded frame."""
    assert dicom.pixel_data is not None, "check_pixel_module lets no file without pixels pass"
    start = dicom.pixel_data.offset
    if dicom.transfer_syntax not in ENCAPSULATED:
        return memoryview(dicom.body)[start : start + module.native_bytes]
    return dicom.body[start : _end_of_items(dicom.body, start)]


def decode_pixels(dicom: DicomFile, module: PixelModule, encoded: bytes | memoryview, min_px: int) -> Stored:
    """Decode the one frame.

    Args:
        dicom: the file.
        module: its checked Image Pixel module.
        encoded: what `encoded_pixels` returns.
        min_px: JPEG 2000 may be decoded at a fraction of its size, but the long side stays at least that.

    Returns:
        [H,W] integers of the type that Bits Allocated and Pixel Representation say.
    """
    syntax = dicom.transfer_syntax
    level = 0
    if syntax in ENCAPSULATED:
        frame = get_frame(bytes(encoded), 0, number_of_frames=1)
        codestream = read_codestream(frame, syntax)
        if not is_whole(frame, syntax):
            raise ImageRejected(Reason.TRUNCATED_PIXELS, "the encoded frame has no end")
        if codestream is not None:
            _check_codestream(codestream, module)
            level = reducible_levels(codestream, syntax, min_px)
    refusals: list[ImageRejected] = []
    options = _decoder_options(dicom, module, level) | {REFUSALS_OPTION: refusals}
    try:
        array, _ = get_decoder(syntax).as_array(encoded, index=0, raw=True, validate=False, **options)
    except RuntimeError:
        if refusals:
            raise refusals[0] from None
        raise
    return array if syntax in ENCAPSULATED else mask_unused_bits(array, module.bits_stored, module.high_bit)


def _decoder_options(dicom: DicomFile, module: PixelModule, level: int) -> dict[str, Any]:
    """Return what pydicom's decoder wants to know of a bare buffer.

    Unused bits of native pixels are masked here, not there, to save a copy. Those of encoded ones are part of
    the signed value, but of an unsigned one they may be overshoot of a lossy codec, which must not wrap around.
    """
    is_encapsulated = dicom.transfer_syntax in ENCAPSULATED
    options = {
        "rows": reduced_size(module.rows, level),
        "columns": reduced_size(module.columns, level),
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": module.bits_allocated,
        "bits_stored": module.bits_stored,
        "pixel_representation": int(module.is_signed),
        "photometric_interpretation": module.photometric,
        "pixel_keyword": "PixelData",
        "pixel_vr": dicom.pixel_data.vr if dicom.pixel_data else "OW",
    }
    if is_encapsulated:
        return options | {"decoding_plugin": PLUGIN, REDUCE_OPTION: level, "correct_unused_bits": module.is_signed}
    return options | {"view_only": True, "correct_unused_bits": False}


def _check(module: PixelModule, dicom: DicomFile, settings: Settings, missing_bytes: int) -> None:
    offset = dicom.pixel_data.offset if dicom.pixel_data else 0
    check_pixel_module(module, dicom, len(dicom.body) - offset + missing_bytes, settings)
    if dicom.deflated_badly and not missing_bytes:
        raise ImageRejected(dicom.deflated_badly, "the deflated data do not end where the data set does")


def _check_codestream(codestream: Codestream, module: PixelModule) -> None:
    if codestream.components != 1:
        raise ImageRejected(Reason.UNSUPPORTED_PHOTOMETRIC, f"the frame holds {codestream.components} colours")
    if (codestream.rows, codestream.columns) != (module.rows, module.columns):
        raise ImageRejected(
            Reason.INCONSISTENT_HEADER,
            f"the frame is {codestream.rows} x {codestream.columns}, the header says {module.rows} x {module.columns}",
        )
    if codestream.precision > module.bits_allocated:
        raise ImageRejected(
            Reason.INCONSISTENT_HEADER, f"{codestream.precision} bits in {module.bits_allocated} allocated ones"
        )


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


def _end_of_items(body: bytes, start: int) -> int:
    """Return where the encapsulated frame ends (PS3.5 A.4); a missing sequence delimiter is forgiven."""
    at = start
    while at + 8 <= len(body):
        group, element, length = unpack_from("<HHL", body, at)
        tag = group << 16 | element
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise ImageRejected(Reason.UNREADABLE_PIXELS, "the encapsulated pixel data are no sequence of items")
        at += length
    if at != len(body):
        raise ImageRejected(Reason.TRUNCATED_PIXELS, "the file ends inside its pixel data")
    return at


def _hash_stored(dicom: DicomFile, module: PixelModule, encoded: bytes | memoryview) -> str:
    """Return the SHA-256 of the stored pixels: those of the encoded frame, or else the native bytes.

    Equal hashes mean equal pixels; equal pixels in two encodings have two hashes. Hashing what is stored and
    not what was decoded makes it independent of a reduced decoding, of the codec and of its version.
    """
    is_native = dicom.transfer_syntax not in ENCAPSULATED
    order = "little" if dicom.elements.little_endian else "big"
    shape = (module.rows, module.columns, module.bits_allocated, module.bits_stored, module.high_bit, module.is_signed)
    digest = hashlib.sha256(f"{order if is_native else dicom.transfer_syntax} {shape} ".encode())
    digest.update(encoded)
    return digest.hexdigest()
