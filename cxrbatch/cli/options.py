"""The options that several commands share, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cxrbatch.cli.page_options import keep_embeddings_option, templates_option
from cxrbatch.cli.speaking import locale_option
from cxrbatch.errors import UsageError

if TYPE_CHECKING:
    from cxrbatch.model.build.build import BuildOptions
    from cxrbatch.model.data.options import DataOptions

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


def loudness_options(command: Command) -> Command:
    """Add the options that say how much a command tells on the terminal; the last one given counts."""
    options = [
        click.option("-q", "--quiet", "loudness", flag_value="quiet", help="Print nothing but errors."),
        click.option("-v", "--verbose", "loudness", flag_value="verbose", help="Print log messages on stderr as well."),
    ]
    return add_options(options, command)


class WatchedFolder(click.Path):
    """A folder to watch; of a file it says which command takes one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the folder, or end with what is wrong with it."""
        if Path(value).is_file():
            self.fail(f"{value} is a file, and watch needs a folder; `cxrbatch run` takes a single file.", param, ctx)
        return super().convert(value, param, ctx)


WATCHED_FOLDER = WatchedFolder(exists=True, file_okay=False, path_type=Path)


DEIDENTIFY_OPTIONS = (
    click.option(
        "--deidentify", is_flag=True, default=None, help="Keep whatever identifies a patient out of all outputs."
    ),
    click.option(
        "--deidentify-existing",
        is_flag=True,
        default=None,
        help="The same, and remove it from what OUT already holds: reports, tables, ledger, logs. Cannot be undone.",
    ),
)


def deidentify_options(command: Command) -> Command:
    """Add the options that keep names out, and take them out."""
    return add_options(DEIDENTIFY_OPTIONS, command)


def settings_options(command: Command) -> Command:
    """Add the options that `run` shares with every command that prints or reads in worker processes."""
    options = [
        click.option("--html/--no-html", default=None, help="Write report.html for each study.  [default: html]"),
        click.option("--pdf/--no-pdf", default=None, help="Write report.pdf for each study.  [default: pdf]"),
        click.option(
            "--dicom",
            is_flag=False,
            flag_value="sr,sc,pdf",
            metavar="[=sr,sc,pdf]",
            help="Write DICOM objects for the archive: structured report, overlays, the report.  [default: none]",
        ),
        click.option(
            "--heatmaps",
            type=click.Choice(["validated", "all"]),
            help="Heatmaps that reports show: those found to point at their finding, or all.  [default: validated]",
        ),
        click.option(
            "--priors/--no-priors",
            default=None,
            help="Name earlier studies of the same patient in reports.  [default: priors]",
        ),
        click.option(
            "--pdf-variant",
            type=click.Choice(["plain", "pdf/ua-1", "pdf/a-3b"]),
            help="Kind of report.pdf: for who listens to it, or to archive.  [default: plain]",
        ),
        click.option("--paper", type=click.Choice(["a4", "letter"]), help="Page size of report.pdf.  [default: a4]"),
        templates_option,
        locale_option,
        click.option(
            "--workers", type=int, metavar="N", help="Worker processes that read and print.  [default: one per core]"
        ),
        state_option,
        click.option("--config", "config_file", type=FILE, help="Settings file.  [default: ./cxrbatch.toml, if there]"),
    ]
    return add_options(options, command)


def scoring_options(command: Command) -> Command:
    """Add the options that say which engine scores and what is accepted, the same for `run` and `watch`."""
    options = [
        click.option(
            "-e", "--engine", metavar="ENGINE", help="Engine: a folder or a name.  [default: the only one installed]"
        ),
        click.option("--backend", type=click.Choice(BACKENDS), help="What the engine runs on.  [default: auto]"),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            help="Which of the engine's files is run.  [default: on a CPU int8 if it passed its gate, else fp32]",
        ),
        click.option("--threads", type=int, metavar="N", help="CPU cores the engine may use.  [default: all]"),
        click.option(
            "--batch-size", type=int, metavar="N", help="Images per engine call.  [default: 4 on a CPU, 8 on a GPU]"
        ),
        click.option(
            "--jpeg2000",
            type=click.Choice(["half", "quarter"]),
            help="How small JPEG 2000 radiographs are read; a quarter is faster and shows less.  [default: half]",
        ),
        click.option(
            "--newest-first", is_flag=True, default=None, help="Start with the studies whose files are newest."
        ),
        *DEIDENTIFY_OPTIONS,
        click.option(
            "--sheet-pdf/--no-sheet-pdf",
            default=None,
            help="Write the sheet of the run, runs/<date>-<n>.html, as PDF too.  [default: no-sheet-pdf]",
        ),
        click.option(
            "--notify",
            metavar="URL|COMMAND",
            help="Tell of urgent studies, failures and drift: JSON by POST, or on the command's standard input.",
        ),
        click.option(
            "--pictures/--no-pictures",
            default=None,
            help="Draw radiographs and heatmaps; none with --no-html --no-pdf saves that time.  [default: pictures]",
        ),
        click.option(
            "--keep-maps/--no-keep-maps",
            default=None,
            help="Keep activation maps as numbers beside the reports, for `cxrbatch export`.  [default: no-keep-maps]",
        ),
        keep_embeddings_option,
        click.option(
            "--group-by",
            type=click.Choice(["file", "folder"]),
            help="What makes a study of PNG and JPEG files: each file, or each folder.  [default: file]",
        ),
        click.option(
            "--accept-view",
            type=click.Choice(["frontal", "any"]),
            help="Which views to score, going by the header.  [default: frontal]",
        ),
        click.option(
            "--accept-missing-tags/--refuse-missing-tags",
            "missing_tags",
            default=None,
            callback=lambda _context, _option, given: given if given is None else ("accept" if given else "refuse"),
            help="Score files whose header gives no body part or view.  [default: accept]",
        ),
    ]
    return add_options(options, command)


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
