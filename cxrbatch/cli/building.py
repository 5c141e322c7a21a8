"""The commands that make engines, and checkpoints to make them of: build, adjust, import."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.data_options import data_options, read_data_options
from cxrbatch.cli.group import commands
from cxrbatch.cli.options import (
    BATCH,
    EXISTING,
    FILE,
    NEW_FILE,
    NEW_FOLDER,
    PROCESSES,
    SEED,
    Command,
    add_options,
    split_list,
)
from cxrbatch.cli.terminal import counting, open_console, say
from cxrbatch.errors import UsageError
from cxrbatch.system.standard_streams import put_work_first

if TYPE_CHECKING:
    from cxrbatch.model.build.build import BuildOptions
    from cxrbatch.model.data.options import DataOptions


def plan_options(command: Command) -> Command:
    """Add the options that say what a bundle holds beside its FP32 graph, and how its plans are built."""
    options = [
        click.option(
            "--backend", "backends", type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]), multiple=True,
            help="Also build for this backend; may be given twice.  [default: onnxruntime]",
        ),
        click.option(
            "--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True,
            help="fp16 adds a half-precision graph (TensorRT plans always have one), int8 a file for the CPU.",
        ),
        click.option("--onnx-only", is_flag=True, help="Build no plans; needs neither a GPU nor TensorRT."),
        click.option("--min-batch", type=BATCH, default=1, show_default=True, help="Smallest batch a plan accepts."),
        click.option("--opt-batch", type=BATCH, default=32, show_default=True, help="Batch size a plan is tuned for."),
        click.option("--max-batch", type=BATCH, default=128, show_default=True, help="Largest batch a plan accepts."),
        click.option(
            "--workspace", "workspace_mb", type=click.IntRange(0, 1_048_576), default=0, metavar="MB",
            help="GPU scratch memory a layer may use.  [default: all there is]",
        ),
        click.option("--version-compatible", is_flag=True, help="Let the plan run on later TensorRT versions, too."),
        click.option("--hardware-compatible", is_flag=True, help="Let the plan run on other GPUs from Ampere on, too."),
        click.option(
            "--compute-capability", "compute_capabilities", metavar="X.Y,...",
            help="GPUs a TensorRT-RTX plan is for.  [default: this machine's, or else 8.0,8.6,8.9,12.0]",
        ),
    ]  # fmt: skip
    return add_options(options, command)


def read_plan_options(options: dict[str, Any]) -> BuildOptions:
    """Make of what `plan_options` added what a build is asked for.

    Raises:
        UsageError: the batch sizes are not in order.
    """
    from cxrbatch.engine.manifest import BatchProfile
    from cxrbatch.model.build.build import BuildOptions
    from cxrbatch.model.build.tensorrt_build import PlanOptions

    sizes = [options.pop(name) for name in ("min_batch", "opt_batch", "max_batch")]
    try:
        profile = BatchProfile(*sizes)
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    capabilities = split_list(options.pop("compute_capabilities"))
    build = {name: options.pop(name) for name in ("backends", "precision", "onnx_only")}
    return BuildOptions(plan=PlanOptions(profile, compute_capabilities=capabilities, **options), **build)


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
