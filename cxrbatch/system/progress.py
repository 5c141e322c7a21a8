"""How far a run has come: rich bars on a terminal, or a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_LINE_EVERY_S = 10.0


class RunProgress:
    """Named counts of one run: files indexed, studies scored, reports printed.

    On a terminal each is a bar with its rate and the time left; elsewhere (cron, a pipe) all of them are
    one plain line every ten seconds, and each has one when it is finished.
    """

    def __init__(self, console: Console, *, counts: bool = True) -> None:
        """Show counts on `console`; without `counts`, as a daemon has it, only what is said."""
        self._console, self._shows_counts = console, counts
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not (counts and console.is_terminal),
            transient=True,
        )
        self._counts: dict[str, Task] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> RunProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, what: str, total: int | None = None) -> None:
        """Begin to count `what`, such as "files indexed", up to `total` where it is known; an earlier count ends."""
        if former := self._counts.pop(what, None):
            self._bars.remove_task(former.id)
        identity = self._bars.add_task(what, total=total)
        self._counts[what] = next(task for task in self._bars.tasks if task.id == identity)

    def advance(self, what: str, steps: int = 1) -> None:
        """Count `steps` more of `what`."""
        self._bars.update(self._counts[what].id, advance=steps)
        if time.monotonic() - self._last_line >= PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._print_line(*self._counts.values())

    def show(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `what` are done; begins and ends the count as needed."""
        if what not in self._counts:
            self.begin(what, total)
        task = self._counts[what]
        self.advance(what, done - int(task.completed))
        if done >= total:
            self.finish(what)

    def finish(self, what: str) -> None:
        """End the count of `what`."""
        task = self._counts.pop(what)
        self._print_line(task)
        if not self._console.is_terminal:
            # On a terminal the full bar stays to the end; a daemon counts for months.
            self._bars.remove_task(task.id)

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._console.print(sentence, highlight=False, markup=False)

    def _print_line(self, *tasks: Task) -> None:
        if self._shows_counts and not self._console.is_terminal:
            self._console.print("; ".join(_in_words(task) for task in tasks), highlight=False, markup=False)


class _Rate(ProgressColumn):
    """Steps per second since the count began."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task))


def _rate(task: Task) -> str:
    return f"{task.completed / max(task.elapsed or 0.0, 1e-3):.1f}/s"


def _in_words(task: Task) -> str:
    of_total = f" of {task.total:.0f}" if task.total is not None else ""
    return f"{task.description}: {task.completed:.0f}{of_total} ({_rate(task)})"
