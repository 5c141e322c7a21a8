"""Healthy files of every transfer syntax and format, taken apart so that damage can be done to their coded pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
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
)

from tests.factories.encoded import Pixels, bits_of, encode_frame
from tests.factories.intake import dataset, jpeg_bytes, png_bytes, with_frame

SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere"))
# How each transfer syntax is called in the tables.
ENCODINGS = {
    JPEGBaseline8Bit: "JPEG Baseline",
    JPEGExtended12Bit: "JPEG Extended, 12 bits",
    JPEGLosslessSV1: "JPEG Lossless SV1",
    JPEGLossless: "JPEG Lossless, predictor 7",
    JPEGLSLossless: "JPEG-LS",
    JPEGLSNearLossless: "JPEG-LS near lossless",
    JPEG2000Lossless: "JPEG 2000 lossless",
    JPEG2000: "JPEG 2000 lossy",
    HTJ2KLossless: "HTJ2K lossless",
    RLELossless: "RLE",
    DeflatedExplicitVRLittleEndian: "deflated",
    ExplicitVRLittleEndian: "native",
}


@dataclass(frozen=True)
class Sample:
    """A healthy file taken apart: its coded pixels, where among them damage is done, and how it is put together."""

    syntax: str
    coded: bytes
    first: int
    put_together: Callable[[bytes], bytes]


def real_pixels() -> dict[str, Pixels]:
    """Return real images: a tibia of 10 bits, a chest of 15, two chests of 8 bits and 1024 pixels."""
    chest = pydicom.dcmread(SHARED / "dicom" / "chest" / "rg1_cr_pa_mono1_15bit_j2k.dcm")
    pixels: dict[str, Pixels] = {
        "RG3": pydicom.dcmread(SHARED / "dicom" / "transfer_syntaxes" / "RG3_UNC").pixel_array,
        "RG1": imagecodecs.jpeg2k_decode(get_frame(chest.PixelData, 0, number_of_frames=1)),
    }
    for path in sorted((SHARED / "nih1024").rglob("*.png"))[:2]:
        pixels[path.stem] = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
    return pixels


def dicom_sample(name: str, syntax: UID, pixels: Pixels) -> Sample:
    """Return a chest radiograph in DICOM whose pixels these are."""
    uids = {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.2", "SOPInstanceUID": "2.25.3"}
    made = dataset(pixels, transfer_syntax=syntax, **uids)
    if syntax == DeflatedExplicitVRLittleEndian:
        return deflated_sample(name, made, pixels)
    coded = encode_frame(pixels, syntax, psnr_db=45 + bits_of(pixels))
    return Sample(name, coded, start_of_data(coded, syntax), partial(with_frame, made))


def deflated_sample(name: str, header: Dataset, pixels: Pixels) -> Sample:
    """Return a sample whose whole data set is deflated, which is what damage is done to."""
    whole = with_frame(header, pixels.tobytes())
    end_of_meta = 144 + int.from_bytes(whole[140:144], "little")
    return Sample(name, whole[end_of_meta:], 2048, lambda coded: whole[:end_of_meta] + coded)


def start_of_data(coded: bytes, syntax: UID) -> int:
    """Return where the entropy-coded data start, so that no damage is done to headers, which are another matter."""
    if syntax in (JPEG2000, JPEG2000Lossless, HTJ2KLossless):
        return coded.index(b"\xff\x93") + 2
    if syntax == RLELossless:
        return 64
    if syntax.is_encapsulated:
        start = coded.index(b"\xff\xda")
        return start + 2 + int.from_bytes(coded[start + 2 : start + 4], "big")
    return 0


def file_sample(name: str, path: Path) -> Sample:
    """Return the frame of a real file, with a header that says chest."""
    source = pydicom.dcmread(path)
    source.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    source.BodyPartExamined, source.ViewPosition, source.Modality = "CHEST", "PA", "CR"
    for keyword in ("PresentationIntentType", "ImageType", "SeriesDescription", "StudyDescription", "ProtocolName"):
        if keyword in source:
            delattr(source, keyword)
    frame = get_frame(source.PixelData, 0, number_of_frames=1)
    return Sample(name, frame, start_of_data(frame, source.file_meta.TransferSyntaxUID), partial(with_frame, source))


def picture_sample(name: str, content: bytes, start: bytes) -> Sample:
    """Return a PNG or JPEG file, whose data start after the first `start`."""
    return Sample(name, content, content.index(start) + 16, bytes)


def samples() -> Iterator[Sample]:
    """Yield every kind of file there is, of several real images each."""
    for name, pixels in real_pixels().items():
        eight = np.asarray(pixels >> max(0, int(pixels.max()).bit_length() - 8), np.uint8)
        twelve = np.asarray(pixels.astype(np.uint16) >> max(0, int(pixels.max()).bit_length() - 12), np.uint16)
        for syntax, kind in ENCODINGS.items():
            narrower: dict[UID, Pixels] = {JPEGBaseline8Bit: eight, JPEGExtended12Bit: twelve}
            stored = narrower.get(syntax, pixels)
            yield dicom_sample(kind, syntax, stored)
        colour = np.dstack([eight] * 3)
        if name != "RG1":
            yield picture_sample("JPEG file", jpeg_bytes(eight, quality=92), b"\xff\xda")
            yield picture_sample("JPEG file, progressive", jpeg_bytes(eight, quality=92, progressive=True), b"\xff\xda")
            yield picture_sample(
                "JPEG file, colour, restarts",
                jpeg_bytes(colour, quality=92, subsampling=2, restart_marker_rows=1),
                b"\xff\xda",
            )
            yield picture_sample("PNG file", png_bytes(eight), b"IDAT")
    folder = SHARED / "dicom" / "transfer_syntaxes"
    yield file_sample("JPEG Lossless SV1", folder / "RG3_JPLL")
    yield file_sample("JPEG Extended, 12 bits", folder / "RG3_JPLY")
    yield file_sample("JPEG-LS", folder / "RG3_JLSL")
    yield file_sample("JPEG-LS near lossless", folder / "RG3_JLSN")
    yield file_sample("RLE", folder / "RG3_RLE")
    yield file_sample("JPEG 2000 lossy", SHARED / "dicom" / "chest" / "rg1_cr_pa_mono1_15bit_j2k.dcm")
    yield file_sample("JPEG Baseline", SHARED / "dicom" / "chest" / "siim_cr_jpeg_baseline.dcm")
