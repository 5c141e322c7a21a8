"""The commands that look after runs and engines: status, repair, prune, inspect, doctor, bench, engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import (
    BACKENDS,
    FILE,
    FOLDER,
    NEW_FILE,
    NEW_FOLDER,
    PRECISIONS,
    PROCESSES,
    NumberRange,
    split_numbers,
    state_option,
)
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


@commands.command(short_help="Show how files are read, and why they are refused.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file instead of tables.")
@click.option("--png", "png_folder", type=NEW_FOLDER, help="Write display images and engine inputs to this folder.")
@click.option("--config", "config_file", type=FILE, help="Settings file.  [default: ./cxrbatch.toml, if there]")
def inspect(files: tuple[Path, ...], png_folder: Path | None, config_file: Path | None, *, as_json: bool) -> None:
    """Show how each FILE would be read: its header, what is made of it, and why it is accepted or refused.

    \b
    Examples:
      cxrbatch inspect study/IM0001.dcm
      cxrbatch inspect --json *.dcm
      cxrbatch inspect --png pictures image.png
    """
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.upkeep.inspection import explain_file, print_inspection

    settings = load_settings({}, config_file=config_file)
    console = open_console()
    for number, file in enumerate(files, start=1):
        picture = png_folder / f"{number}-{file.name}.png" if png_folder else None
        print_inspection(console, explain_file(file, settings, picture=picture), as_json=as_json)


@commands.command(short_help="Check what this machine can run, and what is missing.")
def doctor() -> int:
    """Check what this machine can run, and say how to get what is missing."""
    from cxrbatch.upkeep.doctor import examine, print_findings

    return print_findings(open_console(), examine())


@commands.command(short_help="Measure how fast an engine is on this machine.")
@click.option("-e", "--engine", metavar="ENGINE", help="Engine: a folder or a name.  [default: the only one installed]")
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="auto", help="Only this one.  [default: all that run here]"
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", help="Only this one.  [default: all]")
@click.option("--batch-sizes", default="1,8,32", show_default=True, metavar="N,N,...", help="Batch sizes to measure.")
@click.option(
    "--seconds", type=NumberRange(0.01, 3600), default=3.0, show_default=True, help="How long to measure each of them."
)
@click.option("--threads", type=PROCESSES, default=0, metavar="N", help="CPU cores the engine may use.  [default: all]")
@click.option("--json", "json_file", type=NEW_FILE, metavar="FILE", help="Also write the figures to this file.")
def bench(engine: str | None, batch_sizes: str, json_file: Path | None, **options: Any) -> None:
    """Measure how fast an engine scores here, on every backend and at every precision that it has.

    The column "alone" is the backend by itself: a bare ONNX Runtime session, or a GPU without any copying.

    \b
    Examples:
      cxrbatch bench
      cxrbatch bench -e engines/pneumonia --batch-sizes 1,4,8 --json bench.json
    """
    from cxrbatch.engine.installed import find_bundle
    from cxrbatch.upkeep.bench import BenchOptions, measure_engine, print_bench, write_bench

    if json_file:
        put_work_first()
    wanted = BenchOptions(batch_sizes=split_numbers("batch-sizes", batch_sizes), **options)
    measured = measure_engine(find_bundle(engine or ""), wanted, report=lambda text: say(text, err=True))
    print_bench(open_console(), measured)
    if json_file:
        write_bench(json_file, measured)


@commands.command(short_help="List the installed engines.")
def engines() -> None:
    """List the installed engines: what they score, their files, where they run here, and how they passed their gate.

    Looks in $CXRBATCH_ENGINES, ./engines and the user's data folder, in this order.
    """
    from cxrbatch.cli.print_run import print_engines

    print_engines(open_console())
