"""A language in which every text of the catalogues stands in brackets: what stands outside, no catalogue has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from cxrbatch import locales
from cxrbatch.pages import language
from scripts.catalogues import extract_texts

PSEUDO = "fi"
"""Babel must know its name; its numbers and dates are Finnish, which have no letters."""

OPEN, CLOSE = "⟦", "⟧"
VISIBLE = ("alt", "title", "aria-label", "placeholder", "label", "data-words", "data-name")
"""Attributes that a reader sees or hears, or that a style sheet or script shows."""


def write_pseudo_catalogue(folder: Path) -> None:
    """Write the language into a folder of catalogues."""
    (folder / PSEUDO).mkdir(parents=True)
    for part, texts in extract_texts().items():
        catalogue = Catalog(locale=PSEUDO)
        for text in texts:
            if text.id:
                forms = text.id if isinstance(text.id, tuple | list) else (text.id,)
                wrapped = tuple(f"{OPEN}{form}{CLOSE}" for form in forms)
                catalogue.add(text.id, wrapped if len(wrapped) > 1 else wrapped[0], context=text.context)
        with (folder / PSEUDO / f"{part}.mo").open("wb") as file:
            write_mo(file, catalogue)


@contextmanager
def with_pseudo_language(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this be the only language beside English."""
    with monkeypatch.context() as patched:
        patched.setattr(locales, "CATALOGUES", folder)
        for each in (locales.locales, language.language):
            each.cache_clear()
        with language.speaking(PSEUDO):
            yield
    for each in (locales.locales, language.language):
        each.cache_clear()


class Seen(HTMLParser):
    """Collects what of a page, or of a template without its translated texts, a reader would see or hear."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.within: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"style", "script"}:
            self.within.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen += [value for name, value in attrs if name in VISIBLE and value]

    def handle_endtag(self, tag: str) -> None:
        if self.within and tag == self.within[-1]:
            self.within.pop()

    def handle_data(self, data: str) -> None:
        if not self.within:
            self.seen.append(data)


def outside(page: str, known: set[str]) -> set[str]:
    """Return the words of a page that stand outside of all brackets, but those of `known` texts, which are data."""
    parser = Seen()
    parser.feed(page)
    text = left_over(" ¶ ".join(parser.seen))
    for datum in sorted(known, key=len, reverse=True):
        text = text.replace(datum, " ")
    return set(re.findall(r"[^\W\d_]{2,}", text))


def left_over(text: str) -> str:
    """Return a text without what stands in brackets, of which some stand in others."""
    depth, left = 0, []
    for character in text:
        depth += character == OPEN
        if not depth:
            left.append(character)
        depth -= character == CLOSE
    assert depth == 0
    return "".join(left)
