"""An account, in words, of how a file's pixels are read: decoder, lookup tables, window, padding, polarity."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.codecs.jpeg2000 import ENOUGH
from cxrbatch.intake.codecs.transfer_syntaxes import JPEG_DECODER, decoder_name
from cxrbatch.intake.dicom.dicom_file import DicomFile, parse_dicom
from cxrbatch.intake.dicom.elements import Elements
from cxrbatch.intake.dicom.pixel_data import decode_pixels, encoded_pixels
from cxrbatch.intake.dicom.pixel_module import PixelModule, read_look, read_pixel_module
from cxrbatch.intake.display import SOURCE_PX, display_pixels
from cxrbatch.intake.kind import Kind, recognise
from cxrbatch.intake.libraries import refusing_malformed
from cxrbatch.intake.pixel_look import Lut, PixelLook
from cxrbatch.intake.raster.read_raster import decode_raster
from cxrbatch.intake.read import MAX_BYTES_PER_PIXEL


@dataclass(frozen=True, slots=True)
class PixelAccount:
    """How the stored pixels become the display image. The texts are for people; the times are of this machine."""

    decoder: str
    decode_ms: float
    display_ms: float
    stored: str
    modality: str
    voi: str
    padding: str
    polarity: str


def account_for_pixels(path: Path, settings: Settings) -> PixelAccount:
    """Decode an accepted file once more, step by step, and say what each step did.

    Raises:
        ImageRejected: it is none that is accepted.
        OSError: it cannot be read now.
    """
    content = path.read_bytes()
    kind = recognise(content)
    with refusing_malformed(Reason.UNREADABLE_PIXELS, "the pixel data cannot be decoded"):
        if kind is Kind.DICOM:
            return _of_dicom(parse_dicom(content, settings.max_stored_px * MAX_BYTES_PER_PIXEL))
        return _of_raster(content, kind)


def _of_dicom(dicom: DicomFile) -> PixelAccount:
    module = read_pixel_module(dicom.elements)
    if dicom.pixel_data is None:
        raise ImageRejected(Reason.NO_PIXEL_DATA, "the object holds no pixel data")
    look, _ = read_look(dicom.elements, module)
    started = time.perf_counter()
    stored = decode_pixels(dicom, module, encoded_pixels(dicom, module), ENOUGH * SOURCE_PX)
    decoded = time.perf_counter()
    display_pixels(stored, look, SOURCE_PX)
    ended = time.perf_counter()
    reduced = "" if stored.shape == (module.rows, module.columns) else f", at {stored.shape[1]} x {stored.shape[0]}"
    sign = "signed" if module.is_signed else "unsigned"
    return PixelAccount(
        decoder=decoder_name(dicom.transfer_syntax) + reduced,
        decode_ms=_ms(decoded - started),
        display_ms=_ms(ended - decoded),
        stored=f"{module.bits_stored} of {module.bits_allocated} bits, {sign}, {stored.min()} to {stored.max()}",
        modality=_modality(look),
        voi=_voi(look, dicom.elements),
        padding=_padding(look),
        polarity=_polarity(module, dicom.elements, look),
    )


def _of_raster(content: bytes, kind: Kind) -> PixelAccount:
    started = time.perf_counter()
    stored = decode_raster(content, kind)
    return PixelAccount(
        decoder="Pillow" if kind is Kind.PNG else JPEG_DECODER,
        decode_ms=_ms(time.perf_counter() - started),
        display_ms=0.0,
        stored=f"{stored.dtype.itemsize * 8} bits, grey, {stored.min()} to {stored.max()}",
        modality="none: a picture",
        voi="none: shown as it is, 16 bits from 0 to the power of two that holds all but stray white pixels",
        padding="none",
        polarity="as it is: a picture does not say",
    )


def _modality(look: PixelLook) -> str:
    if look.modality_lut is not None:
        return f"Modality LUT Sequence, {_table(look.modality_lut)}"
    return f"rescale: stored x {look.slope:g} + {look.intercept:g}"


def _voi(look: PixelLook, elements: Elements) -> str:
    if look.voi_lut is not None:
        return f"VOI LUT Sequence, {_table(look.voi_lut)}"
    if look.window is not None:
        several = len(elements.numbers("WindowCenter"))
        first = f", the first of {several}" if several > 1 else ""
        window = look.window
        return f"window center {window.center:g}, width {window.width:g}, {window.function}{first}"
    return "none stated: all that the bits hold" if look.full_scale else "none stated: percentiles 0.5 and 99.5"


def _padding(look: PixelLook) -> str:
    return f"stored values {look.padding[0]} to {look.padding[1]}, shown black" if look.padding else "none"


def _polarity(module: PixelModule, elements: Elements, look: PixelLook) -> str:
    shape = elements.text("PresentationLUTShape").upper() or "not given"
    done = "inverted once" if look.inverse else "not inverted"
    return f"{done}: Photometric Interpretation {module.photometric}, Presentation LUT Shape {shape}"


def _table(lut: Lut) -> str:
    return f"{len(lut.entries)} entries of {lut.bits} bits from {lut.first} on"


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)
