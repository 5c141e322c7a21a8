"""How large the paper is that a report is printed on: A4, or US Letter, whose page is wider and less high.

Both have 182 mm between their side margins, so that one template and its widths in mm fit both; what differs is how
high pictures may be. Whoever lays out a page asks for the size that this thread prints on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from cxrbatch.config import PaperSize

SIZE_STYLES: dict[PaperSize, tuple[str, ...]] = {"a4": (), "letter": ("letter.css",)}
"""What a page of each size adds to the style sheets of a report, which are of A4."""

# Of templates/report-print.css and templates/letter.css: how high the page is between its margins.
_HEIGHT_MM: dict[PaperSize, float] = {"a4": 271.0, "letter": 253.0}
_IN_USE: ContextVar[PaperSize] = ContextVar("paper", default="a4")


@contextmanager
def printing_on(paper: PaperSize) -> Iterator[None]:
    """Lay out pages of this size while the context lasts, in this thread."""
    token = _IN_USE.set(paper)
    try:
        yield
    finally:
        _IN_USE.reset(token)


def height_mm() -> float:
    """Return how high the page that is printed on is between its margins."""
    return _HEIGHT_MM[_IN_USE.get()]
