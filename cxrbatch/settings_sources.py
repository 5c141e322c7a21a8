"""Where settings come from: defaults < cxrbatch.toml < CXRBATCH_* variables < command line."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from cxrbatch.config import Settings, ranges, shown
from cxrbatch.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_FILE = "cxrbatch.toml"
ENVIRONMENT_PREFIX = "CXRBATCH_"
_LONGEST_FILE = 1 << 20
_PLACE = re.compile(r"at `\$\.(\w+)")


def load_settings(
    options: Mapping[str, Any], *, config_file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Merge the four sources of settings; in `options`, None means that the command line is silent.

    Args:
        options: what the command line says, by field name.
        config_file: a file named with --config; without it `cxrbatch.toml` in the working folder, if any.
        environment: where to look for CXRBATCH_ variables.

    Raises:
        ConfigurationError: a source is missing, names an unknown key or holds a value that does not fit.
    """
    sources: dict[str, Mapping[str, Any]] = {
        str(config_file or CONFIG_FILE): _read_file(config_file),
        "environment": _read_environment(environment),
        "command line": {name: value for name, value in options.items() if value is not None},
    }
    merged: dict[str, Any] = {}
    for source, values in sources.items():
        merged |= values
        _check(values, source)
    return msgspec.convert(merged, Settings, strict=False)


def _check(values: Mapping[str, Any], source: str) -> None:
    """Refuse values of one source that do not fit, also where a later source would overrule them."""
    try:
        msgspec.convert(values, Settings, strict=False)
    except (msgspec.ValidationError, UnicodeError, ConfigurationError) as error:
        raise ConfigurationError(
            f"settings, {source}: {_explained(values, error)}. See `cxrbatch run --help` for what each option takes."
        ) from None


def _explained(values: Mapping[str, Any], error: Exception) -> str:
    """Say also of a value of the wrong type which setting and value it is, and what is taken instead."""
    if isinstance(error, UnicodeError):
        odd = [name for name, value in values.items() if isinstance(value, str) and not _is_text(value)]
        return f"{', '.join(odd)}: holds bytes that are not UTF-8"
    found = _PLACE.search(str(error))
    if found is None or found[1] not in values:
        return str(error)
    allowed = ranges().get(found[1])
    return f"{found[1]} = {shown(values[found[1]])}: {error}{f', from {allowed}' if allowed else ''}"


def _is_text(value: str) -> bool:
    """Tell whether it is text, and not the undecodable bytes of a variable, which Python keeps as lone surrogates."""
    try:
        value.encode()
    except UnicodeError:
        return False
    return True


def _read_file(named: Path | None) -> dict[str, Any]:
    path = named or Path(CONFIG_FILE)
    if named is None and not os.path.lexists(path):
        return {}
    try:
        content = tomllib.loads(_read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: cannot be read as TOML: {error}") from error
    _refuse_unknown(content, str(path))
    return content


def _read_text(path: Path) -> str:
    """Return what a settings file says.

    Raises:
        OSError: it cannot be read, or is no file: a pipe would be waited for, and be empty when it is read again.
        ValueError: it is no text, or too long for settings.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        content = os.read(descriptor, _LONGEST_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > _LONGEST_FILE:
        raise ValueError(f"it is longer than {_LONGEST_FILE} bytes")
    return content.decode("utf-8-sig")  # Notepad writes a byte order mark


def _read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    known = {f"{ENVIRONMENT_PREFIX}{field.name.upper()}": field.name for field in fields(Settings)}
    return {field: environment[variable] for variable, field in known.items() if variable in environment}


def _refuse_unknown(content: Mapping[str, Any], source: str) -> None:
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(content) - known):
        raise ConfigurationError(f"{source}: unknown key {', '.join(unknown)}. Known keys: {', '.join(sorted(known))}.")
