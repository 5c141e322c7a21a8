"""DICOM and raster files for intake's tests, each with one thing that matters and the rest plausible."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

Pixels = NDArray[np.integer[Any]]


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
    bits = max(8, int(np.abs(pixels).max()).bit_length() + (pixels.dtype.kind == "i"))
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
        "PixelData": _pixel_data(pixels, transfer_syntax, bits),
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


def _pixel_data(pixels: Pixels, syntax: UID, bits: int) -> bytes:
    if not syntax.is_encapsulated:
        dtype = pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")
        raw = pixels.astype(dtype).tobytes()
        return raw + b"\0" * (len(raw) % 2)
    encoders: dict[UID, Callable[[], Any]] = {
        JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
        JPEG2000: lambda: imagecodecs.jpeg2k_encode(pixels, level=60, codecformat="j2k"),
        HTJ2KLossless: lambda: imagecodecs.htj2k_encode(pixels),
        JPEGBaseline8Bit: lambda: imagecodecs.jpeg_encode(pixels, level=92),
        JPEGExtended12Bit: lambda: imagecodecs.jpeg_encode(pixels, level=92, bitspersample=12),
        JPEGLossless: lambda: imagecodecs.jpeg_encode(pixels, lossless=True, predictor=7, bitspersample=bits),
        JPEGLSNearLossless: lambda: imagecodecs.jpegls_encode(pixels, level=2),
        JPEGLSLossless: lambda: imagecodecs.jpegls_encode(pixels),
        JPEGLosslessSV1: lambda: imagecodecs.jpeg_encode(pixels, lossless=True, predictor=1, bitspersample=bits),
        RLELossless: lambda: _rle(pixels),
    }
    return encapsulate([bytes(encoders[syntax]())])


def _rle(pixels: Pixels) -> bytes:
    """Encode by PS3.5 annex G with literal runs only: one segment per byte plane, most significant first."""
    planes = [
        (pixels.astype(np.uint16) >> shift & 0xFF).astype(np.uint8).tobytes()
        for shift in range((pixels.dtype.itemsize - 1) * 8, -1, -8)
    ]
    segments = [_literal_runs(plane) for plane in planes]
    offsets = np.zeros(16, "<u4")
    offsets[0] = len(segments)
    offsets[1 : 1 + len(segments)] = 64 + np.cumsum([0, *map(len, segments[:-1])])
    return offsets.tobytes() + b"".join(segments)


def _literal_runs(plane: bytes) -> bytes:
    runs = [plane[start : start + 128] for start in range(0, len(plane), 128)]
    encoded = b"".join(bytes([len(run) - 1]) + run for run in runs)
    return encoded + b"\0" * (len(encoded) % 2)
