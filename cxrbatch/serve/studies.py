"""The studies of the worklist, as JSON: filtered, sorted, a page at a time. Start at `Studies.find`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cxrbatch.output.worklist_data import DATA_FOLDER, WorklistData, read_version, read_worklist
from cxrbatch.output.worklist_lines import (
    MARKS,
    READING_ORDER,
    STATUS_ORDER,
    Chip,
    WorklistLine,
    marks_of,
    reading_order,
)

MOST_STUDIES = 1000
SORTS = ("priority", "arrived", "date")
_ATTEMPTS = 5
_PAUSE_S = 0.1


class BadQuery(ValueError):
    """A question that cannot be answered; its text says why."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for; empty where anything is right. `since` is in seconds since 1970."""

    search: tuple[str, ...] = ()
    priority: str = ""
    status: str = ""
    finding: str = ""
    mark: tuple[str, ...] = ()
    since: float = 0.0
    sort: str = "priority"
    offset: int = 0
    limit: int = 100

    def fits(self, line: WorklistLine) -> bool:
        """Tell whether a study is what is asked for."""
        return (
            (not self.priority or line.priority == self.priority)
            and (not self.status or line.status == self.status)
            and (not self.finding or any(chip.name == self.finding for chip in line.findings))
            and (not self.since or line.arrived >= self.since)
            and (not self.mark or set(self.mark) <= set(marks_of(line)))
            and (not self.search or _holds(line, self.search))
        )


def read_query(parameters: Mapping[str, str], marks: list[str]) -> Query:
    """Return what an address asks for.

    Raises:
        BadQuery: one of its parameters is not known, or has a value that it cannot have.
    """
    known = {"search", "priority", "status", "finding", "mark", "since", "sort", "offset", "limit"}
    if unknown := sorted(set(parameters) - known):
        raise BadQuery(f"unknown parameter: {unknown[0]}")
    for mark in marks:
        _one_of("mark", mark, MARKS)
    return Query(
        search=tuple(parameters.get("search", "").lower().split()),
        priority=_one_of("priority", parameters.get("priority", ""), ("", *READING_ORDER)),
        status=_one_of("status", parameters.get("status", ""), ("", *STATUS_ORDER)),
        finding=parameters.get("finding", ""),
        mark=tuple(marks),
        since=_moment(parameters.get("since", "")),
        sort=_one_of("sort", parameters.get("sort", "priority"), SORTS),
        offset=_number("offset", parameters.get("offset", "0"), 10**9),
        limit=_number("limit", parameters.get("limit", "100"), MOST_STUDIES),
    )


class Studies:
    """The studies as the worklist's data tell them; read again when those change, by whichever thread asks first.

    The ledger is not opened for that: whoever works on the output folder is neither waited for nor held up.
    """

    def __init__(self, out: Path) -> None:
        self._folder = out / DATA_FOLDER
        self._lock = threading.Lock()
        self._known = WorklistData("", "", ())
        self._keys: frozenset[str] = frozenset()

    def version(self) -> str:
        """Return which version of the data counts now."""
        return read_version(self._folder)

    def has(self, study_key: str) -> bool:
        """Tell whether there is such a study."""
        self.data()
        return study_key in self._keys

    def data(self) -> WorklistData:
        """Return all studies as of now."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                if self.version() == self._known.version:
                    break
                try:
                    self._known = read_worklist(self._folder)
                    self._keys = frozenset(line.study_key for line in self._known.lines)
                except (OSError, ValueError, LookupError, TypeError):
                    # Just written anew: what was read until now stands until that is there.
                    time.sleep(_PAUSE_S)
            return self._known

    def find(self, query: Query) -> dict[str, object]:
        """Return a page of the studies that fit, and how many there are."""
        data = self.data()
        fitting = sorted(filter(query.fits, data.lines), key=_ORDERS[query.sort])
        return {
            "changed_at": data.changed_at,
            "total": len(data.lines),
            "fitting": len(fitting),
            "offset": query.offset,
            "limit": query.limit,
            "studies": [as_json(line) for line in fitting[query.offset : query.offset + query.limit]],
        }


_ORDERS = {
    "priority": reading_order,
    "arrived": lambda line: (-line.arrived, reading_order(line)),
    # Newest first: what is no date comes last.
    "date": lambda line: (-_day_number(line.date), -line.arrived, reading_order(line)),
}


def as_json(line: WorklistLine) -> dict[str, object]:
    """Return a study as the API tells it: nothing of who the patient is."""
    return {
        "study_key": line.study_key,
        "revision": line.revision,
        "arrived_at": _as_text(line.arrived),
        "study_date": line.date,
        "accession_number": line.accession,
        "priority": line.priority,
        "status": line.status,
        "images": line.images,
        "findings": [_finding(chip) for chip in line.findings],
        "highest": _finding(line.highest) if line.highest else None,
        "strength": line.strength,
        "marks": list(marks_of(line)),
        "cautions": list(line.cautions),
        "remarks": list(line.remarks),
        "report_html": line.report_html,
        "report_pdf": line.report_pdf,
        "thumbnail": line.thumbnail,
    }


def _finding(chip: Chip) -> dict[str, object]:
    return {"name": chip.name, "probability": chip.probability, "urgent": chip.urgent}


def _holds(line: WorklistLine, words: tuple[str, ...]) -> bool:
    text = " ".join(_searched(line)).lower()
    return all(word in text for word in words)


def _searched(line: WorklistLine) -> Iterator[str]:
    yield from (line.accession, line.date, line.date.replace("-", ""), line.study_key)
    yield from (chip.name for chip in line.findings)


def _as_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds") if seconds else ""


def _day_number(date: str) -> int:
    try:
        return datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=timezone.utc).toordinal()
    except ValueError:
        return 0


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise BadQuery(f"{name}: one of {', '.join(filter(None, allowed))}")
    return value


def _number(name: str, value: str, largest: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 12 and int(value) <= largest):
        raise BadQuery(f"{name}: a whole number up to {largest}")
    return int(value)


def _moment(value: str) -> float:
    if not value:
        return 0.0
    try:
        when = datetime.fromisoformat(value.removesuffix("Z") + ("+00:00" if value.endswith("Z") else ""))
        return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadQuery("since: a time such as 2026-01-02T03:04:05Z") from error
