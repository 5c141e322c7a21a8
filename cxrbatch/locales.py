"""Which languages pages can be in: English, in which they are written, and each that has a folder of catalogues."""

from __future__ import annotations

import reprlib
from functools import cache
from pathlib import Path

from cxrbatch.errors import ConfigurationError

CATALOGUES = Path(__file__).resolve().parent / "catalogues"
"""A folder per language, named as CLDR names it (`de`, `pt_BR`); `cxrbatch.pages.language` reads what lies in there."""

ENGLISH = "en"


@cache
def locales() -> tuple[str, ...]:
    """Return the languages that a setting or an option may name, English first."""
    return (ENGLISH, *sorted(path.name for path in CATALOGUES.iterdir() if any(path.glob("*.mo"))))


def known_locale(name: str) -> str:
    """Return a language that was noted somewhere; English where this version has it no more, or nothing was."""
    return name if name in locales() else ENGLISH


def check_locale(name: str) -> None:
    """Refuse a language that there is none of.

    Raises:
        ConfigurationError: it names those that there are.
    """
    if name not in locales():
        raise ConfigurationError(f"locale = {reprlib.repr(name)}: is none of {', '.join(locales())}")
