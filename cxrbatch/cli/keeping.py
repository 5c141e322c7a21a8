"""The commands that look after an output folder: repair."""

from __future__ import annotations

from pathlib import Path

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FOLDER, state_option
from cxrbatch.cli.terminal import open_console


@commands.command()
@click.argument("out", metavar="OUT", type=FOLDER)
@state_option
def repair(out: Path, state: str | None) -> None:
    """Make the damaged ledger of OUT anew from its reports, so that the next run scores nothing again.

    A sound ledger is left alone; a damaged one is kept beside the new one. Tables are written anew.

    \b
    Example:
      cxrbatch repair /results
    """
    from functools import partial

    from cxrbatch.repair import repair_output, tell_repair

    tell_repair(repair_output(out, state or ""), partial(open_console().print, markup=False, highlight=False))
