"""Writing a run's sheet: runs/<date>-<n>.html, with its facts as .json beside it. Start at `Sheets.write`.

`run` writes one at its end, also when it is stopped; one that finds nothing new writes the day's first alone. A daemon
writes the sheet of the day again and again, each time in place. A page that cannot be made never fails the run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cxrbatch.config import RUNS
from cxrbatch.locales import known_locale
from cxrbatch.output.ledger.ledger import LOCALE, Ledger
from cxrbatch.output.run_json import RunReport
from cxrbatch.output.sheets.facts import RunSheet, ScoredSince, SheetKind, gather_sheet, is_news, read_scored
from cxrbatch.output.sheets.page import render_sheet
from cxrbatch.pages.language import speaking
from cxrbatch.system import durable
from cxrbatch.system.record_json import from_json, to_json

MOST_SHEETS = 400
"""So many sheets are kept: more than one for each night of a year."""

TREND = 30
"""Runs that the trend goes back."""

DAEMON_EVERY_S = 600.0
"""How often a daemon writes its sheet anew at most."""

_NAME = re.compile(r"(\d{4}-\d\d-\d\d)-(\d{1,9})\.(?:html|json|pdf)")


@dataclass(slots=True)
class Sheets:
    """The sheets of one process: which one it wrote last, and which one came before that."""

    kind: SheetKind = "run"
    name: str = ""
    before: RunSheet | None = None
    written: float | None = None

    def write(self, ledger: Ledger, report: RunReport) -> RunSheet | None:
        """Write the sheet of what was done until now.

        Returns:
            What it says; None where there is none to write: nothing is new, or the daemon's is new enough.

        Raises:
            OSError, RunError: it cannot be written.
        """
        if self._is_too_soon(report):
            return None
        out = ledger.home.out
        folder, today = out / RUNS, f"{datetime.now().astimezone():%Y-%m-%d}"
        known = sheet_names(folder)
        if not self.name.startswith(today):
            self.name, self.before = _next_name(known, today), read_sheet(folder, known[-1]) if known else None
        earlier = [name for name in known if name != self.name]
        sheet = gather_sheet(report, ScoredSince(), self.before, name=self.name, kind=self.kind)
        if not is_news(sheet, self.before) and earlier and earlier[-1].startswith(today):
            self.name = ""
            return None
        scored = read_scored(ledger, self.before.scored_until if self.before else "")
        sheet = gather_sheet(report, scored, self.before, name=self.name, kind=self.kind)
        history = [told for name in earlier[1 - TREND :] if (told := read_sheet(folder, name))]
        with speaking(known_locale(ledger.fact(LOCALE))):
            page = render_sheet(sheet, report, scored.most_urgent, history)
        ledger.home.check()
        durable.make_folder(folder, within=out)
        facts = durable.encode(to_json(sheet, indent=2) + "\n")
        durable.replace_files(folder, {f"{self.name}.json": facts, f"{self.name}.html": durable.encode(page)})
        remove_sheets(folder, earlier[: -(MOST_SHEETS - 1)])
        self.written = time.monotonic()
        return sheet

    def _is_too_soon(self, report: RunReport) -> bool:
        if self.kind == "run" or self.written is None or not report.finished:
            return False
        return time.monotonic() - self.written < DAEMON_EVERY_S


def sheet_names(folder: Path) -> list[str]:
    """Return the names of the sheets in `folder`, without suffix, by day and number."""
    found = {(match[1], int(match[2])) for path in _files(folder) if (match := _NAME.fullmatch(path.name))}
    return [f"{day}-{number}" for day, number in sorted(found)]


def read_sheet(folder: Path, name: str) -> RunSheet | None:
    """Return what a sheet says; None for one whose facts are not there, or are damaged."""
    try:
        return from_json((folder / f"{name}.json").read_text(encoding="utf-8"), RunSheet)
    except (OSError, ValueError):
        return None


def remove_sheets(folder: Path, names: list[str]) -> None:
    """Remove these sheets, whatever there is of each."""
    for name in names:
        for suffix in ("html", "pdf", "json"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)


def remove_all_sheets(out: Path) -> None:
    """Remove every sheet of an output folder, such as those that link to studies by their former keys."""
    with suppress(OSError):
        remove_sheets(out / RUNS, sheet_names(out / RUNS))


def remove_old_sheets(out: Path, age: timedelta) -> int:
    """Remove the sheets of days before `age` ago: the reports that they link to are gone; return how many."""
    first = f"{datetime.now().astimezone() - age:%Y-%m-%d}"
    old = [name for name in sheet_names(out / RUNS) if name < first]
    remove_sheets(out / RUNS, old)
    return len(old)


def _next_name(known: list[str], today: str) -> str:
    numbers = [int(name.rpartition("-")[2]) for name in known if name.startswith(f"{today}-")]
    return f"{today}-{max(numbers, default=0) + 1}"


def _files(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from folder.iterdir()
