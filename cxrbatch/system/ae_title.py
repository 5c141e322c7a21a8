"""What an application entity may be called (PS3.5 6.2, AE)."""

from __future__ import annotations

_LONGEST = 16


def is_ae_title(text: str) -> bool:
    """Tell whether this is an AE title: 1 to 16 characters of ASCII, no control and no backslash, not spaces alone."""
    is_plain = text.isascii() and text.isprintable() and "\\" not in text
    return is_plain and 0 < len(text.strip()) <= _LONGEST
