"""DICOM and raster files for intake's tests, each with one thing that matters and the rest plausible."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.factories.encoded import Pixels, bits_of, encode_frame


def blobs(rows: int = 320, columns: int = 256, bits: int = 12, seed: int = 0) -> Pixels:
    """Return something that a codec and a window can bite on: smooth blobs and noise over the whole range."""
    random = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(random.random((rows, columns)), (0, 0), 12)
    spread = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    levels = spread * ((1 << bits) - 1) + random.normal(0, 1, spread.shape)
    dtype: Any = np.uint8 if bits <= 8 else np.uint16
    pixels: Pixels = np.clip(np.rint(levels), 0, (1 << bits) - 1).astype(dtype)
    return pixels


def dataset(pixels: Pixels, *, transfer_syntax: UID = ExplicitVRLittleEndian, **keywords: Any) -> Dataset:
    """Return a frontal chest CR of these pixels; `keywords` override its elements, None leaves one out."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = transfer_syntax
    made.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    bits = bits_of(pixels)
    elements = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientID": "1",
        "PatientName": "Doe^Jane",
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": bits,
        "HighBit": max(0, keywords.get("BitsStored", bits) - 1),
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": _element_value(encode_frame(pixels, transfer_syntax), transfer_syntax),
    }
    for keyword, value in (elements | keywords).items():
        if value is not None:
            setattr(made, keyword, value)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    if "PixelData" in made:
        made["PixelData"].VR = "OB" if transfer_syntax.is_encapsulated or pixels.dtype.itemsize == 1 else "OW"
        made["PixelData"].is_undefined_length = transfer_syntax.is_encapsulated
    return made


def write_dicom(path: Path, *, pixels: Pixels | None = None, **keywords: Any) -> Path:
    """Write `dataset(pixels, **keywords)` as a DICOM file."""
    made = dataset(blobs() if pixels is None else pixels, **keywords)
    made.save_as(path, enforce_file_format=True)
    return path


def with_frame(header: Dataset, coded: bytes) -> bytes:
    """Return the DICOM file of a header whose pixel data are these, encoded as its transfer syntax says."""
    syntax = header.file_meta.TransferSyntaxUID
    header.add_new("PixelData", "OB" if syntax.is_encapsulated else "OW", _element_value(coded, syntax))
    header["PixelData"].is_undefined_length = syntax.is_encapsulated
    stream = BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def lut_item(entries: NDArray[np.integer[Any]], first: int, bits: int) -> Sequence:
    """Return a Modality or VOI LUT Sequence with one lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 0x10000, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    if item.get("ModalityLUTType", None) is None:
        item.ModalityLUTType = "US"
    return Sequence([item])


def coded(meaning: str) -> Sequence:
    """Return a code sequence with one item of this meaning."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", meaning
    return Sequence([item])


def png_bytes(pixels: Pixels, **options: Any) -> bytes:
    """Return pixels as a PNG file."""
    return _image_bytes(Image.fromarray(pixels), "PNG", **options)


def jpeg_bytes(pixels: Pixels, **options: Any) -> bytes:
    """Return 8-bit pixels as a JPEG file."""
    return _image_bytes(Image.fromarray(pixels), "JPEG", **{"quality": 95, **options})


def _image_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _element_value(coded: bytes, syntax: UID) -> bytes:
    return encapsulate([coded]) if syntax.is_encapsulated else coded + b"\0" * (len(coded) % 2)
