"""The Image Pixel module (PS3.3 C.7.6.3), checked before anything is allocated, and how its pixels look."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.codecs.transfer_syntaxes import ENCAPSULATED, SUPPORTED
from cxrbatch.intake.dicom.dicom_file import DicomFile
from cxrbatch.intake.dicom.elements import Elements
from cxrbatch.intake.pixel_look import Lut, PixelLook, Window, WindowFunction, value_range
from cxrbatch.intake.screen import check_image_size

# What no modality needs, and what leaves no precision to tell one level from the next.
_SMALLEST_SLOPE, _LARGEST_SLOPE, _LARGEST_INTERCEPT = 1e-6, 1e6, 1e9
_UNUSABLE = Window(nan, nan)
_WINDOW_FUNCTIONS: dict[str, WindowFunction] = {"LINEAR_EXACT": "LINEAR_EXACT", "SIGMOID": "SIGMOID"}


@dataclass(frozen=True, slots=True)
class PixelModule:
    """What the header says of the stored pixels; 0 or "" where it says nothing."""

    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric: str

    @property
    def native_bytes(self) -> int:
        """How many bytes the pixels take when they are not encoded."""
        return self.rows * self.columns * self.samples * self.frames * self.bits_allocated // 8

    @property
    def stored_range(self) -> tuple[int, int]:
        """The lowest and the highest value that the stored bits can hold."""
        return value_range(self.bits_stored, self.is_signed)


def read_pixel_module(elements: Elements) -> PixelModule:
    """Read the module as it stands, sensible or not."""
    bits_stored = elements.integer("BitsStored", 0)
    return PixelModule(
        rows=elements.integer("Rows", 0),
        columns=elements.integer("Columns", 0),
        samples=elements.integer("SamplesPerPixel", 1),
        frames=max(1, elements.integer("NumberOfFrames", 1)),
        bits_allocated=elements.integer("BitsAllocated", 0),
        bits_stored=bits_stored,
        high_bit=elements.integer("HighBit", bits_stored - 1),
        is_signed=elements.integer("PixelRepresentation", 0) == 1,
        photometric=elements.text("PhotometricInterpretation").upper(),
    )


def check_pixel_module(module: PixelModule, dicom: DicomFile, available_bytes: int, settings: Settings) -> None:
    """Refuse what cannot be decoded or must not be tried.

    Args:
        module: what the header says.
        dicom: the file it is from.
        available_bytes: from the start of the pixel data to the end of the file.
        settings: the limits.

    Raises:
        ImageRejected: with the first reason found.
    """
    if dicom.transfer_syntax not in SUPPORTED:
        raise ImageRejected(Reason.UNSUPPORTED_TRANSFER_SYNTAX, f"transfer syntax {dicom.transfer_syntax[:64]}")
    if dicom.pixel_data is None:
        raise ImageRejected(Reason.NO_PIXEL_DATA, "the object holds no pixel data")
    _check_photometric(module)
    _check_bits(module)
    _check_size(module, settings)
    _check_length(module, dicom, available_bytes)


def read_look(elements: Elements, module: PixelModule) -> tuple[PixelLook, tuple[Flag, ...]]:
    """Read how the pixels want to look, and decide the polarity, once.

    MONOCHROME1 and Presentation LUT Shape INVERSE both say that low values are white (PS3.3 C.7.6.3.1.2,
    C.11.6.1.2); together they say it twice, not the opposite. The shape alone is believed, and flagged.
    """
    rescale = _read_rescale(elements)
    slope, intercept = rescale or (1.0, 0.0)
    modality_lut = _read_lut(elements, "ModalityLUTSequence", module.is_signed)
    units_are_signed = modality_lut is None and min(value * slope + intercept for value in module.stored_range) < 0
    is_monochrome1 = module.photometric == "MONOCHROME1"
    voi_lut, window = _read_lut(elements, "VOILUTSequence", units_are_signed), _read_window(elements)
    if rescale is None and modality_lut is None and (voi_lut or window):
        # Nobody knows the units in which it says what is black and what is white.
        voi_lut, window = None, _UNUSABLE
    shape_inverts = elements.text("PresentationLUTShape").upper() == "INVERSE"
    look = PixelLook(
        bits_stored=module.bits_stored,
        is_signed=module.is_signed,
        padding=_read_padding(elements, module),
        slope=slope,
        intercept=intercept,
        modality_lut=modality_lut,
        voi_lut=voi_lut,
        window=window,
        inverse=is_monochrome1 or shape_inverts,
        full_scale=module.bits_stored <= 8,
    )
    return look, (Flag.POLARITY_FROM_LUT,) if shape_inverts and not is_monochrome1 else ()


def _check_photometric(module: PixelModule) -> None:
    if module.frames > 1:
        raise ImageRejected(Reason.MULTI_FRAME, f"{module.frames} frames; one radiograph per file is scored")
    if not module.photometric:
        raise ImageRejected(Reason.INCONSISTENT_HEADER, "Photometric Interpretation is missing")
    if module.photometric not in ("MONOCHROME1", "MONOCHROME2") or module.samples != 1:
        raise ImageRejected(
            Reason.UNSUPPORTED_PHOTOMETRIC,
            f"{module.photometric[:16]} with {module.samples} samples a pixel; radiographs are MONOCHROME1 or 2",
        )


def _check_bits(module: PixelModule) -> None:
    if module.bits_allocated not in (8, 16):
        raise ImageRejected(Reason.INCONSISTENT_HEADER, f"Bits Allocated is {module.bits_allocated}, not 8 or 16")
    stored_fits = 1 <= module.bits_stored <= module.bits_allocated
    if not stored_fits or not module.bits_stored - 1 <= module.high_bit < module.bits_allocated:
        raise ImageRejected(
            Reason.INCONSISTENT_HEADER,
            f"Bits Stored {module.bits_stored} and High Bit {module.high_bit} do not fit {module.bits_allocated} bits",
        )


def _check_size(module: PixelModule, settings: Settings) -> None:
    size = f"{module.rows} rows x {module.columns} columns"
    if module.rows < 1 or module.columns < 1:
        raise ImageRejected(Reason.INCONSISTENT_HEADER, size)
    check_image_size(module.rows, module.columns, settings)


def _check_length(module: PixelModule, dicom: DicomFile, available_bytes: int) -> None:
    """Hold the length of Pixel Data against what the header promises and what the file holds."""
    length = dicom.pixel_data.length if dicom.pixel_data else None
    is_guessed = Flag.NO_TRANSFER_SYNTAX in dicom.flags
    if dicom.transfer_syntax in ENCAPSULATED:
        if length is not None:
            raise ImageRejected(Reason.INCONSISTENT_HEADER, "the transfer syntax is encapsulated, the pixels are not")
    elif length is None and is_guessed:
        raise ImageRejected(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "encoded pixels without a transfer syntax")
    elif length is None:
        raise ImageRejected(Reason.INCONSISTENT_HEADER, "the pixels are encapsulated, the transfer syntax is not")
    elif length < module.native_bytes or (is_guessed and length > module.native_bytes + 1):
        raise ImageRejected(
            Reason.INCONSISTENT_HEADER, f"{length} bytes of pixel data; the header needs {module.native_bytes}"
        )
    elif available_bytes < module.native_bytes:
        raise ImageRejected(
            Reason.TRUNCATED_PIXELS, f"the file ends after {available_bytes} of {module.native_bytes} bytes of pixels"
        )


def _read_rescale(elements: Elements) -> tuple[float, float] | None:
    """Read Rescale Slope and Intercept, 1 and 0 where they are absent; None where they make no sense."""
    slope = elements.number("RescaleSlope") if elements.bytes("RescaleSlope").strip(b"\0 ") else 1.0
    intercept = elements.number("RescaleIntercept") if elements.bytes("RescaleIntercept").strip(b"\0 ") else 0.0
    makes_sense = _SMALLEST_SLOPE <= abs(slope) <= _LARGEST_SLOPE and abs(intercept) <= _LARGEST_INTERCEPT
    return (slope, intercept) if makes_sense else None


def _read_padding(elements: Elements, module: PixelModule) -> tuple[int, int] | None:
    """Read Pixel Padding Value and Range Limit, whose sign is that of the pixels whatever the VR says."""
    values = [elements.number(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [int(np.clip(value, -0x10000, 0x10000)) for value in values if np.isfinite(value)]
    if not known:
        return None
    signed = [value - 0x10000 if module.is_signed and value > 0x7FFF else value for value in known]
    return min(signed), max(signed)


def _read_window(elements: Elements) -> Window | None:
    centers, widths = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    if not centers or not widths:
        return None
    return Window(centers[0], widths[0], _WINDOW_FUNCTIONS.get(elements.text("VOILUTFunction").upper(), "LINEAR"))


def _read_lut(elements: Elements, sequence: str, is_signed: bool) -> Lut | None:
    """Read the first lookup table of a sequence (PS3.3 C.11.1.1.1); None where it is missing or makes no sense.

    The first value mapped has the sign of what goes in. Entries of 8 bits come one or two to a word.
    """
    items = elements.items(sequence)
    if not items or len(descriptor := items[0].words("LUTDescriptor")) != 3:
        return None
    count, first, bits = int(descriptor[0]) or 0x10000, int(descriptor[1]), int(descriptor[2])
    entries = items[0].words("LUTData")
    if len(entries) < count:
        entries = np.frombuffer(items[0].bytes("LUTData"), np.uint8).astype(np.uint16)
    if len(entries) < count or not 1 <= bits <= 16:
        return None
    bits = max(bits, int(entries[:count].max()).bit_length())
    return Lut(first - 0x10000 if is_signed and first > 0x7FFF else first, entries[:count], bits)
