"""The commands that score studies: run, watch, report, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.clustering import cluster_option, means_on
from cxrbatch.cli.group import commands
from cxrbatch.cli.options import EXISTING, FOLDER, NEW_FOLDER, SEED
from cxrbatch.cli.peer_options import sending_options
from cxrbatch.cli.run_options import (
    deidentify_options,
    loudness_options,
    scoring_options,
    settings_options,
    trust_folder_mtime_option,
)
from cxrbatch.cli.terminal import open_console, open_terminal, say
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.system.standard_streams import put_work_first

if TYPE_CHECKING:
    from rich.console import Console

    from cxrbatch.config import Settings


@commands.command(short_help="Score all studies in a folder, or a single file.")
@click.argument("input_path", metavar="INPUT", type=EXISTING)
@click.option("-o", "--output", "out", metavar="OUT", type=NEW_FOLDER, required=True, help="Folder for all results.")
@scoring_options
@click.option("--limit", type=int, metavar="N", help="Process at most N studies in this run.  [default: all]")
@click.option(
    "--retry",
    type=click.Choice(["failed", "rejected"]),
    help="Try again what has not changed: failed studies (every run does so), or refused files as well.",
)
@click.option(
    "--since",
    metavar="WHEN",
    help="Only studies with a file modified since a date (2026-11-20) or within a time (36h, 7d).",
)
@click.option("--deadline", metavar="HH:MM", help="Start no study that would not be finished by then; the rest waits.")
@trust_folder_mtime_option
@click.option(
    "--input-emptied",
    is_flag=True,
    default=None,
    help="Confirm that INPUT was emptied on purpose, and is no unmounted share.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done, going by the headers; change nothing.")
@cluster_option
@settings_options
@loudness_options
def run(
    input_path: Path, out: Path, config_file: Path | None, since: str | None, deadline: str | None, **options: Any
) -> int:
    """Score all studies in INPUT, a folder or a single file, and write tables and reports to OUT.

    A second run on the same OUT processes only what is new, has changed, failed before, or was scored by another
    engine.

    \b
    Examples:
      cxrbatch run /pacs/incoming -o /results
      cxrbatch run images -o results -e engines/demo --no-pdf
      cxrbatch run image.dcm -o result
      cxrbatch run /pacs/incoming -o /results --dry-run
      cxrbatch run /pacs/incoming -o /results --newest-first --since 7d --deadline 06:00
    """
    from cxrbatch.run.processes import open_workers
    from cxrbatch.settings_sources import load_settings

    loudness, is_dry, cluster = (options.pop(name) for name in ("loudness", "dry_run", "cluster"))
    if not is_dry:
        put_work_first()
    settings = load_settings(options, config_file=config_file)
    with open_terminal(loudness) as console:
        if is_dry:
            return _foresee(console, input_path, out, settings, since)
        prints = cluster is None
        with open_workers(settings, ahead_of=out, prints=prints) as workers, means_on(cluster, workers) as means:
            # Loaded while a worker gets ready: that takes both as long.
            from cxrbatch.cli.print_run import print_summary
            from cxrbatch.run.batch import run_batch
            from cxrbatch.run.schedule import Hours
            from cxrbatch.system.progress import RunProgress

            hours = Hours.parse(since, deadline)
            with RunProgress(console) as progress:
                report = run_batch(input_path, out, settings, progress, hours=hours, means=means)
        print_summary(console, report, out)
    return report.exit_code


def _foresee(console: Console, input_path: Path, out: Path, settings: Settings, since: str | None) -> int:
    """Print what a run would do."""
    from cxrbatch.cli.print_run import print_forecast
    from cxrbatch.run.forecast import foresee_run
    from cxrbatch.run.schedule import Hours
    from cxrbatch.system.progress import RunProgress

    since_ns = Hours.parse(since).since_ns
    with RunProgress(console) as progress:
        forecast = foresee_run(input_path, out, settings, progress, since_ns=since_ns)
    print_forecast(console, forecast)
    return ExitCode.DONE


class WatchedFolder(click.Path):
    """A folder to watch; of a file it says which command takes one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the folder, or end with what is wrong with it."""
        if Path(value).is_file():
            self.fail(f"{value} is a file, and watch needs a folder; `cxrbatch run` takes a single file.", param, ctx)
        return super().convert(value, param, ctx)


WATCHED_FOLDER = WatchedFolder(exists=True, file_okay=False, path_type=Path)


@commands.command(short_help="Watch a folder and score each study once it is complete.")
@click.argument("input_folder", metavar="INPUT", type=WATCHED_FOLDER)
@click.option("-o", "--output", "out", metavar="OUT", type=NEW_FOLDER, required=True, help="Folder for all results.")
@scoring_options
@trust_folder_mtime_option
@click.option(
    "--settle",
    "settle_s",
    type=float,
    metavar="S",
    help="Seconds without change until a file is complete.  [default: 60]",
)
@click.option(
    "--max-wait",
    "max_wait_s",
    type=float,
    metavar="S",
    help="Seconds until an incomplete study is taken as it is.  [default: 1800]",
)
@click.option(
    "--interval", "interval_s", type=float, metavar="S", help="Seconds between looks at INPUT.  [default: 10]"
)
@click.option("--metrics-port", type=int, metavar="PORT", help="Serve /metrics and /healthz on this port of 127.0.0.1.")
@click.option("--once", is_flag=True, help="Look once, wait for the files to settle, process them, and exit.")
@click.option("--reload-engine", is_flag=True, default=None, help="Switch to the engine on disk when it is replaced.")
@sending_options
@settings_options
@loudness_options
def watch(input_folder: Path, out: Path, config_file: Path | None, *, once: bool, **options: Any) -> int:
    """Watch INPUT and score each study as soon as it is complete, until told to stop.

    A study is complete when its files have not changed for --settle seconds and none is cut short, or when its
    folder contains a file named .complete. Ctrl-C or SIGTERM stops cleanly; SIGHUP reads the settings file again.

    \b
    Examples:
      cxrbatch watch /pacs/incoming -o /results
      cxrbatch watch /pacs/incoming -o /results --settle 30 --newest-first
      cxrbatch watch /pacs/incoming -o /results --once
    """
    import signal

    from cxrbatch.cli.print_run import print_summary
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.system.progress import RunProgress
    from cxrbatch.system.stopping import Stopped
    from cxrbatch.watch.daemon import Requests, watch_folder

    put_work_first()
    requests = Requests()
    signal.signal(signal.SIGHUP, lambda *_: setattr(requests, "reload", True))
    with open_terminal(options.pop("loudness")) as console:
        with RunProgress(console, counts=False) as progress:
            try:
                report = watch_folder(
                    input_folder,
                    out,
                    lambda: load_settings(options, config_file=config_file),
                    progress,
                    once=once,
                    requests=requests,
                )
            except Stopped:
                if once:
                    raise
                return ExitCode.DONE  # before it was at work: a daemon that is asked to stop has done what it should
        print_summary(console, report, out)
    return report.exit_code if once else ExitCode.DONE


@commands.command(short_help="Write the reports of a finished run again.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--study", "study_key", default="", metavar="KEY", help="Only the report of this study.  [default: all]")
@deidentify_options
@settings_options
@loudness_options
def report(out: Path, study_key: str, loudness: str | None, config_file: Path | None, **options: Any) -> int:
    """Write the reports in OUT again, from its ledger and pictures; no engine is needed.

    \b
    Examples:
      cxrbatch report /results
      cxrbatch report /results --study 0f3a9c1e5b7d2468 --no-pdf
    """
    from cxrbatch.settings_sources import load_settings
    from cxrbatch.system.progress import RunProgress
    from cxrbatch.upkeep.reprint import reprint_reports

    put_work_first()
    settings = load_settings(options, config_file=config_file)
    if not settings.html and not settings.pdf and not settings.object_kinds:
        raise UsageError("nothing to print: --no-html and --no-pdf together leave no report.")
    with open_terminal(loudness) as console, RunProgress(console) as progress:
        failures = reprint_reports(out, settings, progress, study_key=study_key)
    for key, failure in failures.items():
        say(f"study {key}: {failure}", err=True)
    return ExitCode.SOME_STUDIES_FAILED if failures else ExitCode.DONE


@commands.command(short_help="Try everything on synthetic studies, engine included.")
@click.option("-o", "--output", "out", type=NEW_FOLDER, default=Path("demo"), show_default=True, help="Folder to fill.")
@click.option(
    "--studies", type=click.IntRange(4, 100_000), default=24, show_default=True, help="Number of studies to make."
)
@click.option("--seed", type=SEED, default=7, show_default=True, help="Seed of the studies.")
def demo(out: Path, studies: int, seed: int) -> int:
    """Make synthetic studies, train a small engine on phantoms, score the studies, and say where to look.

    The first time takes a few minutes; after that the engine is there and is used again. It knows synthetic
    phantoms only: its scores on real radiographs mean nothing.
    """
    from cxrbatch.cli.print_run import print_summary
    from cxrbatch.demo.run import RESULTS, run_demo

    put_work_first()
    console = open_console()
    made = run_demo(out, n_studies=studies, seed=seed, console=console)
    print_summary(console, made, out / RESULTS)
    return made.exit_code
