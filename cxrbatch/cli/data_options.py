"""The options that say what labelled data is and how it is split, and what the workshop is told of them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.options import FRACTION, Command, add_options, split_list

if TYPE_CHECKING:
    from cxrbatch.model.data.options import DataOptions


def data_options(command: Command) -> Command:
    """Add the options that say how labelled data is read and split, the same for every command that takes it."""
    options = [
        click.option(
            "--layout", type=click.Choice(["nih", "folders", "csv"]), help="How DATA is organised.  [default: detected]"
        ),
        click.option("--labels", metavar="A,B,...", help="Labels to use, in this order.  [default: all]"),
        click.option(
            "--binary", default="", metavar="NORMAL", help="Two classes: this label, and every other one as Abnormal."
        ),
        click.option(
            "--uncertain",
            type=click.Choice(["zeros", "ones", "ignore"]),
            default="ignore",
            show_default=True,
            help="What an uncertain label (-1) counts as.",
        ),
        click.option(
            "--patient-pattern",
            default="",
            metavar="REGEX",
            help="Finds the patient in a file's path with its one (group).  [default: those of the public data sets]",
        ),
        click.option(
            "--val-fraction",
            type=FRACTION,
            default=0.2,
            show_default=True,
            help="Share to validate on, where DATA names no such part.",
        ),
        click.option(
            "--test-fraction",
            type=FRACTION,
            default=0.0,
            show_default=True,
            help="Share to test on, where DATA names no such part.",
        ),
    ]
    return add_options(options, command)


def read_data_options(options: dict[str, Any]) -> DataOptions:
    """Take what `data_options` added, and seed and allow_leak where the command has them, out of `options`."""
    from cxrbatch.model.data.options import DataOptions

    names = [field.name for field in fields(DataOptions)]
    taken = {name: options.pop(name) for name in names if name in options}
    return DataOptions(**taken | {"layout": taken["layout"] or "", "labels": split_list(taken["labels"])})
