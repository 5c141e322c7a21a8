"""The options of a training: what the network is, how it learns, how it sees the images, where it runs."""

from __future__ import annotations

import re

import click

from cxrbatch.cli.options import BATCH, COUNT, FRACTION, PROCESSES, Command, NumberRange, add_options

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


_STARTING_OPTIONS = (
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
)  # fmt: skip


def starting_options(command: Command) -> Command:
    """Add the options that say what the weights start from, and what square of an image the network sees."""
    return add_options(_STARTING_OPTIONS, command)


def network_options(command: Command) -> Command:
    """Add the options that say what the network is and what it starts from."""
    options = [
        click.option(
            "--architecture", type=click.Choice(ARCHITECTURES),
            help="The network.  [default: what the file of --init holds; else resnet50, without --init and below 2,000 "
            "training images densenet121]",
        ),
        *_STARTING_OPTIONS,
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
