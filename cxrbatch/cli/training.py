"""The command that trains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.data_options import data_options, read_data_options
from cxrbatch.cli.group import commands
from cxrbatch.cli.options import (
    BATCH,
    COUNT,
    EXISTING,
    FRACTION,
    NEW_FILE,
    PROCESSES,
    SEED,
    Command,
    NumberRange,
    add_options,
    split_list,
)
from cxrbatch.cli.speaking import page_locale_option
from cxrbatch.cli.terminal import Counting, open_console
from cxrbatch.system.standard_streams import put_work_first

if TYPE_CHECKING:
    from rich.console import Console

    from cxrbatch.model.train.record import Listener, TrainingPlan

ARCHITECTURES = (
    "resnet50",
    "resnet18",
    "densenet121",
    "vgg16_bn",
    "inception_v3",
    "efficientnet_b0",
    "efficientnet_b4",
)
OPTIMIZERS = ("adamw", "adam", "adamax", "rmsprop", "sgd")
SCHEDULES = ("one-cycle", "cosine", "plateau")
_DEVICES = re.compile(r"auto|cpu(:[1-9]\d{0,3})?|[1-9]\d{0,3}|\d{1,4}(,\d{1,4})+")
KEEP = ("auto", "best", "last")
POOLING = ("average", "attention")
LOSSES = ("bce", "weighted-bce", "focal", "ce", "weighted-ce")


def _read_devices(_context: click.Context, _option: click.Parameter, given: str) -> str:
    """Refuse what names no devices before anything is loaded."""
    if not _DEVICES.fullmatch(given):
        raise click.BadParameter(f"{given!r} is none of auto, cpu, a number of GPUs, or which: 0,2.")
    return given


def network_options(command: Command) -> Command:
    """Add the options that say what the network is and what it starts from."""
    options = [
        click.option(
            "--architecture", type=click.Choice(ARCHITECTURES),
            help="The network.  [default: what the file of --init holds; else resnet50, without --init and below 2,000 "
            "training images densenet121]",
        ),
        click.option(
            "--init", default="none", show_default=True, metavar="WEIGHTS",
            help="Start from random weights (none), torchvision's ImageNet weights (imagenet), or a file.",
        ),
        click.option(
            "--image-size", "size_px", type=click.IntRange(64, 1024), default=224, show_default=True, metavar="PX",
            help="Side of the square that the network sees.",
        ),
        click.option(
            "--fit", type=click.Choice(["pad", "crop", "stretch"]), default="pad", show_default=True,
            help="How an image is fitted into it.",
        ),
        click.option(
            "--output-stride", type=click.Choice(["16", "32"]),
            help="Pixels per cell of a heatmap; 16 is finer and slower (ResNets).  [default: 32]",
        ),
        click.option(
            "--pooling", type=click.Choice(POOLING), default="average", show_default=True,
            help="How the cells of a heatmap become a score: all alike, or weighed by learned attention.",
        ),
    ]  # fmt: skip
    return add_options(options, command)


def learning_options(command: Command) -> Command:
    """Add the options that say how the network learns."""
    options = [
        click.option(
            "--epochs", type=click.IntRange(1, 100_000), metavar="N",
            help="Passes over the training images.  [default: as many as make 600 steps, at least 16]",
        ),
        click.option(
            "--batch-size", type=click.IntRange(2, 65_536), metavar="N",
            help="Images per batch.  [default: 16, from 2,000 training images on 32]",
        ),
        click.option("--accumulate", type=BATCH, default=1, show_default=True, metavar="N", help="Batches per step."),
        click.option(
            "--lr", "learning_rate", type=NumberRange(0, 100, min_open=True), metavar="RATE",
            help="Peak learning rate.  [default: depends on the optimizer]",
        ),
        click.option(
            "--weight-decay", type=NumberRange(0, 100), default=0.02, show_default=True, metavar="X",
            help="Weight decay.",
        ),
        click.option(
            "--optimizer", type=click.Choice(OPTIMIZERS), default="adamw", show_default=True, help="The optimizer."
        ),
        click.option(
            "--schedule", type=click.Choice(SCHEDULES), default="one-cycle", show_default=True,
            help="How the learning rate changes.",
        ),
        click.option("--loss", type=click.Choice(LOSSES), help="The loss.  [default: bce for labels, ce for classes]"),
        click.option(
            "--freeze", type=COUNT, default=0, show_default=True, metavar="N",
            help="Leave the first N stages of the network as they are.",
        ),
        click.option(
            "--unfreeze-after", type=COUNT, default=0, metavar="N",
            help="Train them, too, after N epochs.  [default: never]",
        ),
        click.option(
            "--average", type=FRACTION, default=0.98, show_default=True, metavar="DECAY",
            help="Keep a moving average of the weights; 0 keeps those of the last step.",
        ),
        click.option(
            "--keep", type=click.Choice(KEEP), default="auto", show_default=True,
            help="The epoch to keep. auto: the best one with --patience or 1,000 validation images, else the last.",
        ),
        click.option(
            "--patience", type=COUNT, default=0, metavar="N",
            help="Stop after N epochs without improvement.  [default: never]",
        ),
    ]  # fmt: skip
    return add_options(options, command)


def seeing_options(command: Command) -> Command:
    """Add the options that say how the network sees the images while it learns."""
    options = [
        click.option(
            "--augment", type=click.Choice(["none", "light", "strong"]), default="light", show_default=True,
            help="How much training images are varied.",
        ),
        click.option(
            "--flip/--no-flip", default=None,
            help="Mirror images as well, although that puts the heart on the right.  [default: below 2,000 training "
            "images]",
        ),
        click.option(
            "--balance", type=FRACTION, default=0.1, show_default=True, metavar="SHARE",
            help="Draw images with a label rarer than this more often; 0 draws all alike.",
        ),
        click.option(
            "--small-epochs", type=COUNT, metavar="N",
            help="Do the first N epochs at half the image size, in a quarter of the time.  [default: none; three of "
            "four from 4,000 training images on, where half the size is 112 px or more]",
        ),
    ]  # fmt: skip
    return add_options(options, command)


def machine_options(command: Command) -> Command:
    """Add the options that say where the training runs."""
    options = [
        click.option(
            "--devices", callback=_read_devices, default="auto", show_default=True,
            help="auto, cpu, a number of GPUs, or which of them: 0,2.",
        ),
        click.option(
            "--nodes", type=click.IntRange(1, 10_000), default=1, show_default=True,
            help="Number of machines, each with as many GPUs.",
        ),
        click.option(
            "--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True,
            help="bf16 computes with half the bits; auto uses it where that is faster.",
        ),
        click.option(
            "--workers", type=PROCESSES, default=0, metavar="N",
            help="Worker processes that read images.  [default: one per core]",
        ),
        click.option("--resume", is_flag=True, help="Continue an interrupted training of the same command."),
    ]  # fmt: skip
    return add_options(options, command)


@commands.command(short_help="Train a network on labelled images.")
@click.argument("data", metavar="DATA", type=EXISTING)
@click.option(
    "-o", "--output", "checkpoint", metavar="CHECKPOINT", type=NEW_FILE, required=True, help="File for the weights."
)
@data_options
@click.option(
    "--set-aside",
    type=FRACTION,
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Keep this share of the patients aside to calibrate and to choose operating points on, where DATA names no "
    "part calibration: the validation images then measure what they did not choose.",
)
@click.option(
    "--folds",
    type=click.IntRange(0, 1000),
    default=0,
    metavar="K",
    help="Cross-validate: train K networks, report mean and spread.",
)
@click.option("--ensemble", is_flag=True, help="Make CHECKPOINT of all folds together, not of the one in the middle.")
@click.option(
    "--allow-leak", is_flag=True, help="Go on although a patient or image is in two parts; the model says so."
)
@click.option(
    "--boxes",
    type=EXISTING,
    metavar="FILE",
    help="Boxes around findings, which teach the heatmaps: image, label, x, y, w, h in stored pixels, or NIH's list.",
)
@click.option(
    "--masks", type=EXISTING, metavar="FOLDER", help="Masks of findings, which do so too: FOLDER/LABEL/IMAGE.png."
)
@network_options
@learning_options
@seeing_options
@click.option(
    "--operating-point",
    default="youden",
    show_default=True,
    metavar="RULE",
    help="How operating points are chosen on the validation images: youden, f1, sensitivity=0.95, specificity=0.95, "
    "fixed=0.3, or alarms=5% (of the normal studies, over all findings together).",
)
@click.option(
    "--urgent", default="", metavar="A,B,...", help="Labels whose finding makes a study urgent.  [default: none]"
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of the split, the first weights and all else that is random.",
)
@click.option(
    "--log",
    default="",
    metavar="mlflow[=URI]",
    help="Log figures to MLflow as well, on the server at URI.  [default: TensorBoard's files alone]",
)
@machine_options
@page_locale_option
def train(data: Path, checkpoint: Path, **options: Any) -> None:
    """Train a network on labelled DATA; write CHECKPOINT.safetensors, and a report to CHECKPOINT-training.

    DATA is a folder with labels.csv, a folder with the NIH table, a folder with one folder per class, or a table.
    What is kept is calibrated on the validation images, or those set aside, and given an operating point for each
    label. Ctrl-C keeps what there is so far.

    \b
    Examples:
      cxrbatch train nih256 -o pneumonia.safetensors
      cxrbatch train /data/four -o four.safetensors --image-size 128 --augment strong
      cxrbatch train CheXpert -o chexpert.safetensors --labels Edema,Fracture --uncertain ones --init imagenet
      cxrbatch train nih256 -o folds.safetensors --folds 5 --operating-point sensitivity=0.95
    """
    from cxrbatch.cli.print_model import print_training
    from cxrbatch.model.train.checks import training_folder
    from cxrbatch.model.train.page import TRAINING_HTML
    from cxrbatch.model.train.train_model import train_model

    put_work_first()
    plan = _read_plan(options)
    console = open_console()
    with following(console) as listener:
        summary = train_model(data, checkpoint, plan, listener)
    print_training(console, summary, checkpoint, training_folder(checkpoint) / TRAINING_HTML)


def _read_plan(options: dict[str, Any]) -> TrainingPlan:
    from cxrbatch.model.figures.operating_points import parse_operating_point
    from cxrbatch.model.train.augment import AUGMENTATIONS
    from cxrbatch.model.train.options import TrainingOptions
    from cxrbatch.model.train.record import TrainingPlan

    seed = options["seed"]
    data = read_data_options(options)
    options["augmentation"] = AUGMENTATIONS[options.pop("augment")]
    # What is left open here is settled by the plan, which knows the optimiser and how many images there are.
    settled = {each.name for each in fields(TrainingOptions)} - {"learning_rate", "small_epochs", "loss"}
    for name in ("epochs", "batch_size"):
        options[name] = options[name] or 0
    options["architecture"] = options["architecture"] or ""
    training = TrainingOptions(
        **{name: options.pop(name) for name in settled & options.keys()}
        | {"seed": seed, "loss": options.pop("loss") or ""}
    )
    rule = parse_operating_point(options.pop("operating_point"))
    stride, urgent = options.pop("output_stride"), split_list(options.pop("urgent"))
    stride = None if stride is None else int(stride)
    return TrainingPlan(
        data=data, training=training, operating_point=rule, output_stride=stride, urgent=urgent, **options
    )


@contextmanager
def following(console: Console) -> Iterator[Listener]:
    """Show what happens on the terminal: bars for images and batches, a line per epoch."""
    from cxrbatch.model.train.record import Listener
    from cxrbatch.system.progress import RunProgress

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False)

    with RunProgress(console) as progress:
        images, batches = Counting(progress, "images ready"), Counting(progress, "batches")
        yield Listener(
            say=say,
            images=images.report,
            step=lambda at: batches.report(at.step, at.steps),
            epoch=lambda figures: say(figures.in_words()),
        )
