"""The group that every command joins; its help tells the exit codes."""

from __future__ import annotations

import click

from cxrbatch import __version__

EXIT_CODES = """\b
Exit codes:
  0  done
  1  unexpected error
  2  usage
  3  done, but some studies failed and will be retried
  4  configuration
  5  engine
  6  output not writable
  7  another run holds the output folder
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="cxrbatch")
def commands() -> None:
    """Score folders of chest radiographs: studies in, tables and reports with heatmaps out.

    Research use only. Not a medical device, not for diagnosis.
    """
