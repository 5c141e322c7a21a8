"""What a file is, told by its first bytes: DICOM, PNG, JPEG, or something else with a name."""

from __future__ import annotations

from enum import Enum
from struct import unpack_from

from cxrbatch.errors import ImageRejected, Reason

PREAMBLE_BYTES = 128
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

# PS3.5 section 6.2. pydicom has them too, but whoever only walks a folder need not load it.
VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)

# Refused, but by name: whoever reads the row should know what to do with the file.
_OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"II*\x00": "a TIFF image; convert it to PNG",
    b"MM\x00*": "a TIFF image; convert it to PNG",
    b"BM": "a BMP image; convert it to PNG",
    b"GIF8": "a GIF image; convert it to PNG",
    b"%PDF": "a PDF document",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}


class Kind(Enum):
    """The formats intake reads."""

    DICOM = "DICOM"
    PNG = "PNG"
    JPEG = "JPEG"


def recognise(head: bytes) -> Kind:
    """Return the format of a file from its first 132 bytes or more, whatever the file is called.

    Raises:
        ImageRejected: it is none of them (not_an_image).
    """
    if has_preamble(head) or _starts_with_an_element(head):
        return Kind.DICOM
    if head.startswith(PNG_SIGNATURE):
        return Kind.PNG
    if head.startswith(JPEG_SIGNATURE):
        return Kind.JPEG
    raise ImageRejected(Reason.NOT_AN_IMAGE, f"the file is {_name_of(head)}, not DICOM, PNG or JPEG")


def has_preamble(head: bytes) -> bool:
    """Tell whether a DICOM preamble and prefix are there (PS3.10 7.1)."""
    return head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM"


def _starts_with_an_element(head: bytes) -> bool:
    """Tell whether a data set without preamble could start here: its first element is of group 0002 or 0008."""
    if len(head) <= PREAMBLE_BYTES:
        return False
    for order in "<>":
        group, element, length = unpack_from(f"{order}HHL", head)
        if group in (0x0002, 0x0008) and element <= 0x0020:
            explicit = head[4:6] in VALUE_REPRESENTATIONS
            implicit = order == "<" and length <= 0x400 and length % 2 == 0
            return explicit or implicit
    return False


def _name_of(head: bytes) -> str:
    if not head:
        return "empty"
    for signature, name in _OTHER_FORMATS.items():
        if head.startswith(signature):
            return name
    is_text = all(byte >= 0x20 or byte in b"\t\r\n\f" for byte in head[:256])
    return "text" if is_text else "of a format unknown here"
