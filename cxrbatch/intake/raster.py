"""A PNG or JPEG file's bytes in; its header, or the decoded Radiograph, out."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from struct import unpack_from
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cxrbatch.config import Settings
from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.codecs import read_jpeg_frame_header, refuse_cut_images
from cxrbatch.intake.colour import coloured_share
from cxrbatch.intake.content import PNG_SIGNATURE, Kind
from cxrbatch.intake.display import PixelLook, Stored, display_pixels
from cxrbatch.intake.elements import refusing_malformed
from cxrbatch.intake.pixel_module import check_image_size
from cxrbatch.intake.radiograph import Inspection, assemble_radiograph
from cxrbatch.intake.screen import missing_tags
from cxrbatch.records import Header, Radiograph, Rejection

_JPEG_END = b"\xff\xd9"
_GRAY, _RGB, _CMYK = 1, 3, 4
_PNG_PALETTE = 3
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


def inspect_raster(content: bytes, kind: Kind, settings: Settings) -> Inspection:
    """Tell from the header alone what the image is and whether it is refused already.

    A raster file does not say which part of whom it shows: accepted with the flags that say so.

    Raises:
        ImageRejected: there is no header that makes sense (unreadable_header).
    """
    raster = _read_raster_header(content, kind)
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


def read_raster(content: bytes, kind: Kind, settings: Settings) -> Radiograph:
    """Decode a whole PNG or JPEG file.

    The stored pixels, which the hash and `rows` x `columns` speak of, are the upright grey ones.

    Raises:
        ImageRejected: with the reason for which it gets no score.
    """
    inspection = inspect_raster(content, kind, settings)
    if inspection.rejection is not None:
        raise ImageRejected(inspection.rejection.reason, inspection.rejection.message)
    if kind is Kind.JPEG and _JPEG_END not in content[-4096:]:
        raise ImageRejected(Reason.TRUNCATED_PIXELS, "the JPEG file has no end")
    stored, coloured = _decode_with_colour(content, kind)
    displayed = display_pixels(stored, _look_of(stored), settings.max_display_px)
    digest = hashlib.sha256(f"raster {stored.shape} {stored.dtype.itemsize} ".encode() + stored.tobytes())
    radiograph = assemble_radiograph(
        inspection.header, displayed.display, inspection.flags + displayed.flags, digest.hexdigest()
    )
    return replace(radiograph, coloured_share=coloured)


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
        pixels = _decode_png(content) if kind is Kind.PNG else np.asarray(imagecodecs.jpeg_decode(content))
        # A second frame header in a damaged JPEG file: the size that was checked is not the one decoded.
        if pixels.shape[:2] != (header.rows, header.columns):
            raise ImageRejected(Reason.INCONSISTENT_HEADER, f"decodes to {pixels.shape[:2]}, which the header denies")
        return _upright(_to_gray(pixels), header.orientation), coloured_share(pixels)


def _refuse_print_file(raster: RasterHeader) -> None:
    if raster.photometric == "CMYK":
        raise ImageRejected(Reason.UNSUPPORTED_PHOTOMETRIC, "a print file (CMYK), not a radiograph")


def _read_raster_header(content: bytes, kind: Kind) -> RasterHeader:
    with refusing_malformed(Reason.UNREADABLE_HEADER, f"the {kind.value} header is damaged"):
        return _read_png_header(content) if kind is Kind.PNG else _read_jpeg_header(content)


def _read_png_header(content: bytes) -> RasterHeader:
    """Read the IHDR chunk, which comes first (PNG specification 11.2.2)."""
    length, name, columns, rows, bits, colour = unpack_from(">L4sLLBB", content, len(PNG_SIGNATURE))
    if name != b"IHDR" or length != 13 or not rows or not columns:
        raise ValueError("no IHDR")
    photometric = "PALETTE COLOR" if colour == _PNG_PALETTE else "RGB" if colour & 2 else "MONOCHROME2"
    return RasterHeader(rows, columns, bits, photometric)


def _read_jpeg_header(content: bytes) -> RasterHeader:
    frame = read_jpeg_frame_header(content)
    names = {_GRAY: "MONOCHROME2", _RGB: "RGB", _CMYK: "CMYK"}
    if not frame.rows or not frame.columns:
        raise ValueError("no size")
    return RasterHeader(frame.rows, frame.columns, frame.precision, names[frame.components], _read_orientation(content))


def _read_orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG file, 1 without one; only Pillow's header reader runs."""
    if b"Exif\0" not in content[:65536]:
        return 1
    with Image.open(BytesIO(content), formats=("JPEG",)) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def _decode_png(content: bytes) -> NDArray[Any]:
    """Decode to [H,W] or [H,W,2..4], uint8 or uint16; of an animation, the first picture.

    By Pillow: imagecodecs 2026.3 is a third faster, but drops a reference to None with every damaged file,
    which ends in "deallocating None" after a few thousand of them.
    """
    _check_png_chunks(content)
    refuse_cut_images()
    with Image.open(BytesIO(content), formats=("PNG",)) as image:
        image.load()
        if image.mode in ("P", "PA"):
            has_alpha = image.mode == "PA" or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        return np.asarray(image.convert("L") if image.mode == "1" else image)


def _check_png_chunks(content: bytes) -> None:
    """Walk the chunks to IEND and verify those that make the picture; Pillow does not look at the sums of IDAT."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(content):
        length, name = unpack_from(">L4s", content, at)
        end = at + 12 + length
        if end > len(content):
            break
        is_critical = name[:1].isupper()
        if is_critical and zlib.crc32(content[at + 4 : end - 4]) != unpack_from(">L", content, end - 4)[0]:
            raise ImageRejected(Reason.UNREADABLE_PIXELS, "a checksum of the PNG file is wrong")
        if name == b"IEND":
            return
        at = end
    raise ImageRejected(Reason.TRUNCATED_PIXELS, "the PNG file has no end")


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

    A PNG of 16 bits does not say how many of them are used; 12-bit pixels in it would be nearly black. So its
    scale ends at the smallest number of bits that holds its maximum.
    """
    bits = max(8, int(stored.max()).bit_length()) if stored.dtype.itemsize > 1 else 8
    return PixelLook(bits_stored=bits, full_scale=True)
