"""What a header says of patient and study, as people write it: names, dates, sexes and ages (PS3.5 section 6.2)."""

from __future__ import annotations

import re
from datetime import date

from cxrbatch.pages.language import day as spoken_day, gettext as _, msgid, ngettext, nmsgid
from cxrbatch.pages.wording import LONGEST_TEXT, plain

LONGEST_GROUP = 80
"""Characters of one group of a person name that are shown; PS3.5 allows 64 (section 6.2, VR PN)."""

_SEXES = {"M": msgid("male"), "F": msgid("female"), "O": msgid("other")}
_AGES = {
    "D": nmsgid("{count} day", "{count} days"),
    "W": nmsgid("{count} week", "{count} weeks"),
    "M": nmsgid("{count} month", "{count} months"),
    "Y": nmsgid("{count} year", "{count} years"),
}
_DIGITS = re.compile(r"\d{8}", re.ASCII)


def person_name(value: str) -> str:
    """Return a DICOM person name as people write it: "Family, Given Middle" (PS3.5 section 6.2.1, VR PN).

    The ideographic and the phonetic group follow in parentheses, unless they repeat what stands there already. Where
    there is no alphabetic group, the first of them speaks for it.
    """
    groups = [*value[: 4 * LONGEST_TEXT].split("="), "", "", ""][:3]
    alphabetic, *others = (plain(group, longest=LONGEST_GROUP) for group in groups)
    names = [_alphabetic_name(alphabetic), *(_joined_name(other) for other in others)]
    first, *more = [*dict.fromkeys(filter(None, names))] or [""]
    return f"{first} ({', '.join(more)})" if more else first


def _joined_name(group: str) -> str:
    return " ".join(part for part in map(str.strip, group.split("^")) if part)


def _alphabetic_name(group: str) -> str:
    family, given, middle, prefix, suffix = [*(part.strip() for part in group.split("^")), *([""] * 5)][:5]
    first_names = " ".join(filter(None, (prefix, given, middle)))
    return ", ".join(filter(None, (family, first_names, suffix)))


def day(value: str) -> str:
    """Return a DICOM date as people read it, 2026-11-22; whatever is no date as it is (PS3.5 section 6.2, VR DA)."""
    when = _date(value)
    return plain(value) if when is None else spoken_day(when)


def iso_day(value: str) -> str:
    """Return a DICOM date YYYYMMDD as YYYY-MM-DD in every language; whatever is no date as it is."""
    when = _date(value)
    return plain(value) if when is None else when.isoformat()


def _date(value: str) -> date | None:
    shown = plain(value)
    try:
        return date(int(shown[:4]), int(shown[4:6]), int(shown[6:])) if _DIGITS.fullmatch(shown) else None
    except ValueError:
        return None


def sex(value: str) -> str:
    """Return a DICOM sex code in words."""
    known = _SEXES.get(value.strip().upper())
    return _(known) if known else plain(value)


def age(value: str) -> str:
    """Return a DICOM age such as 058Y in words; whatever is no age as it is (PS3.5 section 6.2, VR AS)."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", value.strip().upper(), re.ASCII)
    if not match:
        return plain(value)
    count = int(match[1])
    return ngettext(*_AGES[match[2]], count).format(count=count)
