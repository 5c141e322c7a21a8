"""Which transfer syntaxes are read and who decodes them: pydicom's decoder plugin API, fed by imagecodecs and Pillow.

A new transfer syntax goes into `_FAMILIES`. pydicom decides what a transfer syntax means; `decode_frame` here is the
one plugin it calls, because it is the
fastest licence-clean way measured for every syntax (NEMA RG3, 1760x1760, and 2022x2464 at 12 bits):
libjpeg-turbo 3 for all of JPEG, CharLS for JPEG-LS, OpenJPEG for JPEG 2000 and HTJ2K. What these decode although it is
damaged is refused by `jpeg`, `lossless_jpeg` and `jpeg2000`. (OpenJPH is three times
faster at HTJ2K, but imagecodecs returns whatever it decoded of a damaged frame instead of raising.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
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

from cxrbatch.errors import ImageRejected
from cxrbatch.intake.codecs import Codestream
from cxrbatch.intake.codecs.jpeg import decode_jpeg
from cxrbatch.intake.codecs.jpeg2000 import decode_jpeg_2000, read_size_marker
from cxrbatch.intake.codecs.jpeg_markers import ends_with_image, read_frame_header

PLUGIN = "cxrbatch"
REDUCE_OPTION = "cxrbatch_reduce"
# A list: what a frame is refused for. pydicom makes one error of whatever a plugin raises.
REFUSALS_OPTION = "cxrbatch_refusals"

JPEG_DECODER = "libjpeg-turbo, by simplejpeg or imagecodecs"

Pixels = NDArray[np.integer[Any]]


def _decode_jpeg(frame: bytes, _: DecodeRunner) -> Pixels:
    return decode_jpeg(frame)


def _decode_jpeg_ls(frame: bytes, _: DecodeRunner) -> Pixels:
    return np.asarray(imagecodecs.jpegls_decode(frame))


def _decode_jpeg_2000(frame: bytes, runner: DecodeRunner) -> Pixels:
    precision = runner.get_option("j2k_precision", runner.bits_stored)
    return decode_jpeg_2000(frame, precision, runner.get_option(REDUCE_OPTION, 0))


def _decode_rle(frame: bytes, runner: DecodeRunner) -> Pixels:
    dtype = np.dtype(f"<u{runner.bits_allocated // 8}")
    decoded = imagecodecs.dicomrle_decode(frame, dtype, out=runner.rows * runner.columns * dtype.itemsize)
    return np.frombuffer(decoded, dtype).reshape(runner.rows, runner.columns)


def _says_nothing(_: bytes) -> None:
    return None


def _ends_anywhere(_: bytes) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Family:
    """Transfer syntaxes whose frames are coded alike.

    `decoder` names the library, for people to read. `read_header` tells what a frame says of itself, if anything;
    `is_whole` whether it ends where it should.
    """

    syntaxes: tuple[UID, ...]
    decoder: str
    decode: Callable[[bytes, DecodeRunner], Pixels]
    read_header: Callable[[bytes], Codestream | None] = _says_nothing
    is_whole: Callable[[bytes], bool] = _ends_anywhere


_FAMILIES = (
    _Family(
        (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1),
        *(JPEG_DECODER, _decode_jpeg, read_frame_header, ends_with_image),
    ),
    _Family(
        (JPEGLSLossless, JPEGLSNearLossless),
        *("imagecodecs (CharLS)", _decode_jpeg_ls, read_frame_header, ends_with_image),
    ),
    _Family(
        (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K),
        *("OpenJPEG, by imagecodecs or reduced by Pillow", _decode_jpeg_2000, read_size_marker),
    ),
    _Family((RLELossless,), "imagecodecs (DICOM RLE)", _decode_rle),
)
_FAMILY_OF = {syntax: family for family in _FAMILIES for syntax in family.syntaxes}
ENCAPSULATED = frozenset(_FAMILY_OF)
NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
SUPPORTED = ENCAPSULATED | NATIVE

# pydicom asks a plugin's module for it.
DECODER_DEPENDENCIES = dict.fromkeys(ENCAPSULATED, ("imagecodecs", "pillow"))


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
        array = _FAMILY_OF[runner.transfer_syntax].decode(src, runner)
    except ImageRejected as refusal:
        runner.get_option(REFUSALS_OPTION, []).append(refusal)
        raise
    expected = (runner.rows, runner.columns)
    if array.shape != expected:
        raise ValueError(f"the frame holds {array.shape} pixels, the header says {expected}")
    runner.set_option("bits_allocated", array.dtype.itemsize * 8)
    return array.tobytes()


def decoder_name(syntax: UID) -> str:
    """Return the library that decodes a transfer syntax, for people to read."""
    return _FAMILY_OF[syntax].decoder if syntax in _FAMILY_OF else "none needed (native pixels)"


def read_codestream(frame: bytes, syntax: UID) -> Codestream | None:
    """Read the frame's own header, so that a lie in the DICOM header is found before anything is allocated.

    Returns:
        None for RLE, which has no such header.

    Raises:
        ValueError, IndexError, struct.error: there is none where one must be.
    """
    return _FAMILY_OF[syntax].read_header(frame)


def is_whole(frame: bytes, syntax: UID) -> bool:
    """Tell whether a frame ends where it should, as far as its codec has an end; libjpeg would paint the rest grey."""
    return _FAMILY_OF[syntax].is_whole(frame)
