"""Damage to the structure of a file, for `make fuzz`: a chunk, a segment or an element is changed, and the rest fits.

Bytes that are changed blindly mostly break a checksum or a length, and the file is refused at once. Here sums and
lengths are right again afterwards, so that what is behind them is reached.
"""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_NAMES = (
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL"),
    *(b"fcTL", b"fdAT", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"tIME", b"foOo", b"FOOO", b"\0\0\0\0", b"a b!"),
)
MARKERS = (
    *(0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC8, 0xC9, 0xCC, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xE1, 0xE2),
    *(0xEE, 0xF7, 0xFE, 0x01, 0x3C),
)
VALUES = (
    *(b"0", b"-1", b"1e308", b"-1e308", b"1e-308", b"nan", b"inf", b"127,5", b"9" * 25, b"1\\2", b"", b" ", b"abc"),
    *(b"\xff\xff", b"\0\0", b"\1\0", b"\xff\x7f", b"\0\x80", b"\0" * 8, b"\xff" * 8, b"\x1b$B", b"ISO_IR 192"),
)
VRS = (b"US", b"SS", b"DS", b"IS", b"LO", b"FD", b"UL", b"PN", b"CS", b"UI", b"SQ", b"OB", b"OW", b"UN", b"AT", b"ZZ")
LONG_VRS = {b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OD", b"OL"}
_ELEMENT = re.compile(rb"[\x02\x08\x10\x18\x20\x28]\x00..([A-Z]{2})", re.DOTALL)


def damage_structure(dice: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """Change one part of whatever the file is; what has no parts is returned as it is."""
    content = bytes(data)
    if content.startswith(PNG_SIGNATURE):
        return bytearray(_damage_png(dice, content))
    if content.startswith(b"\xff\xd8\xff"):
        return bytearray(_damage_jpeg(dice, content))
    return bytearray(_damage_dicom(dice, content))


def _change(dice: random.Random, value: bytes) -> bytes:
    """Return other data for a part: with a byte replaced, cut, doubled, emptied, or extreme."""
    at = dice.randrange(len(value)) if value else 0
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: value[:at] + bytes([dice.choice((0, 1, 2, 16, 127, 128, 255))]) + value[at + 1 :],
        lambda: value[:at] + dice.randbytes(2) + value[at + 2 :],
        lambda: value[:at],
        lambda: value + value[:64],
        lambda: b"",
        lambda: b"\xff" * min(len(value), 64) + value[64:],
        lambda: bytes(min(len(value), 64)) + value[64:],
    )
    return dice.choice(changes)()


def _rearrange(dice: random.Random, parts: list[bytes], changed: bytes, foreign: bytes) -> bytes:
    """Put `changed` in the place of a part, twice, nowhere or elsewhere, or something foreign before a part."""
    at = dice.randrange(len(parts)) if parts else 0
    other = dice.randrange(len(parts)) if parts else 0
    action = dice.choice(("drop", "twice", "move", "insert", "insert"))
    if action == "drop":
        del parts[at : at + 1]
    elif action == "twice":
        parts[at:at] = parts[at : at + 1]
    elif action == "move":
        parts.insert(other, parts.pop(at) if parts else b"")
    else:
        parts.insert(at, dice.choice((changed, foreign)))
    return b"".join(parts)


def _chunk(name: bytes, value: bytes) -> bytes:
    return struct.pack(">L", len(value)) + name + value + struct.pack(">L", zlib.crc32(name + value))


def _damage_png(dice: random.Random, content: bytes) -> bytes:
    chunks, at = [], len(PNG_SIGNATURE)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">L", content, at)
        chunks.append(content[at : at + 12 + length])
        at += 12 + length
    if not chunks:
        return content
    number = dice.randrange(len(chunks))
    name, value = chunks[number][4:8], chunks[number][8:-4]
    changed = _chunk(dice.choice((name, name, dice.choice(CHUNK_NAMES))), _change(dice, value))
    if dice.random() < 0.6:
        chunks[number] = changed
        return PNG_SIGNATURE + b"".join(chunks)
    foreign = _chunk(dice.choice(CHUNK_NAMES), dice.choice((b"", dice.randbytes(9), zlib.compress(bytes(5000)))))
    return PNG_SIGNATURE + _rearrange(dice, chunks, changed, foreign)


def _segment(marker: int, value: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", min(0xFFFF, len(value) + 2)) + value[:0xFFFD]


def _damage_jpeg(dice: random.Random, content: bytes) -> bytes:
    segments, at = [], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", content, at + 2)
        segments.append(content[at : at + 2 + length])
        at += 2 + length
    rest = content[at:]
    if not segments:
        return content
    number = dice.randrange(len(segments))
    marker, value = segments[number][1], segments[number][4:]
    changed = _segment(dice.choice((marker, marker, dice.choice(MARKERS))), _change(dice, value))
    if dice.random() < 0.2:
        place = dice.randrange(len(rest)) if rest else 0
        return content[:at] + rest[:place] + _segment(dice.choice(MARKERS), dice.randbytes(8)) + rest[place:]
    if dice.random() < 0.6:
        segments[number] = changed
        return content[:2] + b"".join(segments) + rest
    return content[:2] + _rearrange(dice, segments, changed, _segment(dice.choice(MARKERS), dice.randbytes(20))) + rest


def _damage_dicom(dice: random.Random, content: bytes) -> bytes:
    """Change, double or drop an element in Explicit VR Little Endian; one within a sequence may be hit, too."""
    found = [match for match in _ELEMENT.finditer(content, 0, 20_000) if match[1] in VRS or match[1] in LONG_VRS]
    if not found:
        return content
    match = dice.choice(found)
    at, vr, is_long = match.start(), match[1], match[1] in LONG_VRS
    length_at = at + (8 if is_long else 6)
    if length_at + 4 > len(content):
        return content
    (length,) = struct.unpack_from("<L" if is_long else "<H", content, length_at)
    start = length_at + (4 if is_long else 2)
    if length > 1000:
        return content[:start] + _change(dice, content[start : start + 64]) + content[start + 64 :]
    element, after = content[at : start + length], content[start + length :]
    value = dice.choice((_change(dice, content[start : start + length]), dice.choice(VALUES)))
    new_vr = dice.choice((vr, vr, vr, dice.choice(VRS)))
    head = content[at : at + 4] + new_vr
    head += struct.pack("<2xL", len(value)) if new_vr in LONG_VRS else struct.pack("<H", len(value))
    changed = dice.choice((head + value, head + value, head + value, element * 2, b""))
    return content[:at] + changed + after
