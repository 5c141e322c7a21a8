"""PNG files: their chunks, the file without all that is no picture, and the picture decoded.

The specification asks every reader to skip the chunks that it has no use for (PNG third edition, 14.2). Decoders
parse more than that, and fail on a colour profile or a comment that says nothing of the pixels.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from struct import unpack_from
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.kind import PNG_SIGNATURE
from cxrbatch.intake.libraries import refuse_cut_images

PALETTE_COLOUR = 3
# What inflated comments and colour profiles of a file may come to; they are counted, not kept.
MAX_INFLATED_BYTES = 64 * 1024 * 1024
# 100 megapixels in chunks of 8 KB are 50,000.
_MOST_CHUNKS = 500_000
_STEP_BYTES = 1024 * 1024
_HEADER_END = len(PNG_SIGNATURE) + 25
_COLOUR_AT = len(PNG_SIGNATURE) + 17
_PICTURE = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_DEFLATED = {b"zTXt", b"iTXt", b"iCCP"}
_METADATA = re.compile(rb"eXIf|iTXt|zTXt|tEXt")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: `start` to `end` is all of it, with length, name and checksum."""

    name: bytes
    start: int
    end: int

    @property
    def is_critical(self) -> bool:
        """Whether nobody can show the picture who does not know this chunk: bit 5 of its name is 0 (5.4)."""
        return not self.name[0] & 0x20

    def data(self, content: bytes) -> bytes:
        """Return its data, of the file or the part of it that the chunk was found in."""
        return content[self.start + 8 : self.end - 4]

    def is_intact(self, content: bytes) -> bool:
        """Tell whether its checksum is that of its name and data."""
        return bool(zlib.crc32(content[self.start + 4 : self.end - 4]) == unpack_from(">L", content, self.end - 4)[0])


def read_chunks(content: bytes) -> Iterator[Chunk]:
    """Yield the chunks of a file, or of its beginning, up to IEND or the last one that is all there."""
    at = len(PNG_SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(content):
            return
        length, name = unpack_from(">L4s", content, at)
        chunk = Chunk(name, at, at + 12 + length)
        if chunk.end > len(content) or not (name.isalpha() or chunk.is_intact(content)):
            return
        yield chunk
        if name == b"IEND":
            return
        at = chunk.end


def find_metadata(tail: bytes) -> Iterator[Chunk]:
    """Yield the chunks of metadata in the end of a file, known by their checksums."""
    for found in _METADATA.finditer(tail, 4):
        start = found.start() - 4
        chunk = Chunk(found[0], start, start + 12 + unpack_from(">L", tail, start)[0])
        if chunk.end <= len(tail) and chunk.is_intact(tail):
            yield chunk


def decode_png(content: bytes) -> NDArray[Any]:
    """Decode to [H,W] or [H,W,2..4], uint8 or uint16; of an animation, the first picture.

    Pillow gives 8 bits of a pixel with several samples of 16, so OpenCV decodes these, once Pillow found them sound.

    By Pillow: imagecodecs 2026.3 is a third faster, but drops a reference to None with every damaged file,
    which ends in "deallocating None" after a few thousand of them.
    """
    bare = bare_picture(content)
    refuse_cut_images()
    with Image.open(BytesIO(bare), formats=("PNG",)) as image:
        image.load()
        if _is_deep_colour(bare):
            return _decode_deep_colour(bare)
        if image.mode in ("P", "PA"):
            has_alpha = image.mode == "PA" or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        return np.asarray(image.convert("L") if image.mode == "1" else image)


def bare_picture(content: bytes) -> bytes:
    """Return the file with nothing in it but its picture: no text, profile or animation, nothing behind its end.

    Raises:
        ImageRejected: it ends before IEND (truncated_pixels); a chunk of the picture is damaged, or it has one that
            every reader must understand and this one does not (unreadable_pixels).
    """
    has_palette = content[_COLOUR_AT : _COLOUR_AT + 1] == bytes([PALETTE_COLOUR])
    wanted = {b"IHDR", b"IDAT", b"IEND"} | ({b"PLTE", b"tRNS"} if has_palette else set())
    chunks = list(read_chunks(content))
    if not chunks or chunks[-1].name != b"IEND":
        raise _without_end(content, chunks[-1].end if chunks else len(PNG_SIGNATURE))
    for chunk in chunks:
        _check_chunk(chunk, content)
    _refuse_bomb([chunk for chunk in chunks if chunk.name in _DEFLATED], content)
    kept = (content[chunk.start : chunk.end] for chunk in chunks if chunk.name in wanted)
    return b"".join((content[: len(PNG_SIGNATURE)], *kept))


def _without_end(content: bytes, at: int) -> ImageRejected:
    """Say why the chunks end at `at`; a copy that is under way may have zeros where its end will be."""
    name = content[at + 4 : at + 8]
    if name.isalpha() or not any(name):
        return ImageRejected(Reason.TRUNCATED_PIXELS, "the PNG file has no end")
    return ImageRejected(Reason.UNREADABLE_PIXELS, "the PNG file is damaged: a chunk has no name")


def _check_chunk(chunk: Chunk, content: bytes) -> None:
    """Verify a chunk that makes the picture; Pillow does not look at the sums of IDAT."""
    if chunk.is_critical and chunk.name not in _PICTURE:
        name = chunk.name.decode("ascii") if chunk.name.isalpha() else chunk.name.hex()
        raise ImageRejected(
            Reason.UNREADABLE_PIXELS,
            f"the PNG file holds a chunk {name}, without which it cannot be read and which is unknown here; "
            "save it anew with another program",
        )
    if chunk.is_critical and not chunk.is_intact(content):
        raise ImageRejected(Reason.UNREADABLE_PIXELS, "a checksum of the PNG file is wrong")
    # A second header would be believed by the decoder, and its size was never checked.
    if (chunk.name == b"IHDR") != (chunk.end == _HEADER_END):
        raise ImageRejected(Reason.UNREADABLE_PIXELS, "the PNG file is damaged: its header is not its first chunk")


def _refuse_bomb(chunks: Sequence[Chunk], content: bytes) -> None:
    """Refuse a file that is made to fill the memory of whoever opens it."""
    inflated_bytes = 0
    for chunk in chunks:
        for piece in inflated(chunk, content):
            inflated_bytes += len(piece)
            if inflated_bytes > MAX_INFLATED_BYTES:
                raise ImageRejected(Reason.UNREADABLE_PIXELS, "a text in the PNG file inflates without end")


def inflated(chunk: Chunk, content: bytes) -> Iterator[bytes]:
    """Yield what a text or a profile inflates to, piece by piece, as far as it is sound; nothing where it is plain."""
    deflated, inflater = _deflated(chunk.name, chunk.data(content)), zlib.decompressobj()
    for at in range(0, len(deflated), _STEP_BYTES):
        waiting = deflated[at : at + _STEP_BYTES]
        while waiting and not inflater.eof:
            try:
                yield inflater.decompress(waiting, _STEP_BYTES)
            except zlib.error:
                return
            waiting = inflater.unconsumed_tail


def _deflated(name: bytes, data: bytes) -> bytes:
    """Return the zlib stream of a zTXt, iCCP or iTXt chunk (PNG third edition, 11.3.2.3, 11.3.3.3 and 11.3.3.4)."""
    _, _, after_keyword = data.partition(b"\0")
    if name != b"iTXt":
        return after_keyword[1:]
    return after_keyword[2:].split(b"\0", 2)[-1] if after_keyword.startswith(b"\1") else b""


def _is_deep_colour(content: bytes) -> bool:
    _, _, _, _, bits, colour = unpack_from(">L4sLLBB", content, len(PNG_SIGNATURE))
    return bool(bits > 8 and colour)


def _decode_deep_colour(content: bytes) -> NDArray[Any]:
    """Decode a PNG of 16-bit RGB, RGBA or grey with alpha to uint16 [H,W,3..4]."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("OpenCV cannot decode it")
    has_alpha = pixels.shape[2] == 4
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if has_alpha else cv2.COLOR_BGR2RGB))
