"""The commands for whoever goes on with what runs left: schema, export."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FOLDER, NEW_FOLDER, state_option
from cxrbatch.cli.terminal import open_console
from cxrbatch.system.standard_streams import put_work_first

if TYPE_CHECKING:
    from pathlib import Path

    from cxrbatch.config import HeatmapChoice
    from cxrbatch.output.export.export import Format
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


@commands.command(short_help="Export scores, regions and maps for research.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("-o", "--output", "target", metavar="DIR", type=NEW_FOLDER, required=True, help="Folder for the export.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(["parquet", "csv-long", "coco", "npy"]),
    multiple=True,
    required=True,
    help="What to write; may be given several times.",
)
@click.option(
    "--heatmaps",
    type=click.Choice(["validated", "all"]),
    default="validated",
    show_default=True,
    help="Of which labels coco has annotations: those whose heatmaps point at the finding, or all.",
)
@state_option
def export(out: Path, target: Path, formats: tuple[Format, ...], heatmaps: HeatmapChoice, state: str | None) -> None:
    """Write the results of OUT into DIR for research: tidy scores, regions of heatmaps, activation maps, embeddings.

    parquet and csv-long have one row per image and label, and one per study and label. coco has the regions of findings
    that were called, npy the maps as arrays: `cxrbatch run --keep-maps` keeps these. Embeddings, where
    `--keep-embeddings` kept some, come with parquet, csv-long and npy. Changes nothing in OUT, and can be used while a
    run is working on it.

    \b
    Examples:
      cxrbatch export /results -o scores --format parquet
      cxrbatch export /results -o study --format csv-long --format coco --format npy
    """
    from functools import partial

    from cxrbatch.cli.print_export import tell_export
    from cxrbatch.output.export.export import export_output

    put_work_first()
    chosen = tuple(dict.fromkeys(formats))
    exported = export_output(out, target, chosen, state=state or "", heatmaps=heatmaps)
    tell_export(exported, target, partial(open_console().print, markup=False, highlight=False))
