"""The command that learns from an archive without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FOLDER, NEW_FILE, SEED, NumberRange
from cxrbatch.cli.terminal import open_console
from cxrbatch.cli.training import following
from cxrbatch.cli.training_options import ARCHITECTURES, machine_options, starting_options
from cxrbatch.system.standard_streams import put_work_first

if TYPE_CHECKING:
    from cxrbatch.model.pretrain.record import PretrainingPlan


@commands.command(short_help="Learn from radiographs without labels.")
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@click.option(
    "-o", "--output", "weights", metavar="WEIGHTS", type=NEW_FILE, required=True, help="File for the weights."
)
@click.option(
    "-a",
    "--architecture",
    type=click.Choice(ARCHITECTURES),
    default="resnet50",
    show_default=True,
    help="The network.",
)
@starting_options
@click.option(
    "--epochs",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Passes over the images.  [default: as many as make 2,000 steps, at least 10]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(2, 65_536),
    default=32,
    show_default=True,
    metavar="N",
    help="Images per batch; each is seen in two views.",
)
@click.option(
    "--lr",
    "learning_rate",
    type=NumberRange(0, 100, min_open=True),
    metavar="RATE",
    help="Peak learning rate.  [default: 0.05 for a batch of 256, in proportion for others]",
)
@click.option(
    "--patient-pattern",
    default="",
    metavar="REGEX",
    help="Finds the patient in a file's path with its one (group).  [default: those of the public data sets]",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of the first weights and all else that is random."
)
@machine_options
def pretrain(folder: Path, weights: Path, **options: Any) -> None:
    """Learn from the radiographs below FOLDER, which need no labels; write WEIGHTS.safetensors for `train --init`.

    FOLDER is read as by `run`: DICOM, PNG and JPEG, frontal chest radiographs only. What is refused is counted, with
    reasons, and listed in WEIGHTS-pretraining. The network learns to recognise an image in another crop, exposure and
    turn of it (SimSiam, Chen and He 2021). Ctrl-C keeps what there is so far.

    \b
    Examples:
      cxrbatch pretrain /archive -o chest.safetensors
      cxrbatch train nih256 -o pneumonia.safetensors --init chest.safetensors
    """
    from cxrbatch.cli.print_model import print_pretraining
    from cxrbatch.model.pretrain.pretrain_model import pretrain_model

    put_work_first()
    plan = _read_plan(options)
    console = open_console()
    with following(console) as listener:
        run = pretrain_model(folder, weights, plan, listener)
    print_pretraining(console, run)


def _read_plan(options: dict[str, Any]) -> PretrainingPlan:
    from cxrbatch.model.data.options import require_patient_pattern
    from cxrbatch.model.pretrain.record import PretrainingPlan
    from cxrbatch.model.train.options import TrainingOptions

    require_patient_pattern(options["patient_pattern"])
    options["epochs"] = options["epochs"] or 0
    names = ("epochs", "batch_size", "seed", "devices", "nodes", "precision")
    return PretrainingPlan(training=TrainingOptions(**{name: options.pop(name) for name in names}), **options)
