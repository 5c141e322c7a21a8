"""What `run` and `engines` print: the summary of a run, and a table of the installed engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cxrbatch.config import MARKER_FILE
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.installed import engine_folders, installed_bundles
from cxrbatch.engine.int8_gate import INT8, int8_obstacle
from cxrbatch.engine.manifest import PENDING, Manifest
from cxrbatch.engine.open import runnable
from cxrbatch.output.report.findings import engine_coverage
from cxrbatch.output.run_json import RUN_FILE, RunReport
from cxrbatch.output.worklist import INDEX_HTML
from cxrbatch.pages.terminal_text import TITLE, literal
from cxrbatch.pages.wording import counts

if TYPE_CHECKING:
    from cxrbatch.run.forecast import Forecast

FAILURES_SHOWN = 5


def print_summary(console: Console, report: RunReport, out: Path) -> None:
    """Print what a run did, what every file became, and where to look."""
    engine = report.engine
    table = Table(title=literal(f"{engine.name} on {engine.backend}, {engine.precision}", TITLE), show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("files", counts(report.files))
    table.add_row("studies", counts(report.studies))
    if report.reasons:
        table.add_row("refused for", counts(report.reasons))
    rate = report.studies_this_run / report.wall_s if report.wall_s else 0.0
    table.add_row("this run", f"{report.studies_this_run} studies in {report.wall_s:.1f} s ({rate:.1f}/s)")
    console.print(table)
    if engine.notice:
        console.print(literal(engine.notice, "yellow"), highlight=False)
    if unjudged := engine_coverage(engine.labels):
        console.print(literal(unjudged, "yellow"), highlight=False)
    _print_what_is_left(console, report)
    # Not in the table, which would break a long path into pieces that nobody can copy.
    console.print(literal(f"Worklist: {(out / INDEX_HTML).resolve()}"), highlight=False)


def _print_what_is_left(console: Console, report: RunReport) -> None:
    """Say what the next run will try again, and why it is not done."""
    for key, message in list(report.failures.items())[:FAILURES_SHOWN]:
        console.print(literal(f"study {key}: {message}"), highlight=False)
    if (hidden := len(report.failures) - FAILURES_SHOWN) > 0:
        console.print(f"... and {hidden} more in {RUN_FILE}")
    if report.folders_unlistable:
        console.print(f"[yellow]{report.folders_unlistable} folders of the input cannot be listed.[/yellow]")
    if report.folders_hidden:
        console.print(
            f"[yellow]{report.folders_hidden} folders of the input were left out with all that is below: their "
            f"{MARKER_FILE} says that cxrbatch wrote them.[/yellow]"
        )
    if report.is_something_left:
        console.print("[yellow]Not everything is done; run the same command again to try the rest again.[/yellow]")


def print_forecast(console: Console, forecast: Forecast) -> None:
    """Print what a run would do."""
    engine, indexed = forecast.engine, forecast.indexed
    table = Table(title=literal(f"would run {engine.name} on {engine.backend}, {engine.precision}", TITLE))
    table.show_header = False
    table.add_column(style="bold")
    table.add_column()
    table.add_row("files", ", ".join(f"{number} {what}" for what, number in forecast.files.items()))
    table.add_row("would be refused for", counts(forecast.refused))
    table.add_row("would be scored", f"{forecast.studies} studies, {forecast.images} images")
    if indexed.deferred:
        table.add_row("cannot be read now", f"{indexed.deferred} files")
    if indexed.unlistable:
        table.add_row("cannot be listed now", f"{indexed.unlistable} folders")
    console.print(table)
    console.print(
        "Nothing was changed. Only headers were read; what only pixels tell is found by the run.", highlight=False
    )


def print_engines(console: Console) -> None:
    """Print every installed engine bundle."""
    bundles = installed_bundles()
    if not bundles:
        looked_in = ", ".join(str(folder) for folder in engine_folders())
        console.print(literal(f"No engine found in {looked_in}. `cxrbatch demo` makes one to try."), highlight=False)
        return
    for bundle in bundles:
        # A table each: side by side, what there is to tell of an engine fits no terminal.
        title = literal(f"{bundle.name}, built {bundle.manifest.created[:10]}", TITLE)
        table = Table(title=title, show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for what, told in _describe_engine(bundle).items():
            table.add_row(what, told)
        console.print(table)
        console.print(literal(str(bundle.folder)), highlight=False)


def _describe_engine(bundle: EngineBundle) -> dict[str, Text]:
    manifest = bundle.manifest
    aurocs = [label.metrics["auroc"] for label in manifest.labels if "auroc" in label.metrics]
    told = {
        "scores": ", ".join(label.name for label in manifest.labels),
        "judges": engine_coverage(manifest.labels) or "all of them",
        "network": f"{manifest.architecture}, {manifest.input.size_px} px",
        "macro AUROC": f"{sum(aurocs) / len(aurocs):.3f}" if aurocs else "not measured",
        "files": ", ".join(f"{role} ({file.precision})" for role, file in manifest.files.items()),
        "runs here on": ", ".join(f"{choice.backend} {choice.precision}" for choice in runnable(bundle)) or "nothing",
    }
    gate = [literal(line) for line in _gate_results(manifest)] or [literal("not compared with a checkpoint")]
    return {what: literal(text) for what, text in told.items()} | {"its gate": Text("\n").join(gate)}


def _gate_results(manifest: Manifest) -> Iterator[str]:
    """Say how far each file's probabilities are from the checkpoint's, and what AUROC that costs."""
    for role, figures in manifest.parity.items():
        if figures == PENDING:
            yield f"{role}: pending; the first machine that loads it compares"
            continue
        change = f"{role}: probabilities within {figures.max_probability_change:.1g} of the checkpoint's"
        accuracy = manifest.accuracy.get(role)
        yield change if accuracy is None else f"{change}, AUROC {-accuracy.drop:+.4f}"
    if INT8 in manifest.files and (obstacle := int8_obstacle(manifest)):
        yield f"{INT8}: not the default on a CPU: {obstacle}"
