"""JPEG frames decoded, or refused where the decoder had to guess: libjpeg paints over what is missing and only warns.

`decode_jpeg` is where to start. Frames of DCT coefficients are decoded strictly; lossless ones, which no strict
decoder at hand reads, are measured afterwards (see `lossless_jpeg`).
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.codecs.jpeg_markers import START_OF_SCAN, find_frame, is_frame, walk_header
from cxrbatch.intake.codecs.lossless_jpeg import ENDS_EARLY, IS_DAMAGED, check_entropy_coded_length

_LOSSLESS = 0xC3
_SEQUENTIAL = (0xC0, 0xC1)
_COLOUR_SPACES = {1: "GRAY", 3: "RGB"}
# APP0 and APP14 say what the colours mean, but no colour matters where only the data are checked; COM is FE.
_IGNORED = (*range(0xE0, 0xF0), 0xFE)

_PADDING_BYTES = 4

# How libjpeg-turbo words its warnings of data; its other warnings are of the header.
_ENDED_EARLY = ("premature end of data segment", "Premature end of JPEG file")
_DAMAGED = (
    "extraneous bytes before marker",
    "bad Huffman code",
    "bad arithmetic code",
    "instead of RST",
    "Inconsistent progression sequence",
)


def decode_jpeg(content: bytes) -> NDArray[np.integer[Any]]:
    """Decode any kind of JPEG.

    Returns:
        [H,W] or [H,W,3] of RGB; uint8, or uint16 of more than 8 bits.

    Raises:
        ImageRejected: the coded data end early (truncated_pixels) or are damaged (unreadable_pixels).
        ValueError, IndexError, struct.error, RuntimeError: it is no JPEG, or the header is damaged.
    """
    frame = find_frame(content)
    if frame.marker == _LOSSLESS:
        pixels = np.asarray(imagecodecs.jpeg_decode(content))
        check_entropy_coded_length(content, pixels)
        return pixels
    precision, components = content[frame.start + 4], content[frame.start + 9]
    if precision == 8 and components in _COLOUR_SPACES:
        warning, decoded = _decode_strictly(content, _COLOUR_SPACES[components])
        if decoded is not None:
            return decoded[..., 0] if components == 1 else decoded
        _refuse_damage(warning, in_doubt=False)
    _check_data(content)
    return np.asarray(imagecodecs.jpeg_decode(content))


def _check_data(content: bytes) -> None:
    """Decode strictly what matters for the entropy-coded data: not the header's oddities, nor the precision.

    How coefficients are coded does not depend on how many bits a sample has, so those of 12 bits pass for 8.
    """
    warning, _ = _decode_strictly(_bare_of_oddities(content), "GRAY", smallest=True)
    _refuse_damage(warning, in_doubt=True)


def _decode_strictly(content: bytes, colours: str, *, smallest: bool = False) -> tuple[str, NDArray[np.uint8] | None]:
    """Return what libjpeg warned of first, or the pixels [H,W,C]; `smallest` gives those of an eighth of the size."""
    size = {"min_height": 1, "min_width": 1, "min_factor": 8, "fastdct": True} if smallest else {}
    try:
        return "", simplejpeg.decode_jpeg(content, colours, strict=True, **size)
    except ValueError as error:
        return str(error), None


def _refuse_damage(warning: str, *, in_doubt: bool) -> None:
    """Refuse what `warning` says of the data; extraneous bytes are such only once the header holds none."""
    if any(words in warning for words in _ENDED_EARLY):
        raise ImageRejected(Reason.TRUNCATED_PIXELS, ENDS_EARLY)
    if any(words in warning for words in (_DAMAGED if in_doubt else _DAMAGED[1:])):
        raise ImageRejected(Reason.UNREADABLE_PIXELS, IS_DAMAGED)


def _bare_of_oddities(content: bytes) -> bytes:
    """Return the stream without what is no image data in its header, and said to be of 8 bits."""
    kept = bytearray(b"\xff\xd8")
    is_sequential = False
    for segment in walk_header(content):
        if segment.marker in _IGNORED:
            continue
        part = bytearray(content[segment.start : segment.end])
        if is_frame(segment.marker):
            part[4] = 8
            is_sequential = segment.marker in _SEQUENTIAL
        if segment.marker == START_OF_SCAN:
            # Spectral selection and approximation mean nothing here, and are wrong in files that look well.
            if is_sequential:
                part[-3:] = b"\x00\x3f\x00"
            part += _without_padding(content[segment.end :])
        kept += part
    return bytes(kept)


def _without_padding(data: bytes) -> bytes:
    """Leave out a few zeros before the end of the image, which a stuffed zero is not."""
    end = data.rfind(b"\xff\xd9")
    start = len(data[max(0, end - _PADDING_BYTES) : end].rstrip(b"\0")) + max(0, end - _PADDING_BYTES)
    return data if end < 0 or data[start - 1 : start] == b"\xff" else data[:start] + data[end:]
