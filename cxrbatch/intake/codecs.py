"""Decoding of encoded frames: pydicom's decoder plugin API, fed by imagecodecs and Pillow.

pydicom decides what a transfer syntax means; `decode_frame` here is the one plugin it calls, because it is the
fastest licence-clean way measured for every syntax (NEMA RG3, 1760x1760, and 2022x2464 at 12 bits):
libjpeg-turbo 3 for all of JPEG, CharLS for JPEG-LS, OpenJPEG for JPEG 2000 and HTJ2K. What these decode although it is
damaged is refused by `jpeg`, `lossless_jpeg` and `jpeg2000`. (OpenJPH is three times
faster at HTJ2K, but imagecodecs returns whatever it decoded of a damaged frame instead of raising.)
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from struct import unpack_from
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
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

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.jpeg import decode_jpeg
from cxrbatch.intake.jpeg2000 import check_codestream, has_unread_packets
from cxrbatch.intake.jpeg_header import find_frame
from cxrbatch.intake.pillow import refuse_cut_images

PLUGIN = "cxrbatch"
REDUCE_OPTION = "cxrbatch_reduce"
# A list: what a frame is refused for. pydicom makes one error of whatever a plugin raises.
REFUSALS_OPTION = "cxrbatch_refusals"

_JPEG = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1}
_JPEG_LS = {JPEGLSLossless, JPEGLSNearLossless}
_JPEG_2000 = {JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}
ENCAPSULATED = frozenset(_JPEG | _JPEG_LS | _JPEG_2000 | {RLELossless})
NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
SUPPORTED = ENCAPSULATED | NATIVE

JPEG_DECODER = "libjpeg-turbo, by simplejpeg or imagecodecs"

# pydicom asks a plugin's module for it.
DECODER_DEPENDENCIES = dict.fromkeys(ENCAPSULATED, ("imagecodecs", "pillow"))

_END_OF_CODESTREAM = b"\xff\xd9"
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
_SOC_SIZ = b"\xff\x4f\xff\x51"
_COD = 0xFF52
_SOT = 0xFF90


def is_available(uid: UID) -> bool:
    """Answer pydicom: whether this plugin decodes `uid`."""
    return uid in ENCAPSULATED


def register_plugin() -> None:
    """Make pydicom know this module's decoder for every encapsulated syntax; harmless to repeat."""
    for uid in ENCAPSULATED:
        decoder = get_decoder(uid)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame for pydicom (its plugin API); tells the runner the width of what it returns."""
    try:
        array = _decode(src, runner)
    except ImageRejected as refusal:
        runner.get_option(REFUSALS_OPTION, []).append(refusal)
        raise
    expected = (runner.rows, runner.columns)
    if array.shape != expected:
        raise ValueError(f"the frame holds {array.shape} pixels, the header says {expected}")
    runner.set_option("bits_allocated", array.dtype.itemsize * 8)
    return array.tobytes()


@dataclass(frozen=True, slots=True)
class Codestream:
    """What an encoded frame says of itself; `levels` is how often JPEG 2000 halved it, 0 for the others."""

    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool = False
    levels: int = 0


def decoder_name(syntax: UID) -> str:
    """Return the library that decodes a transfer syntax, for people to read."""
    if syntax in _JPEG:
        return JPEG_DECODER
    if syntax in _JPEG_LS:
        return "imagecodecs (CharLS)"
    if syntax in _JPEG_2000:
        return "OpenJPEG, by imagecodecs or reduced by Pillow"
    return "imagecodecs (DICOM RLE)" if syntax == RLELossless else "none needed (native pixels)"


def read_codestream(frame: bytes, syntax: UID) -> Codestream | None:
    """Read the frame's own header, so that a lie in the DICOM header is found before anything is allocated.

    Returns:
        None for RLE, which has no such header.

    Raises:
        ValueError, IndexError, struct.error: there is none where one must be.
    """
    if syntax in _JPEG or syntax in _JPEG_LS:
        return read_jpeg_frame_header(frame)
    if syntax in _JPEG_2000:
        return _read_size_marker(frame)
    return None


def read_jpeg_frame_header(frame: bytes) -> Codestream:
    """Read the start of frame of a JPEG or JPEG-LS stream (ISO/IEC 10918-1 B.2.2)."""
    precision, rows, columns, components = unpack_from(">BHHB", frame, find_frame(frame).start + 4)
    return Codestream(rows, columns, components, precision)


def is_whole(frame: bytes, syntax: UID) -> bool:
    """Tell whether a JPEG or JPEG-LS frame ends where it should; libjpeg would paint the rest grey."""
    if syntax in _JPEG or syntax in _JPEG_LS:
        return _END_OF_CODESTREAM in frame[-16:]
    return True


def reducible_levels(codestream: Codestream, syntax: UID, max_px: int) -> int:
    """Return how often JPEG 2000 may be halved while decoding with the long side never below `max_px`.

    Signed streams are decoded whole: Pillow shifts them into unsigned ones. And Pillow 13 rounds a reduced side
    to the nearest pixel where the standard rounds up: it fails where the two differ, so such a level is left out.
    """
    if syntax not in _JPEG_2000 or codestream.is_signed:
        return 0
    sides = (codestream.rows, codestream.columns)
    fitting = [
        level
        for level in range(1, codestream.levels + 1)
        if max(sides) >> level >= max_px and all(_rounds_up(side, level) for side in sides)
    ]
    return max(fitting, default=0)


def _rounds_up(pixels: int, level: int) -> bool:
    return reduced_size(pixels, level) == pixels + (1 << level >> 1) >> level


def reduced_size(pixels: int, level: int) -> int:
    """Return a side after `level` halvings, rounded up (ISO/IEC 15444-1 B.5)."""
    return -(-pixels >> level)


def _decode(frame: bytes, runner: DecodeRunner) -> NDArray[np.integer[Any]]:
    syntax = runner.transfer_syntax
    if syntax in _JPEG:
        return decode_jpeg(frame)
    if syntax in _JPEG_LS:
        return np.asarray(imagecodecs.jpegls_decode(frame))
    if syntax == RLELossless:
        return _decode_rle(frame, runner)
    return _decode_jpeg_2000(frame, runner)


def _decode_jpeg_2000(frame: bytes, runner: DecodeRunner) -> NDArray[np.integer[Any]]:
    parts = check_codestream(frame, _find_marker(frame, max(0, frame.find(_SOC_SIZ)) + 2, _SOT))
    if level := runner.get_option(REDUCE_OPTION, 0):
        array = _decode_reduced(frame, runner, level)
    else:
        array = np.asarray(imagecodecs.jpeg2k_decode(frame, numthreads=1))
    whole = _read_size_marker(frame)
    if has_unread_packets(frame, parts, (whole.columns, whole.rows), whole.levels):
        raise ImageRejected(Reason.UNREADABLE_PIXELS, "the JPEG 2000 data are damaged: packets are left over")
    return array


def _decode_rle(frame: bytes, runner: DecodeRunner) -> NDArray[np.integer[Any]]:
    dtype = np.dtype(f"<u{runner.bits_allocated // 8}")
    decoded = imagecodecs.dicomrle_decode(frame, dtype, out=runner.rows * runner.columns * dtype.itemsize)
    return np.frombuffer(decoded, dtype).reshape(runner.rows, runner.columns)


def _decode_reduced(frame: bytes, runner: DecodeRunner, level: int) -> NDArray[np.integer[Any]]:
    """Decode JPEG 2000 at 1/2**level of its size. Pillow gives 9 to 15 bits shifted up to 16; this shifts back.

    Then it is laid where it belongs, or an engine would see the image shifted.
    """
    refuse_cut_images()
    image = Image.open(BytesIO(frame), formats=("JPEG2000",))
    image.reduce = level  # type: ignore[method-assign, assignment] # an attribute of the JPEG 2000 plugin
    array: NDArray[np.integer[Any]] = np.asarray(image)
    precision = runner.get_option("j2k_precision", runner.bits_stored)
    unused_bits = int(array.dtype.itemsize * 8 - precision)
    whole = _read_size_marker(frame)
    return _over_all(np.right_shift(array, unused_bits), whole.rows, whole.columns, level)


def _over_all(low_band: NDArray[np.integer[Any]], rows: int, columns: int, level: int) -> NDArray[np.integer[Any]]:
    """Move the samples of a low band, [h,w] uint8 or uint16, to the middles of h x w equal parts of the image.

    They sit on every 2**level-th stored pixel from the first on (ISO/IEC 15444-1 B.5): half a stored pixel and more
    to the top left of those middles, or with an odd number of pixels spread a little wider.
    """
    height, width = low_band.shape
    scales = np.array((columns / width, rows / height)) / (1 << level)
    offsets = (scales - 0.5**level) / 2
    to_low_band = np.array([[scales[0], 0, offsets[0]], [0, scales[1], offsets[1]]])
    size, border = (width, height), cv2.BORDER_REPLICATE
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(low_band, to_low_band, size, flags=flags, borderMode=border), low_band.dtype)


def _read_size_marker(frame: bytes) -> Codestream:
    """Read the SIZ and COD markers of a JPEG 2000 codestream, bare or in a JP2 file (ISO/IEC 15444-1 A.5, A.6)."""
    start = frame.find(_SOC_SIZ) if frame.startswith(_JP2_BOX) else 0
    if start < 0 or frame[start : start + 4] != _SOC_SIZ:
        raise ValueError("no JPEG 2000 codestream")
    right, bottom, left, top = unpack_from(">4L", frame, start + 8)
    components, precision = unpack_from(">HB", frame, start + 40)
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(precision & 0x7F) + 1,
        is_signed=bool(precision & 0x80),
        levels=_read_levels(frame, start + 2),
    )


def _read_levels(frame: bytes, at: int) -> int:
    """Return how often the image was halved, which the COD marker says."""
    return int(frame[_find_marker(frame, at, _COD) + 9])


def _find_marker(frame: bytes, at: int, wanted: int) -> int:
    """Walk the main header from marker to marker, the last of which is followed by SOT."""
    while True:
        marker, length = unpack_from(">HH", frame, at)
        if marker == wanted:
            return at
        if marker == _SOT:
            raise ValueError("a marker is missing")
        at += 2 + length
