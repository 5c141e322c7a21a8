"""`make reference`: docs/commands.md, docs/settings.md and docs/template-context.md, from what they are about."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import click

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrbatch.cli import commands
from cxrbatch.config import Meaning, Settings, notes, ranges
from cxrbatch.errors import ExitCode
from cxrbatch.locales import locales
from cxrbatch.settings_sources import CONFIG_FILE, ENVIRONMENT_PREFIX
from scripts.template_context import context_page

ROOT = Path(__file__).parents[1]
MADE_BY = "<!-- Made by `make reference`. -->\n\n"


def main() -> None:
    """Write the pages."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for path, text in pages():
        path.write_text(text, encoding="utf-8")


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page and what it is to hold."""
    yield ROOT / "docs" / "commands.md", commands_page()
    yield ROOT / "docs" / "settings.md", settings_page()
    yield ROOT / "docs" / "template-context.md", MADE_BY + context_page()


def commands_page() -> str:
    """Return every command with its arguments, examples and options, as Markdown."""
    intro = """Every command has `--help`; `cxrbatch --version` prints the version. [Outputs](outputs.md#exit-codes) has
the exit codes. Options that are [settings](settings.md) can stand in a file, too.
"""
    parts = [f"{MADE_BY}# Commands\n\n{intro}"]
    for name, command in sorted(commands.commands.items()):
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        parts.append(f"## {name}\n\n```\ncxrbatch {name} {usage}\n```\n\n{_help(command)}")
        parts += [_options(command)] if _shown_options(command) else []
    return "\n".join(parts)


def settings_page() -> str:
    """Return every setting with its default, what it takes, its option and its meaning, as Markdown."""
    intro = f"""Settings come from, in this order, defaults, `{CONFIG_FILE}` in the working folder or what `--config`
names, `{ENVIRONMENT_PREFIX}*` variables (`{ENVIRONMENT_PREFIX}WORKERS=4` for `workers`) and the command line. A key of
the file that is unknown, or a value that does not fit, also where a later source overrules it, ends the command with
exit code {ExitCode.CONFIGURATION}; the message names source, key, value and what is taken instead.
"""
    options, meanings, takes = _options_by_setting(), notes(Meaning), _what_settings_take()
    rows = ["| key | default | takes | option | meaning |", "| --- | --- | --- | --- | --- |"]
    for field in fields(Settings):
        option = options.get(field.name)
        names = f"`{'/'.join((*option.opts[-1:], *option.secondary_opts))}`" if option else ""
        cells = (f"`{field.name}`", _default(field.default), takes[field.name], names, _cell(meanings[field.name].text))
        rows.append(f"| {' | '.join(cells)} |")
    return f"{MADE_BY}# Settings\n\n{intro}\n" + "\n".join(rows) + "\n"


def _help(command: click.Command) -> str:
    """Return a command's help; what stands under Examples becomes code."""
    text, _, examples = (command.help or "").partition("\b\n")
    paragraphs = "\n\n".join(_cell(paragraph) for paragraph in text.strip().split("\n\n"))
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    return paragraphs + "\n" + ("\n```\n" + "\n".join(lines) + "\n```\n" if lines else "")


def _shown_options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option) and not option.hidden]


def _options(command: click.Command) -> str:
    rows = [f"| {_names(option)} | {_cell(_meaning(option))} |" for option in _shown_options(command)]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n"


def _names(option: click.Option) -> str:
    names = f"`{', '.join(option.opts)}{'/' if option.secondary_opts else ''}{', '.join(option.secondary_opts)}`"
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {', '.join(f'`{choice}`' for choice in option.type.choices)}"
    if isinstance(option.type, click.IntRange | click.FloatRange) and not option.metavar:
        return f"{names} {_numbers(option.type)}"
    return f"{names} {_cell(option.metavar or option.type.name.upper())}"


def _numbers(allowed: click.IntRange | click.FloatRange) -> str:
    least = f"from {allowed.min:g}"
    return least if allowed.max is None else f"{least} to {'below ' if allowed.max_open else ''}{allowed.max:,}"


def _meaning(option: click.Option) -> str:
    """Return an option's help with the default that `--help` shows beside it."""
    shown = option.show_default is True and option.default is not None and not option.is_flag
    required = "  [required]" if option.required else ""
    return f"{option.help or ''}{f'  [default: {option.default}]' if shown else ''}{required}"


def _cell(text: str) -> str:
    """Return plain text as Markdown on one line: no letter of it marks anything up, or ends a cell of a table."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)


def _default(value: object) -> str:
    """Return a default as cxrbatch.toml would hold it; None, which TOML does not know, is a key that is not there."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _what_settings_take() -> dict[str, str]:
    """Return the words or numbers that each setting takes."""
    types = get_type_hints(Settings)
    words = {name: get_args(kind) for name, kind in types.items() if get_origin(kind) is Literal}
    words["locale"] = locales()
    choices = {name: ", ".join(f"`{word}`" for word in among) for name, among in words.items()}
    switches = {name: "`true`, `false`" for name, kind in types.items() if kind is bool}
    return (
        dict.fromkeys(types, "text") | {name: str(numbers) for name, numbers in ranges().items()} | choices | switches
    )


def _options_by_setting() -> dict[str, click.Option]:
    named = [option for name in ("watch", "run") for option in commands.commands[name].params]
    return {str(option.name): option for option in named if isinstance(option, click.Option)}


if __name__ == "__main__":
    main()
