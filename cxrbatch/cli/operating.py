"""The commands for whoever looks after a nightly run or a daemon: status, repair, prune."""

from __future__ import annotations

from pathlib import Path

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FOLDER, state_option
from cxrbatch.cli.terminal import open_console
from cxrbatch.system.standard_streams import put_work_first


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
    from cxrbatch.upkeep.status import print_status, read_status

    print_status(open_console(), read_status(out, state=state or ""), as_json=as_json)


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

    from cxrbatch.upkeep.repair import repair_output, tell_repair

    put_work_first()
    tell_repair(repair_output(out, state or ""), partial(open_console().print, markup=False, highlight=False))


@commands.command()
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--older-than", "age", required=True, metavar="AGE", help="Reported longer ago than this: 90d, 12w, 36h.")
@click.option("--yes", "remove", is_flag=True, help="Remove them; without it they are only listed.")
@click.option("--input-emptied", is_flag=True, help="Also where INPUT is empty now, since images leave it.")
@state_option
def prune(out: Path, age: str, state: str | None, *, remove: bool, input_emptied: bool) -> None:
    """Remove the reports and rows of studies reported long ago whose images are all gone from INPUT.

    Without --yes nothing is changed. What still has an image in INPUT is kept: the next run would score it again.

    \b
    Examples:
      cxrbatch prune /results --older-than 90d
      cxrbatch prune /results --older-than 90d --yes
    """
    from functools import partial

    from cxrbatch.run.schedule import parse_age
    from cxrbatch.upkeep.prune import prune_output, tell_pruning

    if remove:
        put_work_first()
    pruning = prune_output(out, parse_age(age), state=state or "", remove=remove, input_emptied=input_emptied)
    tell_pruning(pruning, partial(open_console().print, markup=False, highlight=False))
