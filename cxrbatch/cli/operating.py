"""The commands for whoever looks after a nightly run or a daemon: status, repair."""

from __future__ import annotations

from pathlib import Path

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FOLDER, state_option
from cxrbatch.cli.terminal import open_console


@commands.command()
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
@state_option
def status(out: Path, state: str | None, *, as_json: bool) -> None:
    """Show what waits in OUT, what the last run did, and what failed or was refused, with how to try it again.

    Works while a run or the daemon is at work on OUT, and changes nothing.

    \b
    Examples:
      cxrbatch status /results
      cxrbatch status /results --json
    """
    from cxrbatch.output.state import find_state
    from cxrbatch.status import print_status, read_status

    print_status(open_console(), read_status(out, ledger_folder=find_state(out, state or "")), as_json=as_json)


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
