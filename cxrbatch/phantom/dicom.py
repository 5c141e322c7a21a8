"""A phantom written as a Digital X-Ray Image For Presentation, with an invented identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrbatch.phantom.draw import FULL_SCALE, Phantom

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
View = Literal["PA", "LL"]

# UIDs of the form 2.25.<UUID as an integer> need no registration (PS3.5 B.2); this one names our writer.
IMPLEMENTATION_UID = UID("2.25.202741934410127365023468116913047310467")


@dataclass(frozen=True, slots=True)
class PhantomIdentity:
    """Who the invented patient is and which study, series and instance this is; dates as YYYYMMDD."""

    patient_name: str
    patient_id: str
    patient_birth_date: str
    accession_number: str
    study_date: str
    study_time: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    series_number: int = 1
    instance_number: int = 1


def write_phantom_dicom(
    path: Path,
    phantom: Phantom,
    identity: PhantomIdentity,
    *,
    photometric: Photometric = "MONOCHROME2",
    transfer_syntax: str = ExplicitVRLittleEndian,
    view: View = "PA",
) -> None:
    """Write the phantom as a DX For Presentation instance (PS3.3 A.26).

    MONOCHROME1 stores the values inverted, 4095 - `stored`, as a reader must show its smallest value
    as white (PS3.3 C.7.6.3.1.2).

    Args:
        path: the file to write.
        phantom: what to store; its window goes with it.
        identity: who and which.
        photometric: polarity of the stored values.
        transfer_syntax: one of TRANSFER_SYNTAXES.
        view: PA, or LL for a left lateral view.

    Raises:
        ValueError: there is no encoder for the transfer syntax.
    """
    if transfer_syntax not in TRANSFER_SYNTAXES:
        message = f"no encoder for transfer syntax {transfer_syntax}; choose one of {', '.join(TRANSFER_SYNTAXES)}"
        raise ValueError(message)
    dataset = FileDataset(str(path), {}, file_meta=_file_meta(identity, transfer_syntax), preamble=b"\0" * 128)
    _identify(dataset, phantom, identity)
    _describe_view(dataset, view)
    _describe_acquisition(dataset, phantom)
    _store_pixels(dataset, phantom, photometric, transfer_syntax)
    dataset.save_as(path, enforce_file_format=True)


def _file_meta(identity: PhantomIdentity, transfer_syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID(identity.sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "CXRBATCH_PHANTOM"
    return meta


def _identify(dataset: Dataset, phantom: Phantom, identity: PhantomIdentity) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = identity.patient_name
    dataset.PatientID = identity.patient_id
    dataset.PatientBirthDate = identity.patient_birth_date
    dataset.PatientSex = phantom.sex
    dataset.PatientAge = f"{phantom.age:03d}Y"
    dataset.StudyInstanceUID = identity.study_instance_uid
    dataset.StudyID = identity.accession_number[-8:]
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = identity.study_date
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = identity.study_time
    dataset.AccessionNumber = identity.accession_number
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Chest (synthetic phantom)"
    dataset.SeriesInstanceUID = identity.series_instance_uid
    dataset.SeriesNumber = identity.series_number
    dataset.InstanceNumber = identity.instance_number
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = identity.sop_instance_uid


def _describe_view(dataset: Dataset, view: View) -> None:
    """DX Anatomy Imaged and DX Positioning (PS3.3 C.8.11.2, C.8.11.5); orientation as PS3.3 C.7.6.1.1.1."""
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = view
    dataset.ImageLaterality = "U"
    dataset.PatientOrientation = ["L", "F"] if view == "PA" else ["A", "F"]
    dataset.AnatomicRegionSequence = Sequence([_code(codes.cid4031.Chest)])
    projection = _code(codes.cid4010.PosteroAnterior if view == "PA" else codes.cid4010.LeftLateral)
    projection.ViewModifierCodeSequence = Sequence([])
    dataset.ViewCodeSequence = Sequence([projection])
    dataset.SeriesDescription = f"Chest {view} (synthetic phantom)"


def _describe_acquisition(dataset: Dataset, phantom: Phantom) -> None:
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.Manufacturer = "cxrbatch phantoms"
    dataset.ManufacturerModelName = "phantom"
    dataset.SoftwareVersions = "1"
    dataset.AcquisitionContextSequence = Sequence([])
    dataset.DetectorType = "SCINTILLATOR"
    dataset.PositionerType = "NONE"
    dataset.KVP = 120
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.ImageComments = f"Synthetic phantom, seed {phantom.seed}. No person was imaged."
    dataset.ImagerPixelSpacing = [f"{phantom.spacing_mm:.4f}"] * 2


def _store_pixels(dataset: Dataset, phantom: Phantom, photometric: Photometric, transfer_syntax: str) -> None:
    """Image Pixel, DX Image and VOI LUT (PS3.3 C.7.6.3, C.8.11.3, C.11.2)."""
    inverted = photometric == "MONOCHROME1"
    pixels = (FULL_SCALE - phantom.stored).astype(np.uint16) if inverted else phantom.stored
    center = FULL_SCALE - phantom.window_center if inverted else phantom.window_center
    syntax = TRANSFER_SYNTAXES[transfer_syntax]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = syntax.bits_stored
    dataset.HighBit = syntax.bits_stored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.WindowCenter, dataset.WindowWidth = f"{center:.1f}", f"{phantom.window_width:.1f}"
    dataset.WindowCenterWidthExplanation = "NORMAL"
    encoded = syntax.encode(np.ascontiguousarray(pixels, "<u2"))
    dataset.PixelData = encapsulate([encoded]) if syntax.encapsulated else encoded
    dataset["PixelData"].VR = "OB" if syntax.encapsulated else "OW"


def _code(concept: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = concept.value, concept.scheme_designator
    item.CodeMeaning = concept.meaning
    return item


# --------------------------------------------------------------------------- encoders

_Pixels = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class _Syntax:
    encode: Callable[[_Pixels], bytes]
    encapsulated: bool = True
    bits_stored: int = 12


def _native(pixels: _Pixels) -> bytes:
    content = pixels.tobytes()
    return content + b"\0" * (len(content) % 2)


def encode_rle(pixels: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """Encode [H,W] of 8 or 16 bits: a segment for each byte, the highest first, row by row (PS3.5 annex G)."""
    shifts = range(8 * (pixels.dtype.itemsize - 1), -1, -8)
    planes = [(pixels >> shift & 0xFF).astype(np.uint8) for shift in shifts]
    segments = [b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in plane) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = np.zeros(16, "<u4")
    offsets[0] = len(segments)
    offsets[1 : 1 + len(segments)] = 64 + np.cumsum([0, *map(len, segments[:-1])])
    return offsets.tobytes() + b"".join(segments)


def _jpeg_lossless(pixels: _Pixels) -> bytes:
    # Selection value 1 (the neighbour on the left) is what makes it transfer syntax .70.
    return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12))


def _jpeg_ls(pixels: _Pixels) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels))


def _jpeg_2000(pixels: _Pixels) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=12, reversible=True))


TRANSFER_SYNTAXES: dict[str, _Syntax] = {
    str(ExplicitVRLittleEndian): _Syntax(_native, encapsulated=False),
    str(ImplicitVRLittleEndian): _Syntax(_native, encapsulated=False),
    str(RLELossless): _Syntax(encode_rle),
    str(JPEGLosslessSV1): _Syntax(_jpeg_lossless),
    str(JPEG2000Lossless): _Syntax(_jpeg_2000),
    # The encoder writes a precision of 16 bits, and the header must say what the code stream says.
    str(JPEGLSLossless): _Syntax(_jpeg_ls, bits_stored=16),
}
