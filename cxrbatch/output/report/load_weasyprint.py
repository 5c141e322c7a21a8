"""Loading WeasyPrint without what only costs time: a search for what is not there, a library that has nothing to do.

WeasyPrint asks for Pango, HarfBuzz and the others by the names that Windows and macOS have for them, and by soname last
of all. For each name that the linker does not know, `ctypes.util.find_library` runs ldconfig, gcc and ld: 54 processes,
a quarter of a second of computing in every worker that prints.

It imports what fontTools has for cutting fonts down, too, another 70 ms. HarfBuzz does that, ten times as fast, where
its library is installed.
"""

from __future__ import annotations

import ctypes.util
import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any

# Cutting a font down without HarfBuzz, and making a static font of a variable one.
_FONT_TOOLS = ("fontTools.subset", "fontTools.varLib", "fontTools.varLib.instancer")


def load_weasyprint() -> ModuleType:
    """Import WeasyPrint, its libraries by soname; where one is not found that way, as WeasyPrint would by itself.

    Raises:
        OSError: a library is missing.
    """
    if sys.platform == "linux":
        # Before it raises, WeasyPrint prints how to install what it misses; it may yet be found.
        with redirect_stdout(io.StringIO()), _no_search(), _font_tools_when_needed():
            try:
                return importlib.import_module("weasyprint")
            except OSError:
                pass
    return importlib.import_module("weasyprint")


@contextmanager
def _no_search() -> Iterator[None]:
    """Let no name be searched for: what is no file's name, the linker's or a path, then counts as not found."""
    search: Any = ctypes.util.find_library
    ctypes.util.find_library = lambda _: None  # type: ignore[assignment]
    try:
        yield
    finally:
        ctypes.util.find_library = search


@contextmanager
def _font_tools_when_needed() -> Iterator[None]:
    """Let two large modules of fontTools be imported when something of them is first asked for."""
    stand_ins = {name: _StandIn(name) for name in _FONT_TOOLS if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


class _StandIn(ModuleType):
    """In place of a module while others import it; what they take from it are functions that load it when called."""

    # Of a package, too: what is imported from below it has its own stand-in.
    __path__ = ()  # type: ignore[assignment]  # nothing is ever looked for in it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__ not in sys.modules or sys.modules[self.__name__] is not self:
            return getattr(importlib.import_module(self.__name__), name)

        def loaded_when_called(*arguments: Any, **options: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **options)

        return loaded_when_called
