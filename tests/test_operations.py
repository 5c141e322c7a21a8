"""docs/operations.md and docs/deploy: complete, and in words that the tool understands."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import get_args

import click
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cxrbatch.cli import commands
from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, Flag, Reason
from cxrbatch.output.drift import DriftLine, DriftReport
from cxrbatch.output.metrics_prom import describe_run
from cxrbatch.output.sent_facts import PeerFacts
from cxrbatch.records import FileStatus, StudyStatus
from cxrbatch.settings_sources import load_settings
from cxrbatch.watch.metrics_server import STALE_AFTER_S
from tests.output.test_metrics_prom import FIVE_STUDIES

DOCS = Path(__file__).parents[1] / "docs"
DEPLOY = DOCS / "deploy"
OPERATIONS = (DOCS / "operations.md").read_text()
PROGRAM = "/opt/cxrbatch/bin/cxrbatch"
UNITS = sorted(path.name for path in DEPLOY.glob("cxrbatch-*"))


# --------------------------------------------------------------------------- operations.md


DRIFT = DriftReport("2026-03-01T00:00:00+00:00", 60, 900, 0.25, (DriftLine("grey", "", "recent", 0.3, 0.2, 60, 900),))
EVERYTHING = replace(FIVE_STUDIES, drift=DRIFT, images_out_of_distribution=2)
SENT = [PeerFacts("PACS@host:104", {"stored": 3})]


def rows_below(heading: str) -> dict[str, list[str]]:
    """Return the rows of the tables in a section, by their first cell."""
    section = re.split(r"^## ", OPERATIONS, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    rows = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {first.strip("`"): rest for first, *rest in rows if first != "---"}


def test_every_exit_code_has_a_row_that_says_what_to_do() -> None:
    rows = rows_below("Exit codes")
    assert set(rows) == {"code", "128 + signal", *(str(code.value) for code in ExitCode)}
    assert all(len(cells) == 2 and all(cells) for cells in rows.values())


@pytest.mark.parametrize(
    ("heading", "head", "terms"),
    [("Reasons: why a file got no score", "reason", Reason), ("Flags: scored, but look", "flag", Flag)],
)
def test_every_reason_and_every_flag_has_a_row_that_says_what_to_do(heading: str, head: str, terms: type[Enum]) -> None:
    rows = rows_below(heading)
    assert set(rows) == {head, *(term.value for term in terms)}
    assert all(len(cells) == 2 and all(cells) for cells in rows.values())


def test_every_status_has_a_row_that_says_what_to_do() -> None:
    rows = rows_below("What can become of a file, and of a study")
    statuses = {*get_args(FileStatus), *get_args(StudyStatus)}
    assert set(rows) == {"status of a file", "status of a study", *statuses}
    assert all(len(cells) == 2 and all(cells) for cells in rows.values())


def test_every_metric_is_told() -> None:
    metrics = {family.name for family in text_string_to_metric_families(describe_run(EVERYTHING, sent=SENT))}
    assert {name for name in metrics if f"`{name}" not in OPERATIONS} == set()


def _headings(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", OPERATIONS):
        page, _, heading = target.partition("#")
        assert (DOCS / page).exists(), target
        assert not heading or heading in _headings(DOCS / page if page else DOCS / "operations.md"), target


def test_the_figures_it_gives_are_those_of_the_code() -> None:
    settings = Settings()
    assert f"`log_max_mb` ({settings.log_max_mb})" in OPERATIONS
    assert f"`log_backups` ({settings.log_backups})" in OPERATIONS
    assert f"at most {settings.log_max_mb * (1 + settings.log_backups)} MB" in OPERATIONS
    assert f"nothing was heard for {STALE_AFTER_S / 60:.0f} minutes" in OPERATIONS


# --------------------------------------------------------------------------- docs/deploy


def read_unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(DEPLOY / name)
    return parser


def commands_in_deploy() -> Iterator[tuple[str, list[str]]]:
    """Yield every call of cxrbatch in units and crontab, with where it stands."""
    for name in UNITS:
        service = read_unit(name)
        if service.has_option("Service", "ExecStart"):
            yield name, shlex.split(service.get("Service", "ExecStart"))
    for line in (DEPLOY / "crontab").read_text().splitlines():
        if PROGRAM in line:
            yield "crontab", shlex.split(line[line.index(PROGRAM) :].partition(" > ")[0])


def options_of(command: str) -> set[str]:
    parameters = commands.commands[command].params
    return {name for option in parameters if isinstance(option, click.Option) for name in option.opts}


def test_every_unit_and_the_crontab_call_cxrbatch() -> None:
    assert [name for name, _ in commands_in_deploy()] == [
        "cxrbatch-nightly.service",
        "cxrbatch-watch.service",
        "crontab",
        "crontab",
    ]


@pytest.mark.parametrize(("name", "call"), list(commands_in_deploy()))
def test_what_is_called_exists(name: str, call: list[str]) -> None:
    program, command, *arguments = call
    assert program == PROGRAM
    assert {argument for argument in arguments if argument.startswith("-")} - options_of(command) == set()


def test_systemd_restarts_what_a_fresh_start_can_mend_and_nothing_else() -> None:
    assert read_unit("cxrbatch-watch.service")["Service"]["Restart"] == "on-failure"
    never = {int(code) for code in read_unit("cxrbatch-watch.service")["Service"]["RestartPreventExitStatus"].split()}
    assert never == {ExitCode.USAGE, ExitCode.CONFIGURATION}
    # After the deadline a nightly run that is started again would take it for tomorrow's.
    assert "Restart" not in read_unit("cxrbatch-nightly.service")["Service"]
    for name in ("cxrbatch-watch.service", "cxrbatch-nightly.service"):
        service = read_unit(name)["Service"]
        assert not {ExitCode.ENGINE, ExitCode.OUTPUT_NOT_WRITABLE} & {
            int(code) for code in service["SuccessExitStatus"].split()
        }


def test_the_units_let_the_daemon_write_its_output_only() -> None:
    for name in ("cxrbatch-watch.service", "cxrbatch-nightly.service"):
        service = read_unit(name)["Service"]
        call = shlex.split(service["ExecStart"])
        assert service["ReadOnlyPaths"] == call[2]
        assert service["ReadWritePaths"] == call[call.index("-o") + 1]
        assert service["ProtectSystem"] == "strict"
        assert service["NoNewPrivileges"] == "yes"
        assert service["LimitCORE"] == "0"


def test_the_sample_settings_can_be_used() -> None:
    settings = load_settings({}, config_file=DEPLOY / "cxrbatch.toml", environment={})
    assert settings.engine == "chest"
    assert (settings.log_max_mb, settings.log_backups) == (Settings().log_max_mb, Settings().log_backups)


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    metrics = {family.name for family in text_string_to_metric_families(describe_run(EVERYTHING, sent=SENT))}
    asked = set(re.findall(r"\bcxrbatch_\w+", (DEPLOY / "alerts.yml").read_text()))
    assert asked
    assert asked <= metrics


def test_systemd_understands_every_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    for name in UNITS:
        # It looks whether the program is there.
        (tmp_path / name).write_text((DEPLOY / name).read_text().replace(PROGRAM, "/bin/true"))
    units = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
    broken = tmp_path / "broken.service"
    broken.write_text((tmp_path / "cxrbatch-watch.service").read_text().replace("WatchdogSec", "WachtdogSec"))
    done = subprocess.run([analyze, "verify", "--man=no", str(broken)], capture_output=True, text=True, check=False)
    assert "WachtdogSec" in done.stderr
