r"""Cells of every CSV table: text that strangers wrote becomes inert, and can be had back letter by letter.

Spreadsheets take a cell for a formula by its first letter, and split a line where their country's separator is: at
`;` in most of Europe, at tabs, at `,`. So a formula may also stand behind a separator in the middle of a cell. Each
place at which one could begin gets an apostrophe; a place that has apostrophes already gets one more, so that `=1.png`
and `'=1.png` stay two names. Control, bidi and other invisible characters and bytes that are no text become \xNN,
\uNNNN or \UNNNNNNNN, and a backslash is doubled, so that a row is always one line.

Numbers are never touched, and neither is text in which nothing of that kind stands.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

from cxrbatch.pages.wording import UNSEEN

LIST_SEPARATOR = "|"
"""Between the items of a list in one cell, as in the tables of NIH ChestX-ray14."""

# What spreadsheets take for the start of a formula (OWASP, CSV Injection), and what looks the same: full-width, small
# and mathematical forms.
_FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212\ufb29"
# What a reader may drop before it looks at the first letter: spaces of all kinds, quotes, letters without a width.
_DROPPED = '\\s"\u200c\u200d\u115f\u1160\u2800\u3164\uffa0'
_PLACE = re.compile(f"(^|[,;])('*(?:[{_DROPPED}]*[{_FORMULA}]|[\t\r\n]))")
_SHIELDED_PLACE = re.compile(f"(^|[,;])'('*(?:[{_DROPPED}]*[{_FORMULA}]|[\t\r\n]))")

_ESCAPED = re.compile(f"[\\\\\ud800-\udfff{UNSEEN}]")
_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def harmless(text: str) -> str:
    """Return text that no spreadsheet takes for a formula and that stays on its line; `restored` undoes it."""
    # Keys, hashes, words and numbers, which are most of a table.
    if text.isascii() and text.replace(".", "").replace("_", "").isalnum():
        return text
    shielded = _PLACE.sub(r"\1'\2", text)
    if shielded.isascii() and shielded.isprintable() and "\\" not in shielded:
        return shielded
    return _ESCAPED.sub(_escaped, shielded)


def restored(cell: str) -> str:
    """Return the text of which `harmless` made this cell."""
    return _SHIELDED_PLACE.sub(r"\1\2", _ESCAPE.sub(_unescaped, cell))


def list_cell(items: Iterable[str]) -> str:
    r"""Return one text for several; a separator inside of one becomes \x7c there, and a backslash two."""
    escaped = (item.replace("\\", "\\\\").replace(LIST_SEPARATOR, r"\x7c") for item in items)
    return LIST_SEPARATOR.join(escaped)


def write_rows(stream: TextIO, rows: Iterable[Sequence[object]]) -> None:
    """Write rows of a table, every text in them harmless, every number as it is."""
    table = csv.writer(stream, lineterminator="\n")
    table.writerows([harmless(cell) if cell and isinstance(cell, str) else cell for cell in row] for row in rows)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == ord("\\"):
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:
        # A byte that is no text (PEP 383). The control characters of the same number are written as \u00NN.
        return f"\\x{code & 0xFF:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _unescaped(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if not digits:
        return "\\"
    code = int(digits, 16)
    if found[1] and code >= 0x80:
        return chr(0xDC00 + code)
    return chr(code) if code <= 0x10FFFF else found[0]
