"""Every script imports and answers --help as the Makefile calls it: from the repository, with the package installed."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from scripts.hostile import Tally

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
# The others hold what these share.
RUN_BY_THEMSELVES = [path for path in SCRIPTS if "__main__" in path.read_text(encoding="utf-8")]
SHARED = [path for path in SCRIPTS if path not in RUN_BY_THEMSELVES]


@pytest.fixture
def nothing_found_by_chance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Python find neither the repository, which only tests have on their path, nor scripts by where they stand.

    In this process, because torch is loaded here anyway, and takes seconds.
    """
    elsewhere = [each for each in sys.path if Path(each).resolve() not in (ROOT, ROOT / "scripts")]
    monkeypatch.setattr(sys, "path", elsewhere)
    usual = _forget()
    yield
    _forget()
    sys.modules.update(usual)


def _forget() -> dict[str, ModuleType]:
    """Take what was imported of scripts/ and tests/ away, and return it."""
    names = [name for name in sys.modules if name.partition(".")[0] in ("scripts", "tests")]
    return {name: sys.modules.pop(name) for name in names}


@pytest.mark.usefixtures("nothing_found_by_chance")
@pytest.mark.parametrize("path", RUN_BY_THEMSELVES, ids=lambda path: path.stem)
def test_a_script_answers_help(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert printed.startswith(f"usage: {path.name} [-h]")


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_what_scripts_share_imports_and_is_run_by_none(path: Path) -> None:
    assert importlib.import_module(f"scripts.{path.stem}").__doc__


def test_pytest_takes_the_tally_of_hostile_cases_as_a_plugin() -> None:
    """Without -n it puts plugins into sets; those that compare by what they hold do not go in."""
    assert len({Tally(), Tally()}) == 2
