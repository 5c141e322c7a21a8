"""The terminal: where commands print, and how a count is shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from cxrbatch.system.progress import RunProgress

QUIET, VERBOSE = "quiet", "verbose"


def open_console() -> Console:
    """Return the console that results are printed on."""
    from cxrbatch.pages.terminal_text import PlainConsole

    return PlainConsole(soft_wrap=True, emoji=False)


@contextmanager
def open_terminal(loudness: str | None) -> Iterator[Console]:
    """Yield the console that results are printed on: none to speak of with QUIET; with VERBOSE the log is shown, too.

    Neither has bars: while they are drawn, what goes to stderr is printed on stdout.
    """
    from cxrbatch.pages.terminal_text import PlainConsole

    if loudness is None:
        yield open_console()
        return
    console = PlainConsole(soft_wrap=True, emoji=False, quiet=loudness == QUIET, force_terminal=False)
    if loudness == VERBOSE:
        with _log_shown():
            yield console
    else:
        yield console


@contextmanager
def _log_shown() -> Iterator[None]:
    """Print what goes to the log on stderr as well, a line for each event."""
    package, shown = logging.getLogger("cxrbatch"), _ShownLog()
    shown.setFormatter(_EventLines(datefmt="%H:%M:%S"))
    former_level = package.level
    package.addHandler(shown)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(shown)
        package.setLevel(former_level)


class _ShownLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Looked up each time: whoever takes standard error over takes this, too.
        say(self.format(record), err=True)


class _EventLines(logging.Formatter):
    """Writes an event as time, level unless all is well, what happened, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        told = [self.formatTime(record, self.datefmt)]
        if record.levelno > logging.INFO:
            told.append(record.levelname)
        told.append(record.getMessage())
        told += [f"{name}={fact}" for name, fact in getattr(record, "facts", {}).items()]
        line = " ".join(told)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def say(text: str, *, err: bool = False) -> None:
    """Print text, line by line, with everything in it made visible: it may name what a stranger named."""
    from cxrbatch.pages.wording import visible

    click.echo("\n".join(map(visible, text.split("\n"))), err=err)


def print_place(console: Console, page: Path) -> None:
    """Print where the page lies that was written."""
    from cxrbatch.pages.terminal_text import literal

    console.print(literal(f"Report: {page.resolve()}"), highlight=False)


class PlainLines(logging.Formatter):
    """Makes log lines visible that nobody takes: Python prints a warning without a handler on stderr."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with everything in it made visible."""
        from cxrbatch.pages.wording import visible

        return visible(super().format(record))


class Counting:
    """A count that somebody else keeps, shown on `progress`: it begins with the first report, ends with the last."""

    def __init__(self, progress: RunProgress, what: str) -> None:
        self._progress, self._what = progress, what
        self._counted = -1

    def report(self, done: int, total: int) -> None:
        """Show `done` of `total`; a lower number than before, or the first, begins anew."""
        if done <= self._counted or self._counted < 0:
            self._progress.begin(self._what, total)
            self._counted = 0
        self._progress.advance(self._what, done - self._counted)
        self._counted = done
        if done == total:
            self._progress.finish(self._what)


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a count is; yield what to call with (done, total)."""
    from cxrbatch.system.progress import RunProgress

    with RunProgress(console) as progress:
        yield Counting(progress, what).report
