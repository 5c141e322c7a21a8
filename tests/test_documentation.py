"""docs/ knows every command, option, exit code, reason, flag, setting and make target; README.md stays short."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from cxrbatch import __version__
from cxrbatch.cli import commands
from cxrbatch.config import Meaning, Settings, notes
from cxrbatch.errors import ExitCode, Flag, Reason
from scripts.reference import pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = sorted(DOCS.rglob("*.md"))
MANUAL = "\n".join(page.read_text() for page in PAGES)
OUTPUTS = (DOCS / "outputs.md").read_text()
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
README_LINES = 120


# --------------------------------------------------------------------------- README.md


def test_the_readme_is_one_that_is_read() -> None:
    assert len(README.splitlines()) <= README_LINES


def test_the_first_screen_of_the_readme_has_what_decides() -> None:
    first_screen = "\n".join(README.splitlines()[:25])
    for needed in ("![A report", "**Research use only.**", "\nmake demo ", "\nmake test "):
        assert needed in first_screen


@pytest.mark.parametrize("command", sorted(commands.commands))
def test_every_command_is_in_the_readme_and_in_the_manual(command: str) -> None:
    assert f"`cxrbatch {command}`" in README
    assert f"\n## {command}\n\n```\ncxrbatch {command} [OPTIONS]" in MANUAL


# --------------------------------------------------------------------------- docs/


@pytest.mark.parametrize(("page", "text"), [pytest.param(page, text, id=page.name) for page, text in pages()])
def test_what_is_generated_is_what_the_code_says_now(page: Path, text: str) -> None:
    assert page.read_text() == text, f"docs/{page.name} is not what the code says now: run `make reference`."


@pytest.mark.parametrize(
    "option",
    sorted(
        {
            name
            for command in commands.commands.values()
            for parameter in command.params
            if isinstance(parameter, click.Option)
            for name in (*parameter.opts, *parameter.secondary_opts)
            if name.startswith("--")
        }
    ),
)
def test_every_option_is_told(option: str) -> None:
    assert re.search(rf"{option}\b", MANUAL)


@pytest.mark.parametrize("setting", [field.name for field in fields(Settings)])
def test_every_setting_is_told(setting: str) -> None:
    assert notes(Meaning)[setting].text
    assert f"\n| `{setting}` |" in MANUAL


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_told(code: ExitCode) -> None:
    assert re.search(rf"^\| {code.value} \|", OUTPUTS, re.MULTILINE)


@pytest.mark.parametrize("term", [*Reason, *Flag])
def test_every_reason_and_flag_is_told(term: Reason | Flag) -> None:
    assert f"`{term.value}`" in OUTPUTS


@pytest.mark.parametrize("target", sorted(MAKE_TARGETS - {"setup"}))
def test_every_make_target_is_told(target: str) -> None:
    assert re.search(rf"(`|^)make {target}(`| )", MANUAL, re.MULTILINE)


def test_every_make_target_that_is_told_exists() -> None:
    told = README + MANUAL
    named = set(re.findall(r"`make ([a-z-]+)", told)) | set(re.findall(r"^make ([a-z-]+)", told, re.MULTILINE))
    assert len(named) > 10
    assert named <= MAKE_TARGETS


def test_every_page_is_in_the_index_of_the_site() -> None:
    listed = re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def _links(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)\s]+)\)", _without_code(page.read_text()))


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(DOCS) or page.name == "README.md", f"{link}: not a part of the site"
        assert not anchor or anchor in _anchors(target), f"{link}: there is no such heading"


def test_every_file_of_the_code_that_contributing_names_exists() -> None:
    named = re.findall(r"`((?:cxrbatch|tests|templates|docs)/[\w/.]+)`", (DOCS / "contributing.md").read_text())
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_changelog_tells_of_this_version() -> None:
    assert re.search(
        rf"^## \[(Unreleased|{re.escape(__version__)})\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


TORTURE_LIST = re.findall(r"`(test_\w+\.py)::(\w+)(?:\[([^]]+)\])?`", (ROOT / "docs" / "torture.md").read_text())


@pytest.mark.parametrize(("file", "test", "line"), TORTURE_LIST)
def test_every_test_that_the_torture_list_names_exists(file: str, test: str, line: str) -> None:
    (path,) = (ROOT / "tests").rglob(file)
    source = path.read_text()
    assert f"def {test}(" in source
    assert f'"{line}"' in source or not line


def test_the_torture_list_has_every_section_of_what_is_promised() -> None:
    sections = re.findall(r"^## (.+)$", (ROOT / "docs" / "torture.md").read_text(), re.MULTILINE)
    assert sections == ["Files", "Structure", "Pixels", "PNG and JPEG", "Not what we score", "Injection", "Run time"]
    assert len(TORTURE_LIST) > 100
