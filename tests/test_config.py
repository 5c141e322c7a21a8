"""Settings come from four places, the later over the earlier, and wrong values are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrbatch.config import Settings, available_cores
from cxrbatch.errors import ConfigurationError
from cxrbatch.settings_sources import load_settings


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cxrbatch.toml"
    path.write_text(text)
    return path


def test_without_any_source_the_defaults_hold() -> None:
    assert load_settings({}, environment={}) == Settings()


def test_command_line_wins_over_environment_over_file(tmp_path: Path) -> None:
    config = write_config(tmp_path, 'engine = "from-file"\nworkers = 1\nbatch_size = 2\n')
    environment = {"CXRBATCH_ENGINE": "from-environment", "CXRBATCH_WORKERS": "3"}
    settings = load_settings({"engine": "from-option", "workers": None}, config_file=config, environment=environment)
    assert (settings.engine, settings.workers, settings.batch_size) == ("from-option", 3, 2)


def test_booleans_of_the_environment_are_understood() -> None:
    assert load_settings({}, environment={"CXRBATCH_PDF": "false"}).pdf is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("worker = 2", "unknown key worker"),
        ("workers = -1", "workers = -1: must be from 0 to 1024"),
        ('workers = "many"', "Expected `int`"),
        ('group_by = "patient"', "Invalid enum value 'patient'"),
        ("workers = ", "cannot be read as TOML"),
    ],
)
def test_a_wrong_configuration_file_is_refused_with_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_settings({}, config_file=write_config(tmp_path, text), environment={})


def test_a_named_configuration_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.toml"):
        load_settings({}, config_file=tmp_path / "missing.toml", environment={})


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({}, 8),
        ({"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "4"}, 2),
        ({"SLURM_CPUS_ON_NODE": "4"}, 4),
        ({"SLURM_CPUS_ON_NODE": "64"}, 8),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "0"}, 1),
        ({"SLURM_CPUS_PER_TASK": "2(x3)"}, 8),
    ],
)
def test_a_job_of_slurm_takes_no_more_cores_than_it_was_given(
    environment: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert available_cores() == cores
    assert Settings().worker_count == cores
