"""Every number that somebody may set has bounds, wherever it is set, and what is wrong is said with its source."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st

from cxrbatch.cli import commands, run_command_line
from cxrbatch.config import Settings, ranges
from cxrbatch.errors import ConfigurationError, ExitCode
from cxrbatch.settings_sources import load_settings

pytestmark = pytest.mark.hostile("9.14 settings have ranges")

NUMBERS = sorted(ranges())
HINTS = get_type_hints(Settings)
WHOLE = [name for name in NUMBERS if HINTS[name] in {int, int | None}]


def test_every_setting_that_is_a_number_has_a_range() -> None:
    numeric = {name for name, hint in HINTS.items() if hint in {int, float, int | None}}
    assert numeric == set(NUMBERS)


def test_every_default_lies_in_its_range() -> None:
    for name, allowed in ranges().items():
        value = getattr(Settings(), name)
        assert value is None or allowed.holds(value)


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_are_taken_and_nothing_beyond(name: str) -> None:
    allowed = ranges()[name]
    for end in (allowed.least, allowed.most):
        value = int(end) if name in WHOLE else end
        assert getattr(load_settings({}, environment={f"CXRBATCH_{name.upper()}": str(value)}), name) == value
    step = 1 if name in WHOLE else 0.0009
    for value in (allowed.least - step, allowed.most + 1, -5, -math.inf, math.inf, math.nan, 10**400, -(10**19)):
        if value == -5 or not allowed.holds(value):
            with pytest.raises(ConfigurationError, match=f"settings, command line: {name} = "):
                load_settings({name: value}, environment={})


@pytest.mark.parametrize("name", NUMBERS)
@given(value=st.one_of(st.integers(), st.floats(), st.integers(-10, 10), st.floats(-1, 1)))
@settings(max_examples=40, deadline=None)
def test_what_is_taken_lies_in_the_range_from_every_source(name: str, value: float) -> None:
    sources: list[dict[str, Any]] = [
        {"options": {name: value}, "environment": {}},
        {"options": {}, "environment": {f"CXRBATCH_{name.upper()}": str(value)}},
    ]
    for source in sources:
        try:
            taken = getattr(load_settings(**source), name)
        except ConfigurationError as error:
            assert name in str(error)  # most values are refused, and some are taken
            assert not (ranges()[name].holds(value) and type(value) is (int if name in WHOLE else float))
        else:
            assert ranges()[name].holds(taken)


@pytest.mark.parametrize("name", NUMBERS)
def test_settings_made_in_the_program_are_checked_too(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} = -5: must be from"):
        Settings(**{name: -5})  # type: ignore[arg-type]


def test_the_message_names_source_key_value_and_range(tmp_path: Path) -> None:
    config = tmp_path / "cxrbatch.toml"
    config.write_text("max_stored_px = -5\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings({}, config_file=config, environment={})
    assert f"settings, {config}: max_stored_px = -5: must be from 1 to 4000000000" in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"settings, environment: workers = 'true': .* from 0 to 1024"):
        load_settings({}, environment={"CXRBATCH_WORKERS": "true"})


# --------------------------------------------------------------------------- the file

WRONG_FILES = {
    "twice": b"workers = 1\nworkers = 2\n",
    "a boolean": b"workers = true\n",
    "a fraction": b"workers = 1.5\n",
    "a list": b"workers = [1]\n",
    "a table": b"[workers]\nn = 1\n",
    "a date": b"workers = 2026-01-01\n",
    "text": b'workers = "many"\n',
    "nan": b"settle_s = nan\n",
    "inf": b"settle_s = inf\n",
    "minus inf": b"settle_s = -inf\n",
    "digits": b"workers = " + b"9" * 5000 + b"\n",
    "large": b"workers = " + b"9" * 400 + b"\n",
    "not UTF-8": b'engine = "\xff"\n',
    "UTF-16": "workers = 1\n".encode("utf-16"),
    "NUL in text": b'engine = "\\u0000"\n',
    "NUL": b"\x00" * 100,
    "deep": b"workers = " + b"[" * 100_000 + b"\n",
    "huge": b"#" + b"x" * (2 << 20),
    "a number for text": b"engine = 3\n",
    "no modality": b'accept_modality = " , "\n',
    "another case": b"WORKERS = 1\n",
    "port 0": b"metrics_port = 0\n",
    "port": b"metrics_port = 65536\n",
}


@pytest.mark.parametrize("content", WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_file_that_cannot_be_meant_ends_with_4(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cxrbatch.toml"
    config.write_bytes(content)
    (tmp_path / "in").mkdir()
    code = run_command_line(["run", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--config", str(config)])
    assert code == ExitCode.CONFIGURATION
    assert str(config) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_byte_order_mark_is_none_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "cxrbatch.toml").write_bytes(b"\xef\xbb\xbfworkers = 3\r\n")
    assert load_settings({}, config_file=tmp_path / "cxrbatch.toml", environment={}).workers == 3


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "link to itself", "no permission"])
def test_a_file_that_is_none_is_refused_and_not_waited_for(kind: str, in_folder: Path) -> None:
    path = in_folder / "cxrbatch.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "no permission":
        path.touch()
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("root reads everything")
    else:
        path.symlink_to("nothing" if kind == "link to nothing" else path)
    with pytest.raises(ConfigurationError, match=r"cxrbatch\.toml: cannot be read"):
        load_settings({}, environment={})


@pytest.mark.parametrize(
    "value", ["", " ", "0x10", "1e3", "\uff11\uff12", "1,5", "\udcff", "None", "nan", "--", "9" * 5000]
)
@pytest.mark.parametrize("name", ["workers", "settle_s", "metrics_port", "pdf", "group_by"])
def test_odd_variables_are_refused_by_name_or_are_numbers(name: str, value: str) -> None:
    try:
        taken = getattr(load_settings({}, environment={f"CXRBATCH_{name.upper()}": value}), name)
    except ConfigurationError as error:
        assert f"settings, environment: {name}" in str(error)
    else:
        assert taken == 1000


# --------------------------------------------------------------------------- options


def numeric_options() -> Iterator[tuple[str, click.Option]]:
    for name, command in sorted(commands.commands.items()):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and isinstance(
                parameter.type, (click.types.IntParamType, click.types.FloatParamType)
            ):
                yield name, parameter


OPTIONS = list(numeric_options())
SETTINGS_NAMES = {field.name for field in fields(Settings)}


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[f"{name} {option.opts[-1]}" for name, option in OPTIONS])
def test_every_option_that_is_a_number_has_both_ends(command: str, option: click.Option) -> None:
    kind = option.type
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        assert kind.min is not None
        assert kind.max is not None
        for value in ("nan", "inf", "-1e9", "1e19", "9" * 30, "true", ""):
            with pytest.raises(click.BadParameter):
                kind.convert(value, option, None)  # type: ignore[arg-type]
    else:
        assert option.name in SETTINGS_NAMES, "no range of its own, and no setting, which would have one"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "in", "-o", "out", "--workers", "-1"], ExitCode.CONFIGURATION),
        (["run", "in", "-o", "out", "--limit", "-5"], ExitCode.CONFIGURATION),
        (["run", "in", "-o", "out", "--batch-size", "-1"], ExitCode.CONFIGURATION),
        (["run", "in", "-o", "out", "--deadline", "25:00"], ExitCode.CONFIGURATION),
        (["run", "in", "-o", "out", "--since", "yesterday"], ExitCode.CONFIGURATION),
        (["run", "in", "-o", "out", "--since", "-7d"], ExitCode.CONFIGURATION),
        (["run", "in", "-o", "out", "--since", "99999999d"], ExitCode.CONFIGURATION),
        (["run", "in", "-o", "out", "--since", "0001-01-01T00:00:00+14:00"], None),
        (["run", "in", "-o", "out", "--since", "9999-12-31T23:59:59-14:00"], None),
        (["watch", "in", "-o", "out", "--settle", "nan"], ExitCode.CONFIGURATION),
        (["watch", "in", "-o", "out", "--interval", "0"], ExitCode.CONFIGURATION),
        (["watch", "in", "-o", "out", "--max-wait", "1e400"], ExitCode.CONFIGURATION),
        (["watch", "in", "-o", "out", "--metrics-port", "99999"], ExitCode.CONFIGURATION),
        (["watch", "in", "-o", "out", "--metrics-port", "-1"], ExitCode.CONFIGURATION),
        (["prune", "in", "--older-than", "-5d"], ExitCode.CONFIGURATION),
        (["prune", "in", "--older-than", "99999999999999999999d"], ExitCode.CONFIGURATION),
        (["bench", "--seconds", "nan"], ExitCode.USAGE),
        (["bench", "--batch-sizes", "0"], ExitCode.USAGE),
        (["bench", "--batch-sizes", ","], ExitCode.USAGE),
        (["bench", "--batch-sizes", "8,99999999999"], ExitCode.USAGE),
        (["demo", "--studies", "0"], ExitCode.USAGE),
        (["demo", "--seed", "-1"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--epochs", "-1"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--lr", "nan"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--lr", "0"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--weight-decay", "-1"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--devices", "many"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--devices", "-1"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--devices", "0"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--val-fraction", "1.5"], ExitCode.USAGE),
        (["train", "in", "-o", "x.safetensors", "--val-fraction", "nan"], ExitCode.USAGE),
        (["evaluate", "x", "in", "-o", "out", "--bootstrap", "-1"], ExitCode.USAGE),
        (["describe", "in", "-o", "out", "--workers", "-1"], ExitCode.USAGE),
        (["build", "file", "-n", "x", "--opt-batch", "0"], ExitCode.USAGE),
        (["import", "file", "-o", "x.safetensors", "--format", "torchvision", "--image-size", "-1"], ExitCode.USAGE),
    ],
    ids=lambda value: " ".join([value[0], *value[-2:]]) if isinstance(value, list) else "",
)
def test_an_option_that_cannot_be_meant_is_refused_before_anything_is_done(
    arguments: list[str], code: ExitCode | None, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_folder / "in").mkdir()
    (in_folder / "file").touch()
    ended = run_command_line(arguments)
    assert ended == code or (code is None and ended in {ExitCode.ENGINE, ExitCode.CONFIGURATION})
    said = capsys.readouterr().err
    assert "unexpected" not in said
    assert not (in_folder / "out").exists()


def test_help_is_printed_for_every_command() -> None:
    for name in commands.commands:
        assert CliRunner().invoke(commands, [name, "--help"]).exit_code == ExitCode.DONE
