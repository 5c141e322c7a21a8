"""Options of the commands that write pages of an output folder."""

from __future__ import annotations

import click

templates_option = click.option(
    "--templates",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Folder of templates and style sheets to use before the package's.  [default: the package's]",
)
