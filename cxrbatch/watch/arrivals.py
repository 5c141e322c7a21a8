"""Which studies are all there, as a daemon meets their files again and again.

A copy that is under way looks like a damaged file. So a study waits until each of its files was the same, in size
and modification time, for a while, and none of them ends before its pixels do; only a study that never settles is
taken as it is in the end. Time is counted from what was seen, on a clock that never jumps: neither a file's own
times nor the clocks of a file server matter.

What is known is kept in the ledger, so that a daemon that was ended, or is started by cron again and again, goes on
where it was. Between two processes nobody looked, and after a restart of the machine only the clock on the wall says
for how long, which may be wrong. So of that time less is counted:

- a file that is as it was has been so all the while, if the machine was not started in between; else it settles anew;
- a file that changed meanwhile, or of which only the clock on the wall tells, is looked at for `settle_s` at least
  before it is taken as it is, however long ago it was first met;
- a file that changed while only the clock on the wall ran gets nothing for that time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.errors import Reason
from cxrbatch.output.ledger.arrivals import ArrivalMemory, ArrivalRow, ArrivalTable
from cxrbatch.records import ImageFile, IndexedFile
from cxrbatch.run.headers import Deferred
from cxrbatch.system.times import Moment, present_moment

ARRIVING = "still arriving"
COMPLETE_MARKER = ".complete"
# So often the ledger hears that the daemon still looks, though nothing arrives: from there on nobody looked.
_HEARD_EVERY_S = 60.0

# What a file that is not all there yet looks like to somebody who reads its beginning.
_LOOKS_UNFINISHED = frozenset(
    {
        Reason.NOT_AN_IMAGE,
        Reason.UNREADABLE_HEADER,
        Reason.NO_PIXEL_DATA,
        Reason.TRUNCATED_PIXELS,
        Reason.UNREADABLE_PIXELS,
    }
)


@dataclass(slots=True)
class _Arrival:
    """A file as it was met last: since when it has been like that, and since when it is known at all.

    `if_changed` takes the place of `first_met` should it change: what happened while nobody looked counts for less.
    """

    size_bytes: int
    mtime_ns: int
    first_met: float
    same_since: float
    cut_short: bool = False
    held_back: bool = False
    judged_in: int = -1
    if_changed: float = -math.inf
    is_in_ledger: bool = False


class Arrivals:
    """What has arrived lately. Holds the files that nobody has scored yet, no others."""

    def __init__(self, settle_s: float, max_wait_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settle_s, self.max_wait_s = settle_s, max_wait_s
        self._clock = clock
        self._met: dict[str, _Arrival] = {}
        self._looks = 0
        self._table: ArrivalTable | None = None
        self._saved: ArrivalMemory | None = None
        self._news: set[str] = set()
        self._gone: set[str] = set()

    def go_on(self, table: ArrivalTable) -> None:
        """Take up what the process before knew, unless that is done, and keep what is known there from now on."""
        if self._table is None and (memory := table.memory()) is not None:
            now = present_moment(self._clock)
            self._met = {row.path: self._resumed(row, memory.seen, now) for row in table.rows()}
            if not memory.seen.is_comparable(now):
                self._news = set(self._met)
        self._table = table

    def save(self) -> None:
        """Let the ledger know what changed since it was last told, in one transaction; nothing where nothing did."""
        if self._table is None:
            return
        memory = ArrivalMemory(present_moment(self._clock), self.settle_s, self.max_wait_s)
        if not self._news and not self._gone and not self._is_worth_a_word(memory):
            return
        self._table.write(memory, [_row(path, self._met[path]) for path in self._news], self._gone)
        for path in self._news:
            self._met[path].is_in_ledger = True
        self._saved, self._news, self._gone = memory, set(), set()

    def judge(self, entry: IndexedFile | Deferred) -> IndexedFile | Deferred:
        """Look at what the index says of a new or changed file, and hold back what may only be unfinished.

        Returns:
            The same entry; or, where its end may still be missing, a deferred file, or the file of a study that
            then waits for it.
        """
        arrival = self._meet(entry.file)
        arrival.judged_in = self._looks
        judged = self._judged(entry, arrival)
        # What cannot be opened at all has not begun to arrive: it is not kept, for it may stay so for years.
        if arrival.held_back or isinstance(judged, IndexedFile):
            self._news.add(entry.file.path)
        return judged

    def _judged(self, entry: IndexedFile | Deferred, arrival: _Arrival) -> IndexedFile | Deferred:
        if isinstance(entry, Deferred) or entry.rejection is None or entry.rejection.reason not in _LOOKS_UNFINISHED:
            return entry
        if entry.study_key:
            arrival.cut_short = True
            return entry if self._waited_enough(arrival) else replace(entry, rejection=None)
        arrival.held_back = not self._is_settled(arrival)
        return Deferred(entry.file, ARRIVING) if arrival.held_back else entry

    def hold_cut_short(self, paths: Iterable[str]) -> bool:
        """Note files that turned out to end before their pixels do; tell whether any is worth waiting for."""
        waits = False
        for path in paths:
            arrival = self._find(path)
            arrival.cut_short = True
            self._news.add(path)
            waits = waits or not self._waited_enough(arrival)
        return waits

    def are_complete(self, paths: Collection[str]) -> bool:
        """Tell whether the files of a study are all there, or waited for long enough."""
        arrivals = [self._find(path) for path in paths]
        if any(self._waited_enough(arrival) for arrival in arrivals):
            return True
        return all(self._is_settled(arrival) and not arrival.cut_short for arrival in arrivals)

    def forget(self, paths: Iterable[str]) -> None:
        """Forget the files of studies that were taken; one that turned out to be cut short is still waited for."""
        for path in paths:
            arrival = self._met.get(path)
            if arrival is not None and (not arrival.cut_short or self._waited_enough(arrival)):
                self._drop(path)

    def keep(self, waiting: Collection[str]) -> None:
        """Forget the files that have settled, but for those that still wait to be scored; ends a look at the folder.

        What is held back is judged in each look, until it is gone.
        """
        settled = [
            path
            for path, arrival in self._met.items()
            if path not in waiting
            and self._is_settled(arrival)
            and not (arrival.held_back and arrival.judged_in == self._looks)
        ]
        for path in settled:
            self._drop(path)
        self._looks += 1

    def next_due_s(self) -> float | None:
        """Return in how many seconds the next file settles or has waited long enough; None where none waits."""
        now = self._clock()
        due = [at for arrival in self._met.values() if (at := self._due(arrival)) > now]
        return min(due) - now if due else None

    def _due(self, arrival: _Arrival) -> float:
        settles = arrival.same_since + self.settle_s
        gives_up = arrival.first_met + self.max_wait_s
        return gives_up if arrival.cut_short or settles > gives_up else settles

    def _meet(self, file: ImageFile) -> _Arrival:
        now = self._clock()
        arrival = self._met.get(file.path)
        if arrival is None:
            self._met[file.path] = arrival = _Arrival(file.size_bytes, file.mtime_ns, now, now)
        elif (arrival.size_bytes, arrival.mtime_ns) != (file.size_bytes, file.mtime_ns):
            arrival.size_bytes, arrival.mtime_ns = file.size_bytes, file.mtime_ns
            arrival.same_since, arrival.cut_short = now, False
            arrival.first_met = max(arrival.first_met, arrival.if_changed)
        return arrival

    def _find(self, path: str) -> _Arrival:
        """Return what is known of a file; one that only the ledger knows was met by an earlier process."""
        if path not in self._met:
            now = self._clock()
            self._met[path] = _Arrival(-1, -1, now, now)
            self._news.add(path)
        return self._met[path]

    def _drop(self, path: str) -> None:
        if self._met.pop(path).is_in_ledger:
            self._gone.add(path)
        self._news.discard(path)

    def _resumed(self, row: ArrivalRow, seen: Moment, now: Moment) -> _Arrival:
        """Return a file as another process met it, its times on this process's clock."""
        at, capped = now.monotonic_s, max(0.0, self.max_wait_s - self.settle_s)
        met_s = max(0.0, seen.monotonic_s - row.first_met)
        arrival = _Arrival(row.size_bytes, row.mtime_ns, row.first_met, row.same_since, row.cut_short, row.held_back)
        arrival.is_in_ledger = True
        if seen.is_comparable(now):
            arrival.if_changed = max(row.first_met, at - capped)
            return arrival
        arrival.first_met = at - min(met_s + seen.seconds_until(now), capped)
        arrival.same_since, arrival.if_changed = at, at - min(met_s, capped)
        return arrival

    def _is_worth_a_word(self, memory: ArrivalMemory) -> bool:
        """Tell whether, though nothing arrived, the ledger should hear of this look or of other settings."""
        former = self._saved
        if former is None or (former.settle_s, former.max_wait_s) != (memory.settle_s, memory.max_wait_s):
            return True
        return bool(self._met) and former.seen.seconds_until(memory.seen) >= min(_HEARD_EVERY_S, self.settle_s)

    def _is_settled(self, arrival: _Arrival) -> bool:
        return self._clock() - arrival.same_since >= self.settle_s

    def _waited_enough(self, arrival: _Arrival) -> bool:
        return self._clock() - arrival.first_met >= self.max_wait_s


def is_marked(root: Path, paths: Iterable[str]) -> bool:
    """Tell whether whoever wrote these files says that their study is all there, as mercure does."""
    folders = {(root / path).parent for path in paths}
    try:
        return all((folder / COMPLETE_MARKER).exists() for folder in folders)
    except OSError:
        return False  # the share is away; the next look at the folder tells


def _row(path: str, arrival: _Arrival) -> ArrivalRow:
    return ArrivalRow(
        path,
        arrival.size_bytes,
        arrival.mtime_ns,
        arrival.first_met,
        arrival.same_since,
        arrival.cut_short,
        arrival.held_back,
    )
