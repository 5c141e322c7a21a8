"""Sentences that files keep in English, retold in the language that is spoken.

What a training, an evaluation or a checkpoint says of itself is kept in its files as English sentences; pages are made
of these files, also of those of earlier versions. Whoever words such a sentence does so with `kept` or `nkept`, which
marks it for the catalogue `kept.po` and leaves it English; a page shows `retold(sentence)`, which finds the entry that
the sentence was filled from, and fills its translation in the same way. A sentence of which no entry is known, such as
one that a person wrote, is shown as it is.

What stands in a gap is a figure, of which the signs are changed, or a sentence or phrase again. By the beginning of its
name a gap holds a figure and nothing else (`count`, `number`), a text that is shown as it stands (`name`, `names`,
`file`), parts between commas that are retold one by one (`list`), or a sentence without which this is none of ours
(`sentence`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cxrbatch import locales
from cxrbatch.locales import ENGLISH
from cxrbatch.pages.language import localised, spoken

CATALOGUE = "kept.mo"
_LONGEST = 2000
_GAP = re.compile(r"\{(\w+)\}")
_FIGURES = r"[-+]?\d[\d,]*(?:\.\d+)?(?: ?%)?"
_FIGURE = re.compile(_FIGURES, re.ASCII)
_ITEMS = re.compile(r"(?<=\)), |; ")
_SENTENCES = re.compile(r"(?<=\.) (?=[A-Z])")


def kept(text: str) -> str:
    """Return the sentence as it is: marked for the catalogue of what files keep."""
    return text


def nkept(singular: str, plural: str, count: int) -> str:
    """Return the English sentence that goes with this many, `count` being among its gaps; both are marked."""
    return singular if count == 1 else plural


COUNTED = (
    nkept("{count} image", "{count} images", 0),
    nkept("{count} patient", "{count} patients", 0),
    nkept("{count} core", "{count} cores", 0),
)
"""What `cxrbatch.pages.wording.counted` says in gaps of these sentences."""


def retold(text: str) -> str:
    """Return an English sentence that a file keeps in the language that is spoken, as far as it is known."""
    if spoken().locale == ENGLISH or not text or len(text) > _LONGEST:
        return text
    return _told(text)[0]


def _told(text: str) -> tuple[str, bool]:
    """Retell a sentence, or several, and tell whether all of it is known."""
    said, all_known = _retold_in_turn(_SENTENCES.split(text))
    whole = None if all_known else _retold(text)
    return (said, all_known) if whole is None else (whole, True)


def _retold_in_turn(parts: list[str]) -> tuple[str, bool]:
    """Retell sentences one after the other, and tell whether each is known; a name in one may look like its end."""
    told: list[str] = []
    all_known, start = True, 0
    while start < len(parts):
        ends = range(start + 1, len(parts) + 1)
        found = ((end, said) for end in ends if (said := _retold(" ".join(parts[start:end]))) is not None)
        end, said = next(found, (start + 1, ""))
        all_known &= bool(said)
        told.append(said or parts[start])
        start = end
    return " ".join(told), all_known


@dataclass(frozen=True, slots=True)
class _Entry:
    """One English text with gaps, as what fits it, and the texts under which its translation is found."""

    fitting: re.Pattern[str]
    singular: str
    plural: str
    words: str

    def said(self, gaps: dict[str, str]) -> str:
        """Return the translation for what stands in the gaps."""
        texts = spoken().texts
        if not self.plural:
            return texts.gettext(self.singular)
        count = gaps.get("count", "1").replace(",", "")
        return texts.ngettext(self.singular, self.plural, int(count) if count.isdecimal() else 2)


def _retold(text: str) -> str | None:
    for entry in _entries(spoken().locale):
        found = entry.fitting.fullmatch(text)
        gaps = found.groupdict() if found else {}
        if found and all(_told(value)[1] for name, value in gaps.items() if name.startswith("sentence")):
            return entry.said(gaps).format(**{name: _filled(name, value) for name, value in gaps.items()})
    return None


def _filled(name: str, value: str) -> str:
    if name.startswith(("name", "file")):
        return value
    if _FIGURE.fullmatch(value):
        # A share as Python writes it, 57%, has a space elsewhere.
        return re.sub(r"(?<=\d)%", "\N{NO-BREAK SPACE}%", localised(value))
    parts = _ITEMS.split(value) if name.startswith("list") else [value]
    if len(parts) > 1:
        return ("; " if "; " in value else ", ").join(map(retold, parts))
    said, known = _told(value)
    if not known and (phrase := _retold(value[:1].lower() + value[1:])) is not None:
        return phrase[:1].upper() + phrase[1:]
    return said


@cache
def _entries(locale: str) -> tuple[_Entry, ...]:
    """Return what files may keep, what says most first: a sentence is of the entry that has most of its words."""
    from babel.messages.mofile import read_mo

    path = locales.CATALOGUES / locale / CATALOGUE
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        messages = [message.id for message in read_mo(file) if message.id]
    found: list[_Entry] = []
    for texts in messages:
        singular, *plural = texts if isinstance(texts, tuple | list) else (texts,)
        found += [_Entry(_fitting(text), singular, "".join(plural), _GAP.sub("", text)) for text in (singular, *plural)]
    return tuple(sorted(found, key=lambda entry: -len(entry.words)))


def _fitting(text: str) -> re.Pattern[str]:
    """Return what a filled text looks like; a gap that is named twice holds the same twice."""
    named: set[str] = set()
    parts: list[str] = []
    for place, part in enumerate(_GAP.split(text)):
        if place % 2 == 0:
            parts.append(re.escape(part))
        else:
            inside = _FIGURES if part.startswith(("count", "number")) else ".+?"
            parts.append(f"(?P={part})" if part in named else f"(?P<{part}>{inside})")
            named.add(part)
    return re.compile("".join(parts), re.DOTALL | re.ASCII)
