"""The commands that measure labelled images, and models on them: describe, evaluate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cxrbatch.cli.data_options import data_options, read_data_options
from cxrbatch.cli.group import commands
from cxrbatch.cli.options import (
    BACKENDS,
    BATCH,
    COUNT,
    EXISTING,
    FILE,
    NEW_FOLDER,
    PRECISIONS,
    PROCESSES,
    SEED,
)
from cxrbatch.cli.speaking import page_locale_option
from cxrbatch.cli.terminal import counting, open_console, say
from cxrbatch.system.standard_streams import put_work_first


@commands.command(short_help="Describe labelled images before training on them.")
@click.argument("data", metavar="DATA", type=EXISTING)
@click.option("-o", "--output", "out", metavar="DIR", type=NEW_FOLDER, required=True, help="Folder for the page.")
@data_options
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed for splitting DATA and choosing the images shown."
)
@click.option(
    "--workers",
    type=PROCESSES,
    default=0,
    metavar="N",
    help="Worker processes that read images.  [default: one per core]",
)
@page_locale_option
def describe(data: Path, out: Path, workers: int, **options: Any) -> None:
    """Describe labelled DATA before training on it: a page with plots and images, and tables as CSV.

    DATA is a folder with labels.csv, a folder with the NIH table, a folder with one folder per class, or a table.
    The page counts labels by part (train, val, test), sex, age and view, and lists leaks, duplicates and files that
    cannot be read.

    \b
    Examples:
      cxrbatch describe nih256 -o about-nih256
      cxrbatch describe CheXpert-v1.0-small -o about --labels Edema,Fracture --uncertain ones
      cxrbatch describe Data_Entry_2017_v2020.csv.gz -o about --binary "No Finding"
    """
    from cxrbatch.model.describe.describe import INDEX_HTML, describe_data

    put_work_first()
    console = open_console()
    with counting(console, "images read") as report:
        summary = describe_data(data, read_data_options(options), out, workers=workers, report=report)
    for sentence in (*summary.notes, *summary.leaks):
        say(sentence)
    unknown = f" and {summary.of_unknown} of unknown ones" if summary.of_unknown else ""
    say(f"{summary.images} images of {summary.patients} patients{unknown}: {out / INDEX_HTML}")


@commands.command(short_help="Measure how good a model is on labelled images.")
@click.argument("model", metavar="MODEL")
@click.argument("data", metavar="DATA", type=EXISTING)
@click.option("-o", "--output", "out", metavar="DIR", type=NEW_FOLDER, required=True, help="Folder for the results.")
@click.option(
    "--split", default="test", show_default=True, metavar="PART", help="Images to use: train, val, test or all."
)
@data_options
@click.option(
    "--allow-leak", is_flag=True, help="Go on although a patient or image is in two parts; the report says so."
)
@click.option(
    "--bootstrap", "resamples", type=COUNT, default=1000, show_default=True, help="Bootstrap resamples; 0 for none."
)
@click.option("--boxes", type=FILE, help="Table of boxes: BBox_List_2017.csv[.gz].  [default: the one in DATA, if any]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the resamples and for splitting DATA.")
@click.option("--backend", type=click.Choice(BACKENDS), help="What an engine runs on.  [default: auto]")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Which of the engine's files is run.  [default: on a CPU int8 if it passed its gate, else fp32]",
)
@click.option("--threads", type=PROCESSES, metavar="N", help="CPU cores the engine may use.  [default: all]")
@click.option(
    "--workers", type=PROCESSES, metavar="N", help="Worker processes that read images.  [default: one per core]"
)
@page_locale_option
def evaluate(model: str, data: Path, out: Path, **options: Any) -> None:
    """Measure how good MODEL is on labelled DATA; write metrics.json, predictions.csv, plots and evaluation.html.

    MODEL is a checkpoint (*.safetensors) or an engine (its folder or its name). DATA is a folder or a table, as for
    training. Figures come with 95 % confidence intervals over patients, by sex, age and view, and beside what trivial
    predictors such as the view position reach; also what the worklist of these studies is worth, and which of the
    patients the model knows from its training.

    \b
    Examples:
      cxrbatch evaluate model.safetensors nih256 -o evaluation --split val
      cxrbatch evaluate pneumonia /data/hospital -o external --split all
      cxrbatch evaluate engines/four /data/four -o four --boxes BBox_List_2017.csv
    """
    from cxrbatch.cli.print_measured import print_evaluation
    from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
    from cxrbatch.model.evaluate.report import EVALUATION_HTML
    from cxrbatch.settings_sources import load_settings

    put_work_first()
    settings = load_settings({name: options.pop(name) for name in ("backend", "precision", "threads", "workers")})
    seed = options["seed"]
    wanted = EvaluationOptions(data=read_data_options(options), seed=seed, settings=settings, **options)
    console = open_console()
    with counting(console, "images scored") as report:
        evaluation = evaluate_model(model, data, out, wanted, report=report)
    print_evaluation(console, evaluation, out / EVALUATION_HTML)


@commands.command(short_help="Compare trained models side by side.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("-o", "--output", "out", metavar="DIR", type=NEW_FOLDER, required=True, help="Folder for the tables.")
@click.option("--measure/--no-measure", default=True, show_default=True, help="Time each model on this machine.")
@click.option(
    "--batch-size", type=BATCH, default=8, show_default=True, metavar="N", help="Images per call when timing."
)
@click.option("--threads", type=PROCESSES, default=0, metavar="N", help="CPU cores for each model.  [default: all]")
@page_locale_option
def compare(runs: tuple[str, ...], out: Path, **options: Any) -> None:
    """Set trained models side by side: figures, size and speed; write compare.csv, compare.json and compare.html.

    A RUN is a checkpoint (*.safetensors), an engine (its folder or its name), or a folder that evaluate wrote.
    Figures come from the evaluation where one is given (it shares a row with its model), otherwise from the
    model's own training. Where they were measured on different images, the table says so. Every two evaluations are
    also compared on the images that both scored: who is better in what, and whether that is more than chance.

    \b
    Examples:
      cxrbatch compare small.safetensors large.safetensors -o side-by-side
      cxrbatch compare figures-small figures-large -o side-by-side --no-measure
    """
    from cxrbatch.cli.print_measured import print_comparison
    from cxrbatch.model.compare.compare import compare_models
    from cxrbatch.model.compare.report import COMPARE_HTML

    put_work_first()
    console = open_console()
    with counting(console, "models timed") as report:
        comparison = compare_models(runs, out, report=report, **options)
    print_comparison(console, comparison, out / COMPARE_HTML)
