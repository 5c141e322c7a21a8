"""Texts of strangers in Markdown: shown letter by letter, whatever Markdown, or HTML in it, would make of them."""

from __future__ import annotations

import re

# What Markdown, or HTML in it, makes something of: between words an underscore is one, and so is a lone sign at the
# beginning of a line, which no text of a stranger stands at.
_MARKUP = re.compile(r"[\\`*\[\]|~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK_OR_HTML = re.compile(r"[<>&@]|(?<=[A-Za-z])://|(?<=www)\.", re.IGNORECASE)
# They shape Persian and Indic words.
_JOINERS = "\u200c\u200d"


def table_row(cells: list[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(cells) + " |"


def plain(text: str) -> str:
    """Return text that Markdown shows letter by letter: no markup, no link, no line of its own."""
    line = _on_one_line(text)
    # Entities last: the signs that they are made of are markup themselves.
    return _LINK_OR_HTML.sub(_as_entities, _MARKUP.sub(lambda found: f"\\{found[0]}", line))


def code(text: str) -> str:
    """Return text as code, between more backticks than it has in a row itself."""
    line = _on_one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def _on_one_line(text: str) -> str:
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() or sign in _JOINERS else f"(U+{ord(sign):04X})" for sign in line)


def _as_entities(found: re.Match[str]) -> str:
    return "".join(f"&#{ord(sign)};" for sign in found[0])
