"""Texts of strangers on a terminal: letters that can be read, never markup, cursor movements or hidden order.

File names, DICOM headers, and the names in an engine that somebody else built may hold anything. `literal` makes a text
of them that every console shows as it is. `PlainConsole` stands behind it: whatever reaches it, no control or bidi
character goes on to the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cxrbatch.pages.wording import visible

TITLE = "table.title"
"""The style of a table's title, which a title given as text lacks."""


def literal(text: str, style: str = "") -> Text:
    """Return text that is shown letter by letter, on one line."""
    return Text(visible(text), style)


def visible_lines(text: str) -> str:
    """Return text of several lines with everything but its line breaks made visible."""
    return "\n".join(map(visible, text.split("\n")))


class PlainConsole(Console):
    """Writes no control or bidi character but its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; what is text and not rich's own control code is made visible."""
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
            else:
                yield Segment(visible_lines(segment.text), segment.style)
