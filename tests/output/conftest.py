"""How tests of this room look at pages: as a browser would, after parsing."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest


@dataclass
class Page:
    """What a parsed HTML page holds: its elements with attributes, and its text without styles and scripts."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""

    def attributes(self, tag: str, name: str) -> list[str]:
        """Return this attribute of every such element that has it."""
        return [attributes[name] for element, attributes in self.elements if element == tag and name in attributes]

    def with_class(self, name: str) -> list[dict[str, str]]:
        """Return the attributes of every element of this class."""
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._inside = ""
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag
        # What opens later by script: nobody reads it of the page as it is.
        if tag == "dialog" or (tag in {"p", "span"} and ("hidden", None) in attrs) or tag in self._unseen:
            self._unseen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag in self._unseen:
            self._unseen.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._inside not in {"style", "script"} and not self._unseen:
            self.page.text = " ".join(f"{self.page.text} {data}".split())


@pytest.fixture
def read_pdf() -> Callable[[bytes], bytes]:
    """Return a PDF's own bytes, then those of its compressed streams, where the objects are."""

    def read(pdf: bytes) -> bytes:
        inflated = []
        for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
            with contextlib.suppress(zlib.error):
                # Tolerant of an end that the pattern took for the end of a line.
                inflated.append(zlib.decompressobj().decompress(stream))
        return b"\n".join([pdf, *inflated])

    return read


@pytest.fixture
def read_page() -> Callable[[str], Page]:
    """Parse HTML into a Page."""

    def read(html: str) -> Page:
        reader = _Reader()
        reader.feed(html)
        reader.close()
        return reader.page

    return read
