"""What a person meets first: help in sections, shell completion, and how much is told on the terminal."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cxrbatch.cli import commands, run_command_line
from cxrbatch.cli.group import SECTIONS
from cxrbatch.errors import ExitCode
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, write_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _grey_quadrants_pass_for_radiographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Return the arguments that `run` and `watch` share, for one image and a tiny engine."""
    write_image(tmp_path / "images" / "a.png", 20, 60, 120, 240)
    engine = write_tiny_bundle(tmp_path / "engines")
    named = [tmp_path / "images", "-o", tmp_path / "out", "-e", engine, "--workers", "1", "--no-pdf"]
    return [str(each) for each in named]


def completed(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, "-m", "cxrbatch"], env=environment, capture_output=True, text=True, check=True
    )


# --------------------------------------------------------------------------- help


def test_every_command_is_in_exactly_one_section() -> None:
    assert Counter(name for names in SECTIONS.values() for name in names) == Counter(list(commands.commands))


def test_help_shows_the_sections_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["--help"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    found: dict[str, list[str]] = {}
    for title, body in re.findall(r"^([A-Z][a-z ]+):\n((?:  .+\n)+)", shown, re.MULTILINE):
        found[title] = re.findall(r"^  (\S+)", body, re.MULTILINE)
    assert {title: tuple(names) for title, names in found.items() if title != "Options"} == SECTIONS
    assert list(found)[1:] == list(SECTIONS)


# --------------------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_gets_its_completion_script(shell: str) -> None:
    script = completed(_CXRBATCH_COMPLETE=f"{shell}_source")
    assert "_CXRBATCH_COMPLETE" in script.stdout
    assert f"{shell}_complete" in script.stdout
    assert script.stderr == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("cxrbatch re", {"plain,report", "plain,repair", "plain,receive"}),
        ("cxrbatch run --dry", {"plain,--dry-run"}),
        ("cxrbatch run --backend tensorrt", {"plain,tensorrt", "plain,tensorrt-rtx"}),
    ],
)
def test_the_shell_is_offered_commands_options_and_choices(typed: str, offered: set[str]) -> None:
    count = str(len(typed.split()) - 1)
    told = completed(_CXRBATCH_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=count)
    assert set(told.stdout.split()) == offered


# --------------------------------------------------------------------------- loudness


@pytest.mark.parametrize("command", [["run"], ["watch", "--once", "--settle", "0"]], ids=lambda value: value[0])
def test_quiet_prints_nothing_where_nothing_is_wrong(
    command: list[str], arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line([*command, *arguments, "--quiet"]) == ExitCode.DONE
    assert tuple(capfd.readouterr()) == ("", "")
    assert [row["status"] for row in read_rows(tmp_path / "out" / "images.csv")] == ["scored"]
    assert run_command_line(["report", str(tmp_path / "out"), "-q", "--no-pdf", "--workers", "1"]) == ExitCode.DONE
    assert tuple(capfd.readouterr()) == ("", "")


def test_quiet_still_prints_errors(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run", *arguments, "-q", "--precision", "int8"]) == ExitCode.ENGINE
    assert "has no onnx_int8 file" in capfd.readouterr().err
    assert run_command_line(["run", *arguments, "-q"]) == ExitCode.DONE
    (study,) = read_rows(tmp_path / "out" / "studies.csv")
    (picture,) = (tmp_path / "out" / "reports" / study["study_key"]).glob("image-1-*.jpg")
    picture.unlink()
    report = ["report", str(tmp_path / "out"), "-q", "--no-pdf", "--workers", "1"]
    assert run_command_line(report) == ExitCode.SOME_STUDIES_FAILED
    printed = capfd.readouterr()
    assert (printed.out, study["study_key"] in printed.err) == ("", True)


def test_verbose_prints_the_log_on_stderr_as_well(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    package = logging.getLogger("cxrbatch")
    handlers, level = list(package.handlers), package.level
    assert run_command_line(["run", *arguments, "-v"]) == ExitCode.DONE
    printed = capfd.readouterr()
    (study,) = read_rows(tmp_path / "out" / "studies.csv")
    assert "1 scored" in printed.out
    assert re.search(r"^\d\d:\d\d:\d\d run started cxrbatch=\S+ engine=tiny ", printed.err)
    assert re.search(
        rf"^\d\d:\d\d:\d\d study done study_key={study['study_key']} images_scored=1$", printed.err, re.MULTILINE
    )
    logged = (tmp_path / "out" / "cxrbatch.log").read_text().splitlines()
    assert len(printed.err.splitlines()) == len(logged)
    assert (package.handlers, package.level) == (handlers, level)


def test_verbose_says_of_an_error_that_it_is_one(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    Path(arguments[0], "odd.dcm").write_text("x" * 300)
    assert run_command_line(["run", *arguments, "-v", "--limit", "1"]) == ExitCode.DONE
    capfd.readouterr()
    Path(arguments[0], "a.png").unlink()
    Path(arguments[0], "odd.dcm").unlink()
    assert run_command_line(["run", *arguments, "-v"]) == ExitCode.USAGE
    assert re.search(r"^\d\d:\d\d:\d\d ERROR run stopped error=UsageError$", capfd.readouterr().err, re.MULTILINE)


def test_the_last_of_quiet_and_verbose_counts(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run", *arguments, "-v", "-q"]) == ExitCode.DONE
    assert tuple(capfd.readouterr()) == ("", "")
    assert run_command_line(["run", *arguments, "-q", "-v"]) == ExitCode.DONE
    assert "run started" in capfd.readouterr().err


# --------------------------------------------------------------------------- one file


def test_watch_needs_a_folder_and_says_what_takes_a_file(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    file = str(Path(arguments[0]) / "a.png")
    assert run_command_line(["watch", file, *arguments[1:]]) == ExitCode.USAGE
    assert "is a file, and watch needs a folder; `cxrbatch run` takes a single file" in capfd.readouterr().err


def test_run_takes_a_file(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "images" / "b.png", 20, 60, 120, 240)
    assert run_command_line(["run", str(tmp_path / "images" / "b.png"), *arguments[1:]]) == ExitCode.DONE
    assert "1 scored" in capfd.readouterr().out
    assert [row["path"] for row in read_rows(tmp_path / "out" / "images.csv")] == ["b.png"]
