"""The group that every command joins; its help sorts them by who needs them, and tells the exit codes."""

from __future__ import annotations

import click

from cxrbatch import __version__
from cxrbatch.system.threads import keep_numpy_to_one_thread

SECTIONS = {
    "Run": ("run", "watch", "report"),
    "Spread": ("shard", "work", "merge"),
    "Connect": ("receive", "pull", "send"),
    "Look after": ("status", "serve", "repair", "prune", "inspect", "doctor", "bench", "engines"),
    "Hand on": ("export", "schema"),
    "Teach": ("describe", "pretrain", "train", "evaluate", "compare", "import", "build", "adjust"),
    "Try": ("demo",),
}
"""Every command, in one section, in the order in which `--help` shows them."""

# What trains, measures or fits does multiply matrices with numpy.
_TAKE_ALL_CORES = frozenset(SECTIONS["Teach"] + SECTIONS["Try"])

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


class EqualsCommand(click.Command):
    """A command whose options with a value that may be missing take one behind `=` only.

    click would take what comes next: of `--dicom INPUT`, INPUT.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, with the usual values where options were given without one."""
        usual = {
            name: f"{name}={param.flag_value}"
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag and isinstance(param.flag_value, str)
            for name in param.opts
        }
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [usual.get(arg, arg) for arg in args[:end]] + args[end:])


class SectionedGroup(click.Group):
    """A group whose help shows its commands in sections."""

    command_class = EqualsCommand

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the sections; one that is in none comes last."""
        listed = [name for names in SECTIONS.values() for name in names if name in self.commands]
        return [*listed, *(name for name in super().list_commands(ctx) if name not in listed)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        """Write a list of commands per section."""
        longest = max(map(len, self.commands), default=0)
        width = formatter.width - longest - 6
        for section, names in SECTIONS.items():
            known = [(name, self.commands[name]) for name in names if name in self.commands]
            if known:
                with formatter.section(section):
                    formatter.write_dl([(name.ljust(longest), each.get_short_help_str(width)) for name, each in known])


@click.group(
    cls=SectionedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="cxrbatch")
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Score folders of chest radiographs: studies in, tables and reports with heatmaps out.

    Research use only. Not a medical device, not for diagnosis.
    """
    if ctx.invoked_subcommand not in _TAKE_ALL_CORES:
        keep_numpy_to_one_thread()
