"""The outer form of a DICOM file: its transfer syntax, its elements, and where its pixels start."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from struct import unpack_from

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxrbatch.errors import Flag, ImageRejected, Reason
from cxrbatch.intake.dicom.elements import WANTED_TAGS, Elements
from cxrbatch.intake.kind import PREAMBLE_BYTES, has_preamble

UNDEFINED_LENGTH = 0xFFFFFFFF

_TRANSFER_SYNTAX = 0x00020010
_PIXEL_DATA = 0x7FE00010
_ANY_PIXEL_DATA = {0x7FE00008, 0x7FE00009, _PIXEL_DATA}
_UNKNOWN = -1
_FIRST_ELEMENT_BYTES = 8
# Radiographs have a few hundred; each costs a microsecond or two, and 64 MB of empty ones would cost a minute.
_MOST_ELEMENTS = 100_000
# One byte pads to an even length; some writers pad to more.
_PADDING_BYTES = 16
_EXECUTABLES = (b"MZ", b"\x7fELF", b"#!")


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the value of Pixel Data starts in `DicomFile.body`; `length` is None for encapsulated frames."""

    offset: int
    length: int | None
    vr: str


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A DICOM file taken apart: `body` is the whole file, or what a deflated one holds after its file meta information.

    `is_cut` says that an element claims more bytes than there are; `pixel_data` is None where none was met.
    `deflated_badly` is why the pixels of a deflated data set must not be trusted; None where nothing is wrong.
    """

    elements: Elements
    transfer_syntax: UID
    flags: tuple[Flag, ...]
    body: bytes
    pixel_data: PixelElement | None
    is_cut: bool
    deflated_badly: Reason | None = None


def parse_dicom(content: bytes, max_bytes: int) -> DicomFile:
    """Take a DICOM file apart, with or without preamble and file meta information (PS3.10 7.1).

    Args:
        content: the file, or its first bytes: then `is_cut` or a missing `pixel_data` asks for the rest.
        max_bytes: how much a deflated data set may inflate to.

    Raises:
        ImageRejected: nothing that makes sense is in there (unreadable_header).
    """
    start = PREAMBLE_BYTES + 4 if has_preamble(content) else 0
    flags = [Flag.EXECUTABLE_PREAMBLE] if start and content.startswith(_EXECUTABLES) else []
    declared, start = _read_transfer_syntax(content, start)
    # Not cut off before `start`: a copy of a large image costs as much as reading it from the page cache.
    body, wrong = content, None
    is_deflated = declared is not None and _is_deflated(declared)
    if is_deflated:
        (body, wrong), start = _inflate(content[start:], max_bytes), 0
    first = body[start : start + _FIRST_ELEMENT_BYTES]
    syntax = declared or _guess_transfer_syntax(first)
    if not declared:
        flags.append(Flag.NO_TRANSFER_SYNTAX)
    little_endian = syntax != ExplicitVRBigEndian
    raw, pixel_data, is_cut = _read_elements(body, start, _is_implicit(first), little_endian)
    if is_deflated and pixel_data is not None and not _ends_well(body, pixel_data):
        wrong = wrong or Reason.UNREADABLE_PIXELS
    return DicomFile(Elements(raw, little_endian), syntax, tuple(flags), body, pixel_data, is_cut, wrong)


def _read_transfer_syntax(content: bytes, start: int) -> tuple[UID | None, int]:
    """Read the file meta information at `start` (always Explicit VR Little Endian); return also where it ends."""
    if content[start : start + 2] != b"\x02\x00":
        return None, start
    stream = BytesIO(content)
    stream.seek(start)
    meta = data_element_generator(
        stream, _is_implicit(content[start : start + 8]), True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2
    )
    values = {int(element.tag): element.value for element in meta}
    value = values.get(_TRANSFER_SYNTAX)
    uid = value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else ""
    return (UID(uid) if uid else None), stream.tell()


def _read_elements(
    body: bytes, start: int, is_implicit: bool, little_endian: bool
) -> tuple[dict[int, RawDataElement | DataElement], PixelElement | None, bool]:
    stream = BytesIO(body)
    stream.seek(start)
    found: list[PixelElement] = []
    reached_pixels = False
    end, count = start, 0

    def at_pixel_data(tag: int, vr: str | None, length: int) -> bool:
        nonlocal reached_pixels, end, count
        count += 1
        if count > _MOST_ELEMENTS:
            raise ImageRejected(Reason.UNREADABLE_HEADER, f"the header has more than {_MOST_ELEMENTS} elements")
        if tag == 0:
            # No data set has such an element: these are zeros, in the place of what a copy under way has yet to write.
            end = _UNKNOWN
            return True
        reached_pixels = tag in _ANY_PIXEL_DATA
        end = stream.tell() + length if length != UNDEFINED_LENGTH else _UNKNOWN
        if tag == _PIXEL_DATA:
            found.append(PixelElement(stream.tell(), None if length == UNDEFINED_LENGTH else length, vr or "OW"))
        return reached_pixels

    elements = data_element_generator(
        stream, is_implicit, little_endian, stop_when=at_pixel_data, specific_tags=list(WANTED_TAGS)
    )
    raw = {int(element.tag): element for element in elements}
    is_cut = not reached_pixels and end not in (len(body), _UNKNOWN)
    return raw, found[0] if found else None, is_cut or any(_is_short(element) for element in raw.values())


def _is_short(element: RawDataElement | DataElement) -> bool:
    if not isinstance(element, RawDataElement) or element.length == UNDEFINED_LENGTH:
        return False
    return len(element.value or b"") < element.length


def _is_implicit(first: bytes) -> bool:
    """Tell whether the VR is missing from an element that begins like this, whatever the transfer syntax says.

    Two capital letters there would be an implicit length of more than 16 kB, which no first element has.
    """
    return not (first[4:6].isalpha() and first[4:6].isupper())


def _guess_transfer_syntax(first: bytes) -> UID:
    """Return the transfer syntax that the first element of a data set without file meta information is in."""
    if _is_implicit(first):
        return ImplicitVRLittleEndian
    (group,) = unpack_from("<H", first)
    return ExplicitVRBigEndian if group >= 0x0100 else ExplicitVRLittleEndian


def _is_deflated(syntax: UID) -> bool:
    return syntax.is_transfer_syntax and syntax.is_deflated


def _inflate(deflated: bytes, max_bytes: int) -> tuple[bytes, Reason | None]:
    """Inflate a data set (PS3.5 A.5), but never to more than `max_bytes`: a bomb is refused half-way.

    No checksum stands at its end: of damage can only be told whether it ends where the file does.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(deflated, max_bytes)
    if inflater.unconsumed_tail:
        raise ImageRejected(Reason.TOO_LARGE, f"the deflated data set holds more than {max_bytes} bytes")
    is_whole = inflater.eof and len(inflater.unused_data) <= _PADDING_BYTES
    return inflated, None if is_whole else Reason.TRUNCATED_PIXELS


def _ends_well(body: bytes, pixel_data: PixelElement) -> bool:
    """Tell whether a deflated data set ends with its pixels or goes on with another element.

    Damaged data inflate to more or fewer bytes than were deflated.
    """
    end = pixel_data.offset + (pixel_data.length or 0)
    if pixel_data.length is None or end >= len(body):
        return True
    group, _ = unpack_from("<HH", body.ljust(end + 4), end)
    vr = body[end + 4 : end + 6]
    return group >= _PIXEL_DATA >> 16 and vr.isalpha() and vr.isupper()
