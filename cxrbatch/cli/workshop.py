"""The commands of the workshop: describe, import, evaluate, compare, build, adjust."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.data_options import data_options, read_data_options
from cxrbatch.cli.group import commands
from cxrbatch.cli.options import (
    BACKENDS,
    BATCH,
    COUNT,
    EXISTING,
    FILE,
    NEW_FILE,
    NEW_FOLDER,
    PRECISIONS,
    PROCESSES,
    SEED,
    plan_options,
    read_plan_options,
    split_list,
)
from cxrbatch.cli.speaking import page_locale_option
from cxrbatch.cli.terminal import counting, open_console, say
from cxrbatch.errors import UsageError
from cxrbatch.system.standard_streams import put_work_first

if TYPE_CHECKING:
    from cxrbatch.model.build.build import BuildOptions
    from cxrbatch.model.data.options import DataOptions


@commands.command(short_help="Build an engine from a checkpoint and install it.")
@click.argument("checkpoints", metavar="CHECKPOINT...", type=FILE, nargs=-1, required=True)
@click.option("-n", "--name", required=True, metavar="NAME", help="Name of the engine and of its folder.")
@click.option(
    "--engines",
    "engines_folder",
    type=NEW_FOLDER,
    default=Path("engines"),
    show_default=True,
    help="Folder to build engines in.",
)
@plan_options
@click.option("--urgent", metavar="A,B,...", help="Labels whose finding makes a study urgent.  [default: CHECKPOINT's]")
@click.option("--mirror", is_flag=True, help="Score the mirror image as well and average; twice the work.")
@click.option("--embeddings", is_flag=True, help="Let the engine give each image's pooled features, too.")
@click.option("--data", type=EXISTING, help="Labelled images for the comparison.  [default: phantoms]")
@data_options
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed for splitting DATA.")
def build(checkpoints: tuple[Path, ...], name: str, engines_folder: Path, data: Path | None, **options: Any) -> None:
    """Build an engine from CHECKPOINT, and install it if it agrees with the checkpoint.

    Every engine runs on ONNX Runtime. --backend adds what a GPU needs: a TensorRT plan is built on the GPU that it
    is for, a TensorRT-RTX plan anywhere. Everything is compared with the checkpoint on the validation images of DATA;
    an INT8 file is calibrated on its training images, and may lose at most 0.005 of AUROC. An engine of the same name
    is replaced, in one step, once the new one has passed.

    Several checkpoints, of folds or seeds, become one engine: an ensemble that averages their calibrated logits and
    their heatmaps, and says how far they disagree. What an ensemble or a mirrored network reaches is measured on those
    images of DATA that taught it nothing, and its operating points are chosen there; without DATA they are the means
    of the checkpoints'.

    \b
    Examples:
      cxrbatch build model.safetensors -n pneumonia
      cxrbatch build model.safetensors -n pneumonia --backend tensorrt --opt-batch 64 --data nih256
      cxrbatch build model.safetensors -n pneumonia --backend tensorrt-rtx --compute-capability 8.9,12.0
      cxrbatch build model.safetensors -n pneumonia --precision int8 --data nih256
      cxrbatch build folds-training/fold-*.safetensors -n ensemble --data /data/elsewhere
    """
    from cxrbatch.model.build.build import BuildReport, build_engine
    from cxrbatch.system.progress import RunProgress

    put_work_first()
    urgent = options.pop("urgent")
    data_wanted = read_data_options(options)
    asked = {name: options.pop(name) for name in ("mirror", "embeddings")}
    wanted = replace(read_plan_options(options), urgent=None if urgent is None else split_list(urgent), **asked)
    if data:
        wanted = _compare_on(wanted, data, data_wanted)
    console = open_console()
    with RunProgress(console) as progress:
        report = BuildReport(say=partial(console.print, highlight=False, markup=False), advance=progress.show)
        bundle = build_engine(checkpoints, name, engines_folder=engines_folder, options=wanted, report=report)
    for role, figures in bundle.manifest.parity.items():
        if figures == "pending":
            say(f"{role}: not compared yet; the first machine that loads it does, and refuses it if it differs")
    say(f"built {bundle.folder}; run it with: cxrbatch run INPUT -o OUT -e {bundle.folder}")


def _compare_on(wanted: BuildOptions, data: Path, options: DataOptions) -> BuildOptions:
    from cxrbatch.model.build.images import read_gate_images, read_int8_images
    from cxrbatch.model.build.measure import measure_checkpoint

    return replace(
        wanted,
        choose_gate_images=partial(read_gate_images, data, options),
        choose_int8_images=partial(read_int8_images, data, options),
        measure=partial(measure_checkpoint, data, options, say=say),
    )


@commands.command(short_help="Make a new engine of another: urgent labels, operating points, local calibration.")
@click.argument("engine", metavar="ENGINE")
@click.option("-n", "--name", required=True, metavar="NAME", help="Name of the new engine and of its folder.")
@click.option(
    "--engines",
    "engines_folder",
    type=NEW_FOLDER,
    default=Path("engines"),
    show_default=True,
    help="Folder to put the new engine in.",
)
@click.option(
    "--urgent", metavar="A,B,...", help='Labels whose finding makes a study urgent; "" for none.  [default: ENGINE\'s]'
)
@click.option(
    "--operating-point",
    "points",
    default="",
    metavar="RULE",
    help="A rule as for train, on DATA; or values: fixed=0.3, or by label: Mass=0.4,Hernia=none.  [default: ENGINE's]",
)
@click.option("--data", type=EXISTING, help="Local labelled images, to calibrate on and to place operating points on.")
@click.option("--boxes", type=FILE, help="Boxes on images of DATA, as for evaluate; they check where heatmaps point.")
@data_options
@click.option(
    "--split", default="all", show_default=True, metavar="PART", help="Images of DATA to use: train, val, test or all."
)
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="Calibrate on DATA, or only place points on it.  [default: calibrate; with --boxes, do not]",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed for splitting DATA.")
@click.option(
    "--workers", type=PROCESSES, metavar="N", help="Worker processes that read images.  [default: one per core]"
)
def adjust(engine: str, name: str, engines_folder: Path, **options: Any) -> None:
    """Make a new engine of ENGINE, which stays as it is: other urgent labels, operating points, local calibration.

    DATA is a folder or a table of labelled images, as for evaluate. The calibration fitted to it becomes part of every
    ONNX file; TensorRT plans cannot be changed and are left out. An operating point that is not asked for calls the
    same images as before. BOXES say which labels' heatmaps point at their finding, so that reports show those. The new
    engine is compared with its checkpoint before it is installed.

    \b
    Examples:
      cxrbatch adjust pneumonia -n ours --urgent Pneumothorax,Pneumonia
      cxrbatch adjust pneumonia -n ours --operating-point Pneumonia=0.4
      cxrbatch adjust pneumonia -n ours --data /data/hospital --operating-point sensitivity=0.95
      cxrbatch adjust pneumonia -n checked --data /data/hospital --boxes boxes.csv
    """
    from cxrbatch.cli.print_model import print_adjustment
    from cxrbatch.model.build.adjust import AdjustOptions, AdjustReport, adjust_engine
    from cxrbatch.model.build.decision import parse_points
    from cxrbatch.model.build.local_images import LocalData
    from cxrbatch.settings_sources import load_settings

    put_work_first()
    data, split, urgent = options.pop("data"), options.pop("split"), options.pop("urgent")
    points, calibrate, boxes = parse_points(options.pop("points")), options.pop("calibrate"), options.pop("boxes")
    calibrate = boxes is None if calibrate is None else calibrate
    if boxes is not None and data is None:
        raise UsageError("boxes: they are on images of DATA; name it with --data.")
    settings = load_settings({"workers": options.pop("workers")})
    read = read_data_options(options)
    local = None if data is None else LocalData(place=data, options=read, split=split, settings=settings, boxes=boxes)
    wanted = AdjustOptions(
        urgent=None if urgent is None else split_list(urgent), points=points, data=local, calibrate=calibrate
    )
    console = open_console()
    with counting(console, "images scored") as images:
        report = AdjustReport(say=say, images=images)
        made = adjust_engine(engine, name, engines_folder=engines_folder, options=wanted, report=report)
    print_adjustment(console, made)


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
    from cxrbatch.cli.print_model import print_evaluation
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
    from cxrbatch.cli.print_model import print_comparison
    from cxrbatch.model.compare.compare import compare_models
    from cxrbatch.model.compare.report import COMPARE_HTML

    put_work_first()
    console = open_console()
    with counting(console, "models timed") as report:
        comparison = compare_models(runs, out, report=report, **options)
    print_comparison(console, comparison, out / COMPARE_HTML)


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


@commands.command("import", short_help="Turn weights from elsewhere into a checkpoint.")
@click.argument("weights", metavar="WEIGHTS", type=NEW_FILE)  # a missing file is told where to get it
@click.option("-o", "--output", "out", metavar="CHECKPOINT", type=NEW_FILE, required=True, help="The new checkpoint.")
@click.option(
    "--format",
    "weights_format",
    type=click.Choice(["torchxrayvision", "torchvision", "chexnet"]),
    required=True,
    help="Who wrote WEIGHTS: this decides how they are named and scaled.",
)
@click.option("--labels", metavar="A,B,...", help="What the outputs mean, in their order.  [required for torchvision]")
@click.option(
    "--task",
    type=click.Choice(["multilabel", "binary", "multiclass"]),
    default="multilabel",
    show_default=True,
    help="multiclass: a softmax over the outputs; otherwise a sigmoid of each.",
)
@click.option(
    "--image-size",
    "size_px",
    type=click.IntRange(0, 4096),
    default=0,
    metavar="PX",
    help="Side of the square that the network sees.  [default: the format's own]",
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad", "stretch"]),
    default="crop",
    show_default=True,
    help="How an image is fitted into it.",
)
def import_(weights: Path, out: Path, **options: Any) -> None:
    """Turn WEIGHTS that others trained into a checkpoint, which `build` and `evaluate` take like any other.

    WEIGHTS is a state dict (torch.save or safetensors); a pickle that would have to run code is refused.
    Labels that the weights were not trained on are left out; labels without thresholds of their own get no
    operating point, and so no verdict.

    \b
    Examples:
      cxrbatch import pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt -o xrv.safetensors --format torchxrayvision
      cxrbatch import model.pth.tar -o chexnet.safetensors --format chexnet
      cxrbatch import mine.pth -o mine.safetensors --format torchvision --labels Normal,Pneumonia --task multiclass
    """
    from cxrbatch.model.network.import_weights import ImportOptions, import_weights

    put_work_first()
    labels = split_list(options.pop("labels"))
    imported = import_weights(weights, out, ImportOptions(labels=labels, **options))
    facts = imported.facts
    say(f"{out}: {facts.architecture}, {facts.input.size_px} px, {len(facts.labels)} labels")
    if imported.left_out:
        say(f"left out, since WEIGHTS have no threshold for them: {', '.join(imported.left_out)}")
