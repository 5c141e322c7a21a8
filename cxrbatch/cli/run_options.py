"""The options of commands that score and print, most of them settings; `run` and `watch` have nearly all."""

from __future__ import annotations

import click

from cxrbatch.cli.options import BACKENDS, FILE, PRECISIONS, Command, add_options, state_option
from cxrbatch.cli.speaking import locale_option

templates_option = click.option(
    "--templates",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Folder of templates and style sheets to use before the package's.  [default: the package's]",
)

trust_folder_mtime_option = click.option(
    "--trust-folder-mtime",
    is_flag=True,
    default=None,
    help="Pass over folders in which nothing came or went; files rewritten in place there go unnoticed.",
)

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
        click.option(
            "--keep-embeddings/--no-keep-embeddings",
            default=None,
            help="Keep each image's embedding as numbers beside the reports, for `cxrbatch export`.  "
            "[default: no-keep-embeddings]",
        ),
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


def loudness_options(command: Command) -> Command:
    """Add the options that say how much a command tells on the terminal; the last one given counts."""
    options = [
        click.option("-q", "--quiet", "loudness", flag_value="quiet", help="Print nothing but errors."),
        click.option("-v", "--verbose", "loudness", flag_value="verbose", help="Print log messages on stderr as well."),
    ]
    return add_options(options, command)
