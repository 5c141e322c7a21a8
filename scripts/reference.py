"""`make reference`: docs/commands.md and docs/settings.md from the commands and the settings themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cxrbatch.cli import commands  # noqa: E402
from cxrbatch.config import ENVIRONMENT_PREFIX, Settings  # noqa: E402
from cxrbatch.errors import ExitCode  # noqa: E402

MADE_BY = "<!-- Made by `make reference`. -->\n\n"


def commands_page() -> str:
    """Return every command with its arguments, options and examples, as Markdown."""
    parts = [f"{MADE_BY}# Commands\n\nEvery command has `--help`; `cxrbatch --version` prints the version.\n"]
    for name, command in sorted(commands.commands.items()):
        context = click.Context(command, info_name=f"cxrbatch {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        parts.append(f"## {name}\n\n```\ncxrbatch {name} {usage}\n```\n\n{_help(command)}\n{_options(command)}")
    return "\n".join(parts)


def settings_page() -> str:
    """Return every setting with its default, its variable and its option, as Markdown."""
    intro = (
        "Settings come from, in this order, defaults, `cxrbatch.toml`, `CXRBATCH_*` variables and the command line.\n"
        "A key that is unknown, or a value that does not fit, ends the command with exit code "
        f"{ExitCode.CONFIGURATION.value}.\n"
    )
    rows = ["| key | default | option | variable | meaning |", "| --- | --- | --- | --- | --- |"]
    options = _options_by_setting()
    for field in fields(Settings):
        default = f"`{field.default!r}`".replace("'", '"').replace("True", "true").replace("False", "false")
        variable = f"`{ENVIRONMENT_PREFIX}{field.name.upper()}`"
        option = options.get(field.name)
        flag = f"`{'/'.join((*option.opts[-1:], *option.secondary_opts))}`" if option else ""
        rows.append(f"| `{field.name}` | {default} | {flag} | {variable} | {field.metadata['meaning']} |")
    return f"{MADE_BY}# Settings\n\n{intro}\n" + "\n".join(rows) + "\n"


def _help(command: click.Command) -> str:
    """Return a command's help; what stands under Examples becomes code."""
    text, _, examples = (command.help or "").partition("\b\n")
    paragraphs = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    return paragraphs + ("\n\n```\n" + "\n".join(lines) + "\n```\n" if lines else "\n")


def _options(command: click.Command) -> str:
    rows = [
        f"| `{', '.join((*option.opts, *option.secondary_opts))}`{_value(option)} | {_cell(option.help or '')} |"
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n" if rows else ""


def _value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return " " + _cell(", ".join(f"`{choice}`" for choice in option.type.choices))
    return f" {_cell(option.make_metavar(click.Context(click.Command('')))).strip('[]')}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _options_by_setting() -> dict[str, click.Option]:
    return {
        str(option.name): option
        for name in ("watch", "run")
        for option in commands.commands[name].params
        if isinstance(option, click.Option)
    }


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page and what it is to hold."""
    yield ROOT / "docs" / "commands.md", commands_page()
    yield ROOT / "docs" / "settings.md", settings_page()


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
