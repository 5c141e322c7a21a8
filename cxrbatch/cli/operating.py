"""The commands for whoever looks after a nightly run or a daemon: status, repair, prune."""

from __future__ import annotations

from pathlib import Path

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FOLDER, state_option
from cxrbatch.cli.run_options import templates_option
from cxrbatch.cli.terminal import open_console, say
from cxrbatch.system.standard_streams import put_work_first


@commands.command(short_help="Show what is waiting, what was done and what failed.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@state_option
def status(out: Path, state: str | None, *, as_json: bool) -> None:
    """Show what is waiting in OUT, what the last run did, what failed or was refused, and how to try that again.

    Can be used while a run or the daemon is working on OUT; changes nothing.

    \b
    Examples:
      cxrbatch status /results
      cxrbatch status /results --json
    """
    from cxrbatch.upkeep.status import print_status, read_status

    print_status(open_console(), read_status(out, state=state or ""), as_json=as_json)


@commands.command(short_help="Rebuild a damaged ledger from the reports.")
@click.argument("out", metavar="OUT", type=FOLDER)
@templates_option
@state_option
def repair(out: Path, state: str | None, templates: str | None) -> None:
    """Rebuild the damaged ledger of OUT from its reports, so that the next run does not score everything again.

    An intact ledger is left alone; a damaged one is kept beside the new one. The tables are written again.

    \b
    Example:
      cxrbatch repair /results
    """
    from functools import partial

    from cxrbatch.run.own_pages import pages_by
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.upkeep.repair import repair_output, tell_repair

    put_work_first()
    with pages_by(load_settings({"templates": templates}), say):
        repaired = repair_output(out, state or "")
    tell_repair(repaired, partial(open_console().print, markup=False, highlight=False))


@commands.command(short_help="Remove old studies whose images are gone from INPUT.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option(
    "--older-than", "age", required=True, metavar="AGE", help="How long ago they were reported: 90d, 12w, 36h."
)
@click.option("--yes", "remove", is_flag=True, help="Remove them; otherwise they are only listed.")
@click.option(
    "--input-emptied", is_flag=True, help="Go on though INPUT is empty: its images are moved away on purpose."
)
@templates_option
@state_option
def prune(out: Path, age: str, state: str | None, templates: str | None, *, remove: bool, input_emptied: bool) -> None:
    """Remove the reports and rows of studies that were reported long ago and have no image left in INPUT.

    Without --yes nothing is changed. A study with an image in INPUT is kept, as the next run would score it again.

    \b
    Examples:
      cxrbatch prune /results --older-than 90d
      cxrbatch prune /results --older-than 90d --yes
    """
    from functools import partial

    from cxrbatch.run.own_pages import pages_by
    from cxrbatch.run.schedule import parse_age
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.upkeep.prune import prune_output, tell_pruning

    if remove:
        put_work_first()
    with pages_by(load_settings({"templates": templates}), say):
        pruning = prune_output(out, parse_age(age), state=state or "", remove=remove, input_emptied=input_emptied)
    tell_pruning(pruning, partial(open_console().print, markup=False, highlight=False))
