"""WeasyPrint finds its libraries by soname, without a search that starts compilers; and by the search if need be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere libraries are found by other names")

STARTED = """
import sys
started = []
sys.addaudithook(lambda event, arguments: started.append(str(arguments[0])) if event == "subprocess.Popen" else None)
"""
# Asks for a library as WeasyPrint does, through what cffi calls; here only the search knows where it is.
PICKY = """
import ctypes.util
print("how to install it")
if ctypes.util.find_library("only-by-search") is None:
    raise OSError("no only-by-search")
"""


def python(code: str, *, path: Path | None = None) -> str:
    command = [sys.executable, "-c", code, *([str(path)] if path else [])]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_loading_the_printer_starts_no_process() -> None:
    code = f"{STARTED}\nimport cxrbatch.output.report.pdf, weasyprint.text.ffi as ffi\nprint(started, bool(ffi.pango))"
    assert python(code) == "[] True"


@pytest.mark.parametrize("found", ["'/lib/it.so'", "None"])
def test_what_only_the_search_finds_is_searched_for(tmp_path: Path, found: str) -> None:
    (tmp_path / "weasyprint").mkdir()
    (tmp_path / "weasyprint" / "__init__.py").write_text(PICKY)
    code = f"""
import ctypes.util, sys
sys.path.insert(0, sys.argv[1])
ctypes.util.find_library = search = lambda name: {found}
from cxrbatch.output.report.load_weasyprint import load_weasyprint
try:
    print(load_weasyprint().__name__)
except OSError as error:
    print(error)
print(ctypes.util.find_library is search)
"""
    outcome = "no only-by-search" if found == "None" else "weasyprint"
    assert python(code, path=tmp_path).splitlines() == ["how to install it", outcome, "True"]


def test_what_only_odd_fonts_need_is_loaded_when_one_is_met() -> None:
    code = """
import sys
import cxrbatch.output.report.pdf
from weasyprint.pdf import fonts
large = ["fontTools.subset", "fontTools.varLib", "fontTools.varLib.instancer"]
print([name for name in large if name in sys.modules])
try:
    fonts.instantiateVariableFont({"fvar": None}, {})
except Exception:
    pass
print(fonts.subset.Subsetter.__module__, all(name in sys.modules for name in large))
"""
    assert python(code).splitlines() == ["[]", "fontTools.subset True"]
