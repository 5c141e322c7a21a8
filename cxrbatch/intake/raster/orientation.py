"""Which way up a PNG or JPEG picture is, told by its metadata as EXIF's 1 to 8.

EXIF is believed first. XMP speaks where EXIF says nothing that makes sense, as in Pillow; the two may disagree, when
a program turned the pixels and told one of them only. Metadata that cannot be read say nothing: they never refuse a
picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from PIL import ExifTags, Image

from cxrbatch.intake.codecs.jpeg_markers import APP1, NO_JPEG, walk_header
from cxrbatch.intake.libraries import silent_libraries
from cxrbatch.intake.raster.png import Chunk, find_metadata, inflated, read_chunks

UPRIGHT = 1
# Room for an EXIF block with a thumbnail, as text; what is longer holds more than an orientation.
MAX_TEXT_BYTES = 1024 * 1024

_EXIF_HEADER = b"Exif\0\0"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_KEYWORD = b"XML:com.adobe.xmp"
# How ImageMagick keeps EXIF in a PNG text, in hexadecimal under three lines of its own.
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([0-9]+)")


def read_jpeg_orientation(content: bytes) -> int:
    """Return the orientation that the segments before the first scan of a JPEG file give, 1 without one."""
    blocks: list[bytes] = []
    with suppress(*NO_JPEG):
        blocks.extend(part.parameters(content) for part in walk_header(content) if part.marker == APP1)
    exif = (block for block in blocks if block.startswith(_EXIF_HEADER))
    xmp = (block for block in blocks if block.startswith(_XMP_HEADER))
    return _decide(exif, xmp)


def read_png_orientation(content: bytes, tail: bytes = b"") -> int:
    """Return the orientation that the chunks of a PNG file give, 1 without one.

    Args:
        content: the file, or its first bytes.
        tail: its last bytes where `content` does not reach that far: many programs write metadata behind the pixels.
    """
    found = [*_metadata(read_chunks(content), content), *_metadata(find_metadata(tail), tail)]
    exif = (block for name, block in found if name == _EXIF_HEADER)
    return _decide(exif, (block for name, block in found if name == _XMP_HEADER))


def _decide(exif: Iterable[bytes], xmp: Iterable[bytes]) -> int:
    stated = (*map(_exif_orientation, exif), *map(_xmp_orientation, xmp))
    return next((orientation for orientation in stated if orientation in range(1, 9)), UPRIGHT)


def _metadata(chunks: Iterable[Chunk], content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield every block of metadata with what it is: EXIF or XMP."""
    for chunk in chunks:
        if chunk.name == b"eXIf":
            yield _EXIF_HEADER, chunk.data(content)
        elif chunk.name in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, rest = chunk.data(content).partition(b"\0")
            if keyword == _XMP_KEYWORD:
                yield _XMP_HEADER, _inflated_text(chunk, content) or rest
            elif keyword in _RAW_PROFILES:
                yield _EXIF_HEADER, _from_hexadecimal(_inflated_text(chunk, content) or rest)


def _inflated_text(chunk: Chunk, content: bytes) -> bytes:
    text = b""
    for piece in inflated(chunk, content):
        text += piece
        if len(text) > MAX_TEXT_BYTES:
            break
    return text


def _from_hexadecimal(profile: bytes) -> bytes:
    """Return the block of a raw profile: behind an empty line, a line with its kind and one with its length."""
    digits = b"".join(profile.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""


def _exif_orientation(block: bytes) -> int:
    """Return what an EXIF block says, with or without the header that JPEG puts before it; 0 where it says nothing."""
    exif = Image.Exif()
    with silent_libraries():
        try:
            exif.load(block)
            stated = exif.get(ExifTags.Base.Orientation, 0)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # no metadata, whatever is wrong with them, make a picture unreadable
            return 0
    return stated if isinstance(stated, int) else 0


def _xmp_orientation(packet: bytes) -> int:
    found = _XMP_ORIENTATION.search(packet)
    return int(found[1]) if found else 0
