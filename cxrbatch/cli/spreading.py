"""The commands that spread a run over machines without any network between them: shard, work, merge."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Any

import click
from click.core import ParameterSource

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import BACKENDS, EXISTING, FILE, FOLDER, NEW_FOLDER, PRECISIONS, PROCESSES, state_option
from cxrbatch.cli.run_options import loudness_options, scoring_options, settings_options
from cxrbatch.cli.terminal import open_terminal
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.system.standard_streams import put_work_first

_NUMBERS = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
_MOST_SHARDS = 4000
_ALL_MERGED = "Nothing is dealt out there: all is merged."


@commands.command(short_help="Deal the studies of a folder out to many machines.")
@click.argument("input_path", metavar="INPUT", type=EXISTING)
@click.option("-o", "--output", "out", metavar="OUT", type=NEW_FOLDER, required=True, help="Folder for all results.")
@click.option("--of", type=click.IntRange(1, _MOST_SHARDS), required=True, metavar="N", help="How many shards to make.")
@click.option(
    "--retry",
    type=click.Choice(["failed", "rejected"]),
    help="Deal out what failed before (always), or refused files as well.",
)
@scoring_options
@settings_options
@loudness_options
def shard(input_path: Path, out: Path, of: int, config_file: Path | None, loudness: str | None, **options: Any) -> int:
    """Index INPUT once, and deal the studies that wait out into N shards below OUT, for `work` and `merge`.

    INPUT and OUT are paths that every machine has. What is asked for here holds for all shards; which engine scores,
    and on what, each `work` says. Until all is merged, no other command works in OUT.

    \b
    Examples:
      cxrbatch shard /pacs/archive -o /results --of 100
      cxrbatch work /results --shard 0 -e engines/demo
      cxrbatch merge /results
    """
    from cxrbatch.run.shards.divide import shard_input
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.system.progress import RunProgress

    put_work_first()
    settings = load_settings(options, config_file=config_file)
    with open_terminal(loudness) as console:
        with RunProgress(console) as progress:
            plan = shard_input(input_path, out, settings, of, progress)
        if plan is None:
            told = "No study waits to be scored, so nothing is dealt out; `cxrbatch run` writes the tables."
        else:
            named = quote(str(out))
            told = (
                f"{sum(plan.counts)} studies in {of} shards. Now `cxrbatch work {named} --shard I -e ENGINE` for I "
                f"from 0 to {of - 1}, then `cxrbatch merge {named}`."
            )
        console.print(told, markup=False, highlight=False)
    return ExitCode.DONE


@commands.command(short_help="Score one shard of a folder that was dealt out.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option(
    "--shard",
    "number",
    type=click.IntRange(0, _MOST_SHARDS),
    envvar=list(_NUMBERS),
    metavar="I",
    help=f"Which shard, from 0.  [default: {' or '.join(_NUMBERS)}]",
)
@click.option("-e", "--engine", metavar="ENGINE", help="Engine: a folder or a name.  [default: the shards' one]")
@click.option("--backend", type=click.Choice(BACKENDS), help="What the engine runs on.  [default: auto]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Which of the engine's files is run.  [default: auto]")
@click.option("--threads", type=PROCESSES, metavar="N", help="CPU cores the engine may use.  [default: all]")
@click.option("--batch-size", type=int, metavar="N", help="Images per engine call.  [default: 4 on a CPU, 8 on a GPU]")
@click.option("--workers", type=PROCESSES, metavar="N", help="Processes that read and print.  [default: one per core]")
@click.option("--config", "config_file", type=FILE, help="Settings file.  [default: ./cxrbatch.toml, if there]")
@loudness_options
def work(out: Path, number: int | None, config_file: Path | None, loudness: str | None, **options: Any) -> int:
    """Score the studies of shard I of OUT that are not done yet, without any network; killed, it goes on where it was.

    \b
    Examples:
      cxrbatch work /results --shard 7 -e engines/demo
      sbatch --array=0-99 --wrap "cxrbatch work /results -e engines/demo"
    """
    from cxrbatch.run.shards.work import work_on_shard
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.system.progress import RunProgress

    put_work_first()
    machine = load_settings(options, config_file=config_file)
    with open_terminal(loudness) as console:
        with RunProgress(console) as progress:
            done = work_on_shard(out, _from_zero(out, number), machine, progress)
        if done is None:
            console.print(_ALL_MERGED, markup=False, highlight=False)
            return ExitCode.DONE
        failed = f", {done.failed} of them failed" if done.failed else ""
        told = f"Shard {done.number}: {done.studies} studies are done, {done.this_time} this time{failed}."
        console.print(told, markup=False, highlight=False)
    return ExitCode.SOME_STUDIES_FAILED if done.failed else ExitCode.DONE


def _from_zero(out: Path, number: int | None) -> int:
    """Return which shard is meant by the number that a scheduler gave: an array of 1 to N of N shards counts from 1."""
    from cxrbatch.run.shards.plan import read_plan

    if number is None:
        raise UsageError(
            f"Which shard? Give --shard I; {' and '.join(_NUMBERS)}, by which the tasks of a Slurm array and of an "
            "indexed job are told apart, are not set here."
        )
    by_slurm = bool(os.environ.get(_NUMBERS[0]))
    source = click.get_current_context().get_parameter_source("number")
    if not by_slurm or source is not ParameterSource.ENVIRONMENT or (plan := read_plan(out)) is None:
        return number
    first, last = (os.environ.get(f"SLURM_ARRAY_TASK_{end}") for end in ("MIN", "MAX"))
    # No shard has the number N: who counts to it begins with 1.
    return number - 1 if last == str(len(plan.counts)) and first not in {None, "", "0"} else number


@commands.command(short_help="Bring together what shards have done.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--give-up", is_flag=True, help="End the shards: what they have not done waits for `run` or `shard`.")
@click.option("--notify", metavar="URL|COMMAND", help="Tell of urgent studies, failures and drift, as `run` does.")
@click.option("--workers", type=PROCESSES, metavar="N", help="Processes that print.  [default: one per core]")
@state_option
@click.option("--config", "config_file", type=FILE, help="Settings file.  [default: ./cxrbatch.toml, if there]")
@loudness_options
def merge(out: Path, config_file: Path | None, loudness: str | None, *, give_up: bool, **options: Any) -> int:
    """Record what the shards of OUT have done, and write tables, worklist and sheet, as one run would have left them.

    Can be given while shards are at work, and again at any time: the exit code is 3 until all is done.

    \b
    Example:
      cxrbatch merge /results
    """
    from cxrbatch.cli.print_run import print_summary
    from cxrbatch.run.shards.merge import merge_shards
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.system.progress import RunProgress

    put_work_first()
    here = load_settings(options, config_file=config_file)
    with open_terminal(loudness) as console:
        with RunProgress(console) as progress:
            merged = merge_shards(out, here, progress, give_up=give_up)
        if merged is None:
            console.print(_ALL_MERGED, markup=False, highlight=False)
            return ExitCode.DONE
        print_summary(console, merged.report, out)
        for number, left in merged.left.items():
            told = f"shard {number}: {left} studies are left; cxrbatch work {quote(str(out))} --shard {number}"
            console.print(told, markup=False, highlight=False)
        if merged.left:
            told = f"By Slurm, with the script that it was: sbatch --array={_as_array(merged.left)}"
            console.print(told, markup=False, highlight=False)
    return merged.exit_code


def _as_array(numbers: Iterable[int]) -> str:
    """Return numbers that rise in the words of sbatch: 0-2,5."""
    ends: list[list[int]] = []
    for number in numbers:
        if ends and number == ends[-1][-1] + 1:
            ends[-1][1:] = [number]
        else:
            ends.append([number])
    return ",".join("-".join(map(str, each)) for each in ends)
