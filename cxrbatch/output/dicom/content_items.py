"""Content items of a structured report, by value type (PS3.3 C.17.3), as the bytes that a file holds of them.

A report of 14 labels has 200 of them, and more codes than that. Made and written as data sets they cost many times what
they do as bytes (PS3.5 7.1.2 and 7.5: Explicit VR Little Endian, lengths defined). The tests have pydicom read a report
and write it again: not a byte may change.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from cxrbatch.output.dicom.codes import Code
from cxrbatch.records import Header

CONTAINS, MODIFIES = "CONTAINS", "HAS CONCEPT MOD"
OBSERVED, ACQUIRED = "HAS OBS CONTEXT", "HAS ACQ CONTEXT"
TEMPLATE_RESOURCE, TEMPLATE_RESOURCE_UID = "DCMR", "1.2.840.10008.8.1.1"

_ITEM = b"\xfe\xff\x00\xe0"
# Their lengths take four bytes; all others two.
_LONG = {b"SQ", b"UT"}
_CONTENT_SEQUENCE = (0x0040, 0xA730)


def content_sequence(items: Iterable[bytes]) -> bytes:
    """Return the Content Sequence of these items: the last element of a structured report."""
    return _sequence(_CONTENT_SEQUENCE, items)


def text_item(relationship: str, name: Code, text: str) -> bytes:
    """Return a TEXT; `text` is not empty."""
    return _content_item(relationship, "TEXT", name, _text((0x0040, 0xA160), b"UT", text))


def code_item(relationship: str, name: Code, value: Code) -> bytes:
    """Return a CODE."""
    return _content_item(relationship, "CODE", name, _sequence((0x0040, 0xA168), [_code(value)]))


def uid_item(relationship: str, name: Code, uid: str) -> bytes:
    """Return a UIDREF."""
    return _content_item(relationship, "UIDREF", name, _uid((0x0040, 0xA124), uid))


def number_item(relationship: str, name: Code, value: float, unit: Code) -> bytes:
    """Return a NUM with six significant digits, which a decimal string holds."""
    units = _sequence((0x0040, 0x08EA), [_code(unit)])
    measured = _item(units + _text((0x0040, 0xA30A), b"DS", f"{value:.6g}"))
    return _content_item(relationship, "NUM", name, _sequence((0x0040, 0xA300), [measured]))


def image_item(relationship: str, name: Code, header: Header, children: Iterable[bytes] = ()) -> bytes:
    """Return an IMAGE, with what is said of it."""
    uids = _uid((0x0008, 0x1150), header.sop_class_uid) + _uid((0x0008, 0x1155), header.sop_instance_uid)
    said = b"".join(children)
    rest = _sequence(_CONTENT_SEQUENCE, [said]) if said else b""
    return _content_item(relationship, "IMAGE", name, rest, before=_sequence((0x0008, 0x1199), [_item(uids)]))


def container(name: Code, children: Iterable[bytes], template: str = "") -> bytes:
    """Return a CONTAINER of items that are read one by one; `template` is its number in PS3.16."""
    which = _text((0x0008, 0x0105), b"CS", TEMPLATE_RESOURCE) + _uid((0x0008, 0x0118), TEMPLATE_RESOURCE_UID)
    which += _text((0x0040, 0xDB00), b"CS", template)
    rest = _text((0x0040, 0xA050), b"CS", "SEPARATE")
    rest += _sequence((0x0040, 0xA504), [_item(which)]) if template else b""
    return _content_item(CONTAINS, "CONTAINER", name, rest + content_sequence(children))


def _content_item(relationship: str, value_type: str, name: Code, value: bytes, *, before: bytes = b"") -> bytes:
    return _item(before + _head(relationship, value_type, name) + value)


@lru_cache(maxsize=1024)
def _head(relationship: str, value_type: str, name: Code) -> bytes:
    head = _text((0x0040, 0xA010), b"CS", relationship) + _text((0x0040, 0xA040), b"CS", value_type)
    return head + _sequence((0x0040, 0xA043), [_code(name)])


@lru_cache(maxsize=1024)
def _code(code: Code) -> bytes:
    value, scheme = _text((0x0008, 0x0100), b"SH", code.value), _text((0x0008, 0x0102), b"SH", code.scheme)
    return _item(value + scheme + _text((0x0008, 0x0104), b"LO", code.meaning))


def _item(content: bytes) -> bytes:
    return _ITEM + struct.pack("<L", len(content)) + content


def _sequence(tag: tuple[int, int], items: Iterable[bytes]) -> bytes:
    return _element(tag, b"SQ", b"".join(items))


def _text(tag: tuple[int, int], representation: bytes, text: str) -> bytes:
    value = text.encode("utf-8", "replace")
    return _element(tag, representation, value + b" " * (len(value) % 2))


def _uid(tag: tuple[int, int], uid: str) -> bytes:
    value = uid.encode("ascii")
    return _element(tag, b"UI", value + b"\0" * (len(value) % 2))


def _element(tag: tuple[int, int], representation: bytes, value: bytes) -> bytes:
    length = "<HH2s2xL" if representation in _LONG else "<HH2sH"
    return struct.pack(length, *tag, representation, len(value)) + value
