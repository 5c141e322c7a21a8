"""What doctor says of packages comes from the installation's own metadata: no second list can fall behind."""

from __future__ import annotations

import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cxrbatch.errors import ExitCode
from cxrbatch.upkeep import doctor
from cxrbatch.upkeep.doctor import Finding, examine, look_at_requirements

pytestmark = pytest.mark.hostile("9.15 doctor checks what setup.cfg requires")


def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(Path(__file__).parents[2] / "setup.cfg")
    return parser


def lines(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


class Installation:
    """An installation with setup.cfg's requirements, each in a version that the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        options = setup_cfg()
        self.versions = {"cxrbatch": "1"}
        self.required = [str(each) for each in lines(options["options"]["install_requires"])]
        self.extras = list(options["options.extras_require"])
        for extra in self.extras:
            for each in lines(options["options.extras_require"][extra]):
                self.required.append(f'{each}; extra == "{extra}"')
        monkeypatch.setattr("cxrbatch.upkeep.doctor.requires", lambda _: self.required)
        monkeypatch.setattr("cxrbatch.upkeep.doctor.version", self.version)
        message = metadata.metadata("cxrbatch")
        monkeypatch.setattr(type(message), "get_all", lambda *_: self.extras)

    def version(self, name: str) -> str:
        if name not in self.versions:
            return "9999"
        if not self.versions[name]:
            raise metadata.PackageNotFoundError(name)
        return self.versions[name]

    def finding(self, what: str) -> Finding:
        (found,) = (each for each in doctor._packages() if each.what == what)
        return found


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> Installation:
    return Installation(monkeypatch)


def test_everything_that_setup_cfg_requires_is_looked_at(installation: Installation) -> None:
    options = setup_cfg()
    told = {needs.extra: " ".join((*needs.found, *needs.wrong)) for needs in look_at_requirements()}
    assert sorted(told) == ["", *sorted(installation.extras)]
    for extra, text in told.items():
        named = options["options.extras_require"][extra] if extra else options["options"]["install_requires"]
        for requirement in lines(named):
            if requirement.marker is None or requirement.marker.evaluate():
                assert f"{requirement.name} " in text or f"{requirement.name}{requirement.specifier} " in text


@pytest.mark.parametrize("name", [each.name for each in lines(setup_cfg()["options"]["install_requires"])])
@pytest.mark.parametrize("installed", ["", "0.0.1", "of no version"])
def test_a_package_that_running_needs_is_missed_or_too_old(
    installation: Installation, name: str, installed: str
) -> None:
    if name == "tomli" and sys.version_info >= (3, 11):
        pytest.skip("this Python has it")
    installation.versions[name] = installed
    finding = installation.finding("runtime packages")
    assert (finding.state, finding.needed) == ("missing", True)
    assert name in finding.detail
    assert "pip install" in finding.detail


def test_an_extra_that_is_not_there_keeps_nobody_from_running(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.versions |= {"torch": "2.13.0", "watchfiles": ""}
    train, watch = installation.finding("extra train"), installation.finding("extra watch")
    assert "torch 2.13.0 is not !=2.13.*,>=2.5" in train.detail
    assert "pip install 'cxrbatch[train]'" in train.detail
    assert "watchfiles>=1 is not installed" in watch.detail
    assert not train.needed
    assert not watch.needed


def test_a_local_version_and_a_prerelease_count_for_what_they_are(installation: Installation) -> None:
    installation.versions |= {"torch": "2.12.1+cpu", "numpy": "3.0.0rc1"}
    assert installation.finding("extra train").state == "ok"
    assert installation.finding("runtime packages").state == "ok"


def test_sources_that_were_never_installed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> list[str]:
        raise metadata.PackageNotFoundError("cxrbatch")

    monkeypatch.setattr("cxrbatch.upkeep.doctor.requires", missing)
    (finding,) = doctor._packages()
    assert (finding.state, finding.needed) == ("missing", False)
    assert "not installed here" in finding.detail


def test_a_missing_package_is_told_by_the_exit_code(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    installation.versions["pydicom"] = "2.4.0"
    assert doctor.print_findings(Console(width=200), doctor._packages()) == ExitCode.CONFIGURATION
    assert "pydicom 2.4.0 is not >=3.0.1" in capsys.readouterr().out


def test_the_examination_names_every_extra() -> None:
    told = {finding.what for finding in examine()}
    assert {"machine", "runtime packages", "extra train", "extra watch"} <= told
