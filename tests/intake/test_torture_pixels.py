"""The torture list of PROMISES.md, section Pixels: what is shown of DICOM pixels, by value."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, Reason
from tests.factories.encoded import Pixels
from tests.factories.intake import blobs, dataset, lut_item
from tests.factories.torture import (
    NAME,
    PIXELS,
    Entry,
    Levels,
    edited,
    full,
    inverted,
    outcome,
    processed,
    refused,
    shown,
    swap,
)

SIGNED = (PIXELS.astype(np.int32) - 2048).astype(np.int16)
RAMP_DOWN = np.linspace(1023, 0, 4096).astype(np.uint16)
GAMMA_8_BIT = np.rint(255 * np.linspace(0, 1, 4096) ** 0.5).astype(np.uint16)
PADDED = np.where(np.arange(320)[:, np.newaxis] < 50, 0, np.clip(PIXELS, 500, 4095)).astype(np.uint16)
PADDED_RANGE = np.where(np.arange(320)[:, np.newaxis] < 50, np.arange(256) % 40, np.clip(PIXELS, 500, 4095)).astype(
    np.uint16
)
OVERLAY = (PIXELS | (np.arange(256, dtype=np.uint16) % 2 << 13)).astype(np.uint16)
BITS_8 = blobs(bits=8)


def no_window(**keywords: Any) -> Callable[[Path], object]:
    return full(**({"WindowCenter": None, "WindowWidth": None} | keywords))


def by_the_standard(low: float, high: float, values: Levels = PIXELS) -> Callable[[], Levels]:
    """Return what a scale from `low`, black, to `high`, white, shows."""
    return lambda: np.clip((values - low) / (high - low), 0, 1) * 255


def by_pydicom(**elements: Any) -> Callable[[], Levels]:
    """Return what pydicom's own functions make of the image, spread over the range they map to."""

    def levels() -> Levels:
        made = dataset(elements.pop("pixels", PIXELS), **({"BitsStored": 12} | elements))
        units = apply_voi_lut(apply_modality_lut(made.pixel_array, made), made)
        slope, intercept = float(made.get("RescaleSlope", 1)), float(made.get("RescaleIntercept", 0))
        ends = [value * slope + intercept for value in ((-2048, 2047) if made.PixelRepresentation else (0, 4095))]
        result: Levels = (units - min(ends)) * (255 / (max(ends) - min(ends)))
        return result

    return levels


def robust(values: Levels, low: float = 0.5, high: float = 99.5) -> Callable[[], Levels]:
    ends = np.percentile(values, (low, high), method="inverted_cdf")
    return by_the_standard(float(ends[0]), float(ends[1]), values)


def in_top_bits(path: Path) -> None:
    """Write 12 bits that sit in bits 4 to 15, as equipment did before 1998."""
    full(pixels=(PIXELS << 4).astype(np.uint16), BitsStored=12, HighBit=15)(path)


def encoded(syntax: UID, frame: bytes | bytearray, **keywords: Any) -> Callable[[Path], object]:
    """Return a builder of an image whose one frame is given ready."""

    def build(path: Path) -> None:
        made = dataset(keywords.pop("pixels", PIXELS), transfer_syntax=ExplicitVRLittleEndian, **keywords)
        made.file_meta.TransferSyntaxUID = syntax
        made.PixelData = encapsulate([bytes(frame)])
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
        made.save_as(path, enforce_file_format=True)

    return build


WINDOW_12 = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
JPEG_12 = imagecodecs.jpeg_encode(PIXELS, level=98, bitspersample=12)
JPEG_P6 = imagecodecs.jpeg_encode(PIXELS, lossless=True, predictor=6, bitspersample=12)
NEAR = imagecodecs.jpegls_encode(PIXELS, level=2)
NARROW = {"WindowCenter": 1800, "WindowWidth": 1200}

ENTRIES = [
    processed("MONOCHROME2", full(), shown),
    processed("MONOCHROME1", full(PhotometricInterpretation="MONOCHROME1"), inverted),
    processed("IDENTITY", full(PresentationLUTShape="IDENTITY"), shown),
    processed(
        "INVERSE with MONOCHROME1 is inverted once",
        full(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
        inverted,
    ),
    processed("INVERSE alone", full(PresentationLUTShape="INVERSE"), inverted, Flag.POLARITY_FROM_LUT),
    processed(
        "signed with negative rescale",
        full(pixels=SIGNED, RescaleSlope=-2, RescaleIntercept=-100, WindowCenter=-99, WindowWidth=8192),
        by_the_standard(-99.5 - 8191 / 2, -99.5 + 8191 / 2, -2.0 * SIGNED - 100),
    ),
    processed("window LINEAR", full(**NARROW), by_pydicom(**NARROW)),
    processed(
        "window LINEAR_EXACT",
        full(**NARROW, VOILUTFunction="LINEAR_EXACT"),
        by_pydicom(**NARROW, VOILUTFunction="LINEAR_EXACT"),
    ),
    processed(
        "window SIGMOID", full(**NARROW, VOILUTFunction="SIGMOID"), by_pydicom(**NARROW, VOILUTFunction="SIGMOID")
    ),
    processed(
        "modality LUT sequence",
        full(ModalityLUTSequence=lut_item(RAMP_DOWN, 0, 10), WindowCenter=512, WindowWidth=1024),
        lambda: RAMP_DOWN[PIXELS] * (255 / 1023),
    ),
    processed(
        "VOI LUT sequence", full(VOILUTSequence=lut_item(RAMP_DOWN, 0, 10)), lambda: RAMP_DOWN[PIXELS] * (255 / 1023)
    ),
    processed(
        "VOI LUT of 8-bit entries", full(VOILUTSequence=lut_item(GAMMA_8_BIT, 0, 8)), lambda: GAMMA_8_BIT[PIXELS] * 1.0
    ),
    processed(
        "VOI LUT over signed pixels",
        full(pixels=SIGNED, VOILUTSequence=lut_item(RAMP_DOWN, -2048, 10)),
        lambda: RAMP_DOWN[PIXELS] * (255 / 1023),
    ),
    processed(
        "several windows: the first one",
        full(WindowCenter=[1800, 3000], WindowWidth=[1200, 100]),
        by_pydicom(**NARROW),
    ),
    processed("window width 0", full(WindowWidth=0), robust(PIXELS), Flag.WINDOW_IGNORED),
    processed(
        "window NaN",
        edited(swap(b"Q\x10DS\x06\x004096.0", b"Q\x10DS\x06\x00NaN   "), WindowWidth=4096),
        robust(PIXELS),
        Flag.WINDOW_IGNORED,
    ),
    processed(
        "window that clips everything", full(WindowCenter=60000, WindowWidth=10), robust(PIXELS), Flag.WINDOW_IGNORED
    ),
    processed("no window at all", no_window(), robust(PIXELS)),
    processed("pixel padding", no_window(pixels=PADDED, PixelPaddingValue=0), lambda: robust_padded(PADDED)),
    processed(
        "pixel padding range",
        no_window(pixels=PADDED_RANGE, PixelPaddingValue=0, PixelPaddingRangeLimit=39),
        lambda: robust_padded(PADDED_RANGE),
    ),
    processed("overlay bits above Bits Stored", full(pixels=OVERLAY), shown),
    processed("High Bit 15", in_top_bits, shown),
    processed("8 bits without a window are a picture", no_window(pixels=BITS_8, BitsStored=8), lambda: BITS_8),
    processed(
        "JPEG Extended, 12 bits", encoded(JPEGExtended12Bit, JPEG_12, **WINDOW_12), shown, Flag.LOSSY, tolerance=3
    ),
    processed("JPEG Lossless, predictor 6", encoded(JPEGLossless, JPEG_P6, **WINDOW_12), shown),
    processed(
        "JPEG-LS near lossless", encoded(JPEGLSNearLossless, NEAR, **WINDOW_12), shown, Flag.LOSSY, tolerance=0.7
    ),
    refused("RGB", full(PhotometricInterpretation="RGB", SamplesPerPixel=3), Reason.UNSUPPORTED_PHOTOMETRIC),
    refused("YBR", full(PhotometricInterpretation="YBR_FULL", SamplesPerPixel=3), Reason.UNSUPPORTED_PHOTOMETRIC),
    refused("palette", full(PhotometricInterpretation="PALETTE COLOR"), Reason.UNSUPPORTED_PHOTOMETRIC),
    refused("multi-frame", full(NumberOfFrames=2), Reason.MULTI_FRAME),
    refused("FOR PROCESSING", full(PresentationIntentType="FOR PROCESSING"), Reason.NOT_FOR_PRESENTATION),
    refused(
        "colour JPEG labelled MONOCHROME2",
        encoded(JPEGBaseline8Bit, imagecodecs.jpeg_encode(np.zeros((320, 256, 3), np.uint8)), pixels=BITS_8),
        Reason.UNSUPPORTED_PHOTOMETRIC,
    ),
]


def robust_padded(padded: Pixels) -> Levels:
    """Return what is shown where padding, below 40, counts for nothing and is black."""
    ends = np.percentile(padded[padded >= 40], (0.5, 99.5), method="inverted_cdf")
    levels: Levels = np.where(padded < 40, 0, by_the_standard(float(ends[0]), float(ends[1]), padded)())
    return levels


@pytest.mark.parametrize("entry", ENTRIES)
def test_pixels(entry: Entry, tmp_path: Path) -> None:
    entry.check(tmp_path)


LOSSLESS = [
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
    *(RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless),
]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
def test_the_same_pixels_are_bit_equal_in_every_lossless_syntax(tmp_path: Path, syntax: UID, bits: int) -> None:
    pixels = blobs(bits=bits)
    window = {"WindowCenter": 1 << bits - 1, "WindowWidth": 1 << bits, "BitsStored": bits}
    full(pixels=pixels, transfer_syntax=syntax, **window)(tmp_path / NAME)
    got = outcome(tmp_path, NAME, Settings())
    assert got.display is not None
    expected = np.clip(pixels * (255 / ((1 << bits) - 1)), 0, 255)
    assert np.abs(got.display - expected).max() <= 0.51


def test_sixteen_bit_pixels_are_not_cut_to_fifteen(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    full(pixels=ramp, BitsStored=16, WindowCenter=32768, WindowWidth=65536)(tmp_path / NAME)
    got = outcome(tmp_path, NAME, Settings())
    assert got.display is not None
    assert np.abs(got.display - ramp / 257).max() <= 0.51
