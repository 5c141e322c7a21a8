"""What options are made of: the types of their values, how lists are read, and an option that many commands have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from cxrbatch.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])

BACKENDS = ("auto", "onnxruntime", "tensorrt", "tensorrt-rtx", "torch")
PRECISIONS = ("auto", "fp32", "fp16", "int8")
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)


class NumberRange(click.FloatRange):
    """A number from a range; NaN is in none, though no comparison finds it outside."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number, or end with what is wrong with it."""
        number = super().convert(value, param, ctx)
        if number is not None and not math.isfinite(number):
            self.fail(f"{value} is no number that can be compared", param, ctx)
        return number


# What NumPy and torch both take for a seed.
SEED = click.IntRange(0, 2**32 - 1)
PROCESSES = click.IntRange(0, 1024)
_LARGEST_BATCH = 65_536
BATCH = click.IntRange(1, _LARGEST_BATCH)
COUNT = click.IntRange(0, 1_000_000)
FRACTION = NumberRange(0, 1, max_open=True)


def add_options(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    """Add options to a command, in this order."""
    for option in reversed(options):
        command = option(command)
    return command


state_option = click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Folder on a local disk for ledger and lock.  [default: OUT, or the folder noted there]",
)


def split_list(text: str | None) -> tuple[str, ...]:
    """Read `A, B,C` as a person types it."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def split_numbers(option: str, text: str) -> tuple[int, ...]:
    """Read `1, 8,32` as a person types it.

    Raises:
        UsageError: something else is between the commas.
    """
    try:
        numbers = tuple(int(part) for part in split_list(text))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= number <= _LARGEST_BATCH for number in numbers):
        raise UsageError(f"{option}: {text!r} is no list of whole numbers from 1 to {_LARGEST_BATCH}, such as 1,8,32.")
    return numbers
