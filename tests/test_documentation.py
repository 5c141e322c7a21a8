"""The README knows every command, option, exit code, reason, flag and setting."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from cxrbatch import __version__
from cxrbatch.cli import commands
from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, Flag, Reason

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", sorted(commands.commands))
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"cxrbatch {command}" in README


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
def test_every_option_is_in_the_readme(option: str) -> None:
    assert re.search(rf"{option}\b", README)


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_in_the_readme(code: ExitCode) -> None:
    assert re.search(rf"^\| {code.value} \|", README, re.MULTILINE)


@pytest.mark.parametrize("term", [*Reason, *Flag])
def test_every_reason_and_flag_is_in_the_readme(term: Reason | Flag) -> None:
    assert f"`{term.value}`" in README


@pytest.mark.parametrize("setting", [field.name for field in fields(Settings)])
def test_every_setting_is_in_the_readme(setting: str) -> None:
    assert f"`{setting}`" in README


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", README)) | set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_every_picture_and_page_that_the_readme_links_exists() -> None:
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert linked
    assert [link for link in linked if not (ROOT / link).exists()] == []


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
