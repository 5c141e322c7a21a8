"""The language of pages: texts from message catalogues (GNU gettext), numbers and dates as CLDR has them (Babel).

Pages are written in English; what they say in English is the key under which catalogues have it. Whoever writes a page
does so inside `with speaking(locale):`, or in a function under `@speaking()` where the command chose the language
(`choose`); whatever words something meanwhile asks here: `gettext`, `ngettext`, `number`, `whole`, `day`. Outside of
it, and so in tables, logs, DICOM objects and on terminals, everything is English.

A text that is not said where it is written, such as one in a table of sentences, is marked with `msgid` there, and
looked up with `gettext` where it is said. In templates these are `_("...")` and `{% trans %}`; a percent sign in
`_("...")` is written twice. Babel is loaded for other languages than English only.
"""

from __future__ import annotations

import gettext as catalogues
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING

from cxrbatch import locales
from cxrbatch.locales import ENGLISH

if TYPE_CHECKING:
    from babel import Locale

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Language:
    """One language: its name, its catalogues, and the signs that its numbers are written with."""

    locale: str = ENGLISH
    texts: catalogues.NullTranslations = catalogues.NullTranslations()  # noqa: RUF009  # it holds nothing
    decimal: str = "."
    group: str = ","

    @property
    def tag(self) -> str:
        """Its name as pages declare it (RFC 5646): de, pt-BR."""
        return self.locale.replace("_", "-")


_ENGLISH = Language()
_SPOKEN: ContextVar[Language] = ContextVar("spoken", default=_ENGLISH)
_CHOSEN = [ENGLISH]


def choose(locale: str) -> None:
    """Let the pages of this process be in a language where nothing else names one."""
    _CHOSEN[0] = language(locale).locale


@contextmanager
def speaking(locale: str | None = None) -> Iterator[None]:
    """Let this thread word everything in a language, one of `cxrbatch.locales.locales`; None is the one chosen."""
    before = _SPOKEN.set(language(_CHOSEN[0] if locale is None else locale or ENGLISH))
    try:
        yield
    finally:
        _SPOKEN.reset(before)


def spoken() -> Language:
    """Return the language in which this thread words things now."""
    return _SPOKEN.get()


@cache
def language(locale: str) -> Language:
    """Read a language: all catalogues of its folder, one behind the other.

    Raises:
        LookupError: there is none of that name.
    """
    if locale == ENGLISH:
        return _ENGLISH
    if locale not in locales.locales():
        raise LookupError(f"{locale}: no language of pages; there are {', '.join(locales.locales())}")
    texts: catalogues.NullTranslations | None = None
    for path in sorted((locales.CATALOGUES / locale).glob("*.mo")):
        with path.open("rb") as file:
            read = catalogues.GNUTranslations(file)
        if texts is None:
            texts = read
        else:
            texts.add_fallback(read)
    symbols = _cldr(locale).number_symbols["latn"]
    return Language(locale, texts or catalogues.NullTranslations(), symbols["decimal"], symbols["group"])


# --------------------------------------------------------------------------- texts


def msgid(text: str) -> str:
    """Return the text as it is: marked for the catalogues, and looked up where it is said."""
    return text


def nmsgid(singular: str, plural: str) -> tuple[str, str]:
    """Return both texts as they are: marked for the catalogues, for `ngettext` where one is said."""
    return singular, plural


def gettext(text: str) -> str:
    """Return a text in the language spoken; what no catalogue has stays as it is."""
    said = _SPOKEN.get()
    # A catalogue's head has the empty text as its key.
    return text if said is _ENGLISH or not text else said.texts.gettext(text)


def ngettext(singular: str, plural: str, count: int) -> str:
    """Return a text that goes with this many of something."""
    said = _SPOKEN.get()
    return (singular if count == 1 else plural) if said is _ENGLISH else said.texts.ngettext(singular, plural, count)


def pgettext(context: str, text: str) -> str:
    """Return a text that means something else in another context, such as one word on a button."""
    said = _SPOKEN.get()
    return text if said is _ENGLISH else said.texts.pgettext(context, text)


def npgettext(context: str, singular: str, plural: str, count: int) -> str:
    """Return a text that goes with this many of something, in a context."""
    said = _SPOKEN.get()
    if said is _ENGLISH:
        return singular if count == 1 else plural
    return said.texts.npgettext(context, singular, plural, count)


# --------------------------------------------------------------------------- numbers and dates


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """Return a number with so many decimals, grouped by thousands; `signed` shows a plus, too."""
    return localised(f"{value:{'+' if signed else ''},.{decimals}f}").replace("-", _MINUS)


def whole(count: int, *, signed: bool = False) -> str:
    """Return a whole number, grouped by thousands."""
    return number(count, 0, signed=signed)


def localised(figure: str) -> str:
    """Return a figure that was formatted in English, such as 1,234.5, with the signs of the language spoken."""
    said = _SPOKEN.get()
    return figure if said is _ENGLISH else figure.translate(_signs(said))


def day(value: date) -> str:
    """Return a date: 2026-11-22 in English, 22.11.2026 in German."""
    said = _SPOKEN.get()
    return value.isoformat() if said is _ENGLISH else _formatted_day(said.locale, value)


def day_text(text: str) -> str:
    """Return a date that stands as 2026-11-22 as the language has it; whatever is no date as it is."""
    try:
        return text if _SPOKEN.get() is _ENGLISH else day(date.fromisoformat(text))
    except ValueError:
        return text


def minute(value: datetime) -> str:
    """Return a time to the minute, with its zone where it has one: 2026-11-22 03:04 UTC."""
    said = _SPOKEN.get()
    clock = f"{value:%H:%M}"
    if said is not _ENGLISH:
        from babel.dates import format_time

        # The zone stays as it is: nobody's clock is to be guessed.
        clock = format_time(value.replace(tzinfo=None), "short", locale=said.locale)
    return " ".join(filter(None, (day(value.date()), clock, value.tzname())))


@cache
def _signs(said: Language) -> dict[int, str]:
    return {ord("."): said.decimal, ord(","): said.group}


@cache
def _formatted_day(locale: str, value: date) -> str:
    from babel.dates import format_date

    return format_date(value, "medium", locale=locale)


@cache
def _cldr(locale: str) -> Locale:
    from babel import Locale

    return Locale.parse(locale)
