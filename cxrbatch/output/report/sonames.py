"""Loading WeasyPrint without the search for its libraries, which on Linux is a search for what is not there.

WeasyPrint asks for Pango, HarfBuzz and the others by the names that Windows and macOS have for them, and by soname last
of all. For each name that the linker does not know, `ctypes.util.find_library` runs ldconfig, gcc and ld: 54 processes,
a quarter of a second of computing in every worker that prints.
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


def load_weasyprint() -> ModuleType:
    """Import WeasyPrint, its libraries by soname; where one is not found that way, as WeasyPrint would by itself.

    Raises:
        OSError: a library is missing.
    """
    if sys.platform == "linux":
        # Before it raises, WeasyPrint prints how to install what it misses; it may yet be found.
        with redirect_stdout(io.StringIO()), _no_search():
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
