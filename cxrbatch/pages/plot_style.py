"""What the plots of figures share: colours, type, and how a picture becomes an SVG that follows the page.

The pictures take the colours of the reports: they are light or dark with the reader's system, like the page.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import Formatter, ScalarFormatter

from cxrbatch.pages.language import localised
from cxrbatch.pages.wording import visible

# Ink, muted text, lines and the accent of look.css; in the SVG each becomes a variable with a value for the dark.
INK, MUTED, LINE, ACCENT = "#161b22", "#5a6472", "#dde2e8", "#2c5f8a"
_DARK = {INK: "#e6eaef", MUTED: "#98a3b0", LINE: "#2b323b", ACCENT: "#7fb2df"}
DASHES = (0, (4, 4))

# Told apart by the colour blind, and seen on white and on black (after Okabe and Ito 2008; the rest fills up to 15).
LABEL_COLOURS = (
    *("#2f7fbf", "#d9772b", "#1d9a78", "#c2569b", "#b08c00", "#6f6fd0", "#d0463f", "#4a9fb5"),
    *("#8c6d46", "#7a9a2e", "#a05fb8", "#5b7f95", "#c98a8a", "#3f8f4f", "#8a8a8a"),
)

# Any: matplotlib types the keys as a Literal of some 300 names.
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    # The same figures give the same bytes.
    "svg.hashsalt": "cxrbatch",
    "font.family": "sans-serif",
    "font.sans-serif": ["Noto Sans", "Liberation Sans", "Arial", "DejaVu Sans"],
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several small pictures of the same kind: its file, what it is of, and its figure in words."""

    file: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture beside the page: its file, its title, and how to read it; or `panels` in its place, each of a label.

    `axes` says, of panels, what is across and what is up: the same for each of them.
    """

    file: str
    title: str
    caption: str
    axes: str = ""
    panels: tuple[Panel, ...] = ()


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw in the style of the pages, and with any letters."""
    with mpl.rc_context({"text.parse_math": False, **_SETTINGS}), warnings.catch_warnings():
        # A letter that this machine's fonts lack is only measured with another: the SVG holds text, and the reader's
        # fonts draw it.
        warnings.filterwarnings("ignore", r"Glyph \d+")
        yield


def plot_text(text: str) -> str:
    """Return a label as a plot shows it: letters that an SVG can hold, and never hidden, as matplotlib hides `_x`."""
    shown = visible(text)
    return f" {shown}" if shown.startswith("_") else shown


def label_colour(place: int) -> str:
    """Return the colour of the label at this place."""
    return LABEL_COLOURS[place % len(LABEL_COLOURS)]


class _SpokenFormatter(Formatter):
    """Writes what another formatter writes, with the signs of the language that is spoken."""

    def __init__(self, other: Formatter) -> None:
        self._other = other

    def __call__(self, value: float, place: int | None = None) -> str:
        return localised(self._other(value, place))

    def set_locs(self, locs: list[float]) -> None:
        self._other.set_locs(locs)

    def get_offset(self) -> str:
        return localised(self._other.get_offset())


def as_svg(canvas: Canvas) -> bytes:
    """Return the picture as SVG that follows the reader's light or dark system and holds no date.

    The numbers along its axes have the signs of the language that is spoken.
    """
    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), ScalarFormatter):
                axis.set_major_formatter(_SpokenFormatter(axis.get_major_formatter()))
    written = io.BytesIO()
    canvas.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": "cxrbatch"})
    text = written.getvalue().decode()
    names = {light: f"var(--c{place}, {light})" for place, light in enumerate(_DARK)}
    for light, name in names.items():
        text = text.replace(light, name)
    lit = "".join(f"--c{place}:{light};" for place, light in enumerate(_DARK))
    dark = "".join(f"--c{place}:{shade};" for place, shade in enumerate(_DARK.values()))
    style = f"<style>:root{{{lit}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return text.replace("<defs>", f"{style}<defs>", 1).encode()
