"""The command that trains, and how a training is followed on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.data_options import data_options, read_data_options
from cxrbatch.cli.group import commands
from cxrbatch.cli.options import EXISTING, FRACTION, NEW_FILE, SEED, split_list
from cxrbatch.cli.speaking import page_locale_option
from cxrbatch.cli.terminal import Counting, open_console
from cxrbatch.cli.training_options import learning_options, machine_options, network_options, seeing_options
from cxrbatch.system.standard_streams import put_work_first

if TYPE_CHECKING:
    from rich.console import Console

    from cxrbatch.model.train.record import Listener, TrainingPlan


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
