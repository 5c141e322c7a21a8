"""The commands for whoever goes on with what runs left: schema, export."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cxrbatch.cli.group import commands

if TYPE_CHECKING:
    from cxrbatch.output.schemas import Named


@commands.command(short_help="Print the JSON Schema of result.json or run.json.")
@click.argument("named", metavar="[result|run]", required=False, type=click.Choice(["result", "run"]))
def schema(named: Named | None) -> None:
    """Print the JSON Schema (draft 2020-12) of result.json or run.json; without a name, one that both files fit.

    Files of earlier versions fit it, too: what they lack has a default there.

    \b
    Examples:
      cxrbatch schema result > result.schema.json
      cxrbatch schema run
    """
    from cxrbatch.output.schemas import json_schema

    click.echo(json.dumps(json_schema(named), indent=2))
