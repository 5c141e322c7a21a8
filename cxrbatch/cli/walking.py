"""How `run` and `watch` walk over INPUT."""

from __future__ import annotations

import click

from cxrbatch.cli.options import Command, add_options


def walking_options(command: Command) -> Command:
    """Add the options that say which folders are looked into."""
    trust = click.option(
        "--trust-folder-mtime",
        is_flag=True,
        default=None,
        help="Pass over folders in which nothing came or went; files rewritten in place there go unnoticed.",
    )
    return add_options([trust], command)
