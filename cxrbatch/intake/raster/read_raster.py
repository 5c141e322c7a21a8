"""A PNG or JPEG file read: what its header tells, and the decoded Radiograph. Start at `read_raster`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from struct import unpack_from
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.codecs.jpeg import decode_jpeg
from cxrbatch.intake.codecs.jpeg_markers import end_of_image, read_frame_header
from cxrbatch.intake.display import Stored, display_beside, display_pixels
from cxrbatch.intake.kind import PNG_SIGNATURE, Kind
from cxrbatch.intake.libraries import refusing_malformed
from cxrbatch.intake.pixel_look import PixelLook
from cxrbatch.intake.raster.orientation import read_jpeg_orientation, read_png_orientation
from cxrbatch.intake.raster.png import PALETTE_COLOUR, decode_png
from cxrbatch.intake.screen import Inspection, assemble_radiograph, check_image_size, missing_tags
from cxrbatch.records import Header, Radiograph, Rejection

_GRAY, _RGB, _CMYK = 1, 3, 4
# Of the pixels of a picture: the largest share that text written over it takes, and the share that is no picture.
_MOST_WRITTEN = 0.05
_FEW_PIXELS = 0.001
# A tint of sepia or blue is no colour: it goes with the shade. JPEG's colour noise stays below this many levels.
COLOURED_BY_LEVELS = 24
_SHADES = 32
_ABOUT_PX = 65_536
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# EXIF orientations that exchange rows and columns (CIPA DC-008 4.6.5.1).
_TRANSPOSED = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class RasterHeader:
    """What the file says before it is decoded; rows and columns as stored, `orientation` is EXIF's (1: upright)."""

    rows: int
    columns: int
    bits: int
    photometric: str
    orientation: int = 1


def inspect_raster(content: bytes, kind: Kind, settings: Settings, tail: bytes = b"") -> Inspection:
    """Tell from the header alone what the image is and whether it is refused already.

    A raster file does not say which part of whom it shows: accepted with the flags that say so.

    Args:
        content: the file, or its first bytes.
        kind: what it is.
        settings: the limits.
        tail: the last bytes of a PNG file whose first ones are `content`.

    Raises:
        ImageRejected: there is no header that makes sense (unreadable_header).
    """
    raster = _read_raster_header(content, kind, tail)
    rows, columns = raster.rows, raster.columns
    if raster.orientation in _TRANSPOSED:
        rows, columns = columns, rows
    header = Header(rows=rows, columns=columns, photometric=raster.photometric)
    flags = (Flag.NO_VIEW, Flag.NO_BODY_PART) + ((Flag.LOSSY,) if kind is Kind.JPEG else ())
    try:
        missing_tags(flags, settings)
        check_image_size(rows, columns, settings)
        _refuse_print_file(raster)
    except ImageRejected as rejected:
        return Inspection(header, flags, Rejection(rejected.reason, rejected.message))
    return Inspection(header, flags)


def read_raster(content: bytes, kind: Kind, settings: Settings, source_px: int) -> Radiograph:
    """Decode a whole PNG or JPEG file.

    The stored pixels, which the hash and `rows` x `columns` speak of, are the upright grey ones.

    Raises:
        ImageRejected: with the reason for which it gets no score.
    """
    inspection = inspect_raster(content, kind, settings)
    if inspection.rejection is not None:
        raise ImageRejected(inspection.rejection.reason, inspection.rejection.message)
    if kind is Kind.JPEG:
        content = content[: end_of_image(content)]
    stored, coloured = _decode_with_colour(content, kind)
    look = _look_of(stored)
    displayed = display_pixels(stored, look, source_px)
    shown = display_beside(
        *(displayed.display, settings.max_display_px, source_px, max(stored.shape)),
        lambda: display_pixels(stored, look, settings.max_display_px).display,
    )
    digest = hashlib.sha256(f"raster {stored.shape} {stored.dtype.itemsize} ".encode() + stored.tobytes())
    radiograph = assemble_radiograph(
        inspection.header, displayed.display, inspection.flags + displayed.flags, digest.hexdigest()
    )
    return replace(radiograph.shown_as(shown), coloured_share=coloured)


def decode_raster(content: bytes, kind: Kind) -> Stored:
    """Decode to upright grey pixels, [H,W] uint8 or uint16: colour becomes luma, transparency black.

    Raises:
        ImageRejected: cut off (truncated_pixels), damaged (unreadable_pixels, unreadable_header) or not of the
            size it says (inconsistent_header).
    """
    return _decode_with_colour(content, kind)[0]


def _decode_with_colour(content: bytes, kind: Kind) -> tuple[Stored, float]:
    """Decode to upright grey pixels, and say which share of them was in colour."""
    with refusing_malformed(Reason.UNREADABLE_PIXELS, f"the {kind.value} file is damaged"):
        header = _read_raster_header(content, kind)
        pixels = decode_png(content) if kind is Kind.PNG else decode_jpeg(content)
        # A second frame header in a damaged JPEG file: the size that was checked is not the one decoded.
        if pixels.shape[:2] != (header.rows, header.columns):
            raise ImageRejected(Reason.INCONSISTENT_HEADER, f"decodes to {pixels.shape[:2]}, which the header denies")
        return _upright(_to_gray(pixels), header.orientation), coloured_share(pixels)


def _refuse_print_file(raster: RasterHeader) -> None:
    if raster.photometric == "CMYK":
        raise ImageRejected(Reason.UNSUPPORTED_PHOTOMETRIC, "a print file (CMYK), not a radiograph")


def _read_raster_header(content: bytes, kind: Kind, tail: bytes = b"") -> RasterHeader:
    with refusing_malformed(Reason.UNREADABLE_HEADER, f"the {kind.value} header is damaged"):
        return _read_png_header(content, tail) if kind is Kind.PNG else _read_jpeg_header(content)


def _read_png_header(content: bytes, tail: bytes) -> RasterHeader:
    """Read the IHDR chunk, which comes first (PNG specification 11.2.2)."""
    length, name, columns, rows, bits, colour = unpack_from(">L4sLLBB", content, len(PNG_SIGNATURE))
    if name != b"IHDR" or length != 13 or not rows or not columns:
        raise ValueError("no IHDR")
    photometric = "PALETTE COLOR" if colour == PALETTE_COLOUR else "RGB" if colour & 2 else "MONOCHROME2"
    return RasterHeader(rows, columns, bits, photometric, read_png_orientation(content, tail))


def _read_jpeg_header(content: bytes) -> RasterHeader:
    frame = read_frame_header(content)
    names = {_GRAY: "MONOCHROME2", _RGB: "RGB", _CMYK: "CMYK"}
    if not frame.rows or not frame.columns:
        raise ImageRejected(Reason.UNREADABLE_HEADER, "the JPEG header does not say how large the picture is")
    if frame.components not in names:
        raise ImageRejected(Reason.UNSUPPORTED_PHOTOMETRIC, f"a JPEG file of {frame.components} colours")
    photometric = names[frame.components]
    return RasterHeader(frame.rows, frame.columns, frame.precision, photometric, read_jpeg_orientation(content))


def coloured_share(pixels: NDArray[Any]) -> float:
    """Return the share of the pixels, 0..1, whose colour is not that of other pixels of their brightness.

    Args:
        pixels: [H,W] or [H,W,1..4] as grey, grey+alpha, RGB or RGBA, uint8 or uint16.
    """
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return 0.0
    step = max(1, int(np.sqrt(pixels.shape[0] * pixels.shape[1] / _ABOUT_PX)))
    some = pixels[::step, ::step].reshape(-1, pixels.shape[2]).astype(np.float32) * (255 / np.iinfo(pixels.dtype).max)
    # What is transparent will be black.
    colours = some[:, :3] * (some[:, 3:] / 255) if pixels.shape[2] == 4 else some
    shades = np.minimum((colours @ _LUMA) * (_SHADES / 256), _SHADES - 1).astype(np.intp)
    counts = np.maximum(np.bincount(shades, minlength=_SHADES), 1)
    farthest = np.zeros(len(colours), np.float32)
    for channel in (0, 2):
        leaning = colours[:, channel] - colours[:, 1]
        tint = np.bincount(shades, leaning, _SHADES) / counts
        farthest = np.maximum(farthest, np.abs(leaning - tint[shades]))
    return float((farthest > COLOURED_BY_LEVELS).mean())


def _to_gray(pixels: NDArray[Any]) -> Stored:
    """Reduce [H,W], or [H,W,2..4] as grey+alpha, RGB, RGBA, to luma (ITU-R BT.601) over black, [H,W]."""
    if pixels.ndim == 2:
        return pixels
    has_alpha = pixels.shape[2] in (2, 4)
    colour = np.ascontiguousarray(pixels[..., :-1] if has_alpha else pixels)
    luma: Stored = (
        colour[..., 0] if colour.shape[2] == 1 else cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY).astype(pixels.dtype)
    )
    if not has_alpha:
        return luma
    opaque = np.iinfo(pixels.dtype).max
    over_black: Stored = (luma.astype(np.uint32) * pixels[..., -1] // opaque).astype(pixels.dtype)
    return over_black


def _upright(pixels: Stored, orientation: int) -> Stored:
    """Undo the camera's rotation: orientation 1 to 8 as in EXIF."""
    if orientation in _TRANSPOSED:
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _look_of(stored: Stored) -> PixelLook:
    """Say how raster pixels look: as they are.

    A PNG of 16 bits does not say how many of them are used; 12-bit pixels in it would be nearly black.
    """
    bits = _used_bits(stored) if stored.dtype.itemsize > 1 else 8
    return PixelLook(bits_stored=bits, full_scale=True)


def _used_bits(stored: Stored) -> int:
    """Return how many bits the levels of a picture use, [H,W] uint16: 8 to 16.

    These are the fewest bits beyond which there is nothing for a whole further bit but a few pixels: a defect of
    the detector, or text that a program wrote in the white of 16 bits over a radiograph of 12. Such pixels are shown
    white. Levels of 8 bits that were stretched to 16 use all of them, however dark they are.
    """
    counts = np.bincount(stored.ravel(), minlength=1 << 16)
    levels = np.flatnonzero(counts)
    if not np.any(levels % 257) or not np.any(levels % 256):
        return 16 if levels[-1] else 8
    cumulated = np.cumsum(counts)
    bits = max(8, int(np.searchsorted(cumulated, (1 - _MOST_WRITTEN) * stored.size)).bit_length())
    while bits < 16 and cumulated[(2 << bits) - 1] - cumulated[(1 << bits) - 1] > _FEW_PIXELS * stored.size:
        bits += 1
    return bits
