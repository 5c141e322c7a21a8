"""Files as a daemon meets them again and again in, which studies are all there out.

A copy that is under way looks like a damaged file. So a study waits until each of its files was the same, in size
and modification time, for a while, and none of them ends before its pixels do; only a study that never settles is
taken as it is in the end. Time is counted from what this process saw, on a clock that never jumps: neither a
file's own times nor the clocks of a file server matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from cxrbatch.errors import Reason
from cxrbatch.indexing import Deferred
from cxrbatch.records import ImageFile, IndexedFile

ARRIVING = "still arriving"

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
    """A file as it was met last: since when it has been like that, and since when it is known at all."""

    size_bytes: int
    mtime_ns: int
    first_met: float
    same_since: float
    cut_short: bool = False
    held_back: bool = False
    judged_in: int = 0


class Arrivals:
    """What has arrived lately. Holds the files that nobody has scored yet, no others."""

    def __init__(self, settle_s: float, max_wait_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settle_s, self.max_wait_s = settle_s, max_wait_s
        self._clock = clock
        self._met: dict[str, _Arrival] = {}
        self._looks = 0

    def judge(self, entry: IndexedFile | Deferred) -> IndexedFile | Deferred:
        """Look at what the index says of a new or changed file, and hold back what may only be unfinished.

        Returns:
            The same entry; or, where its end may still be missing, a deferred file, or the file of a study that
            then waits for it.
        """
        arrival = self._meet(entry.file)
        arrival.judged_in = self._looks
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
                del self._met[path]

    def keep(self, waiting: Collection[str]) -> None:
        """Forget the files that have settled, but for those that still wait to be scored; ends a look at the folder.

        What is held back is judged in each look, until it is gone.
        """
        self._met = {
            path: arrival
            for path, arrival in self._met.items()
            if path in waiting
            or not self._is_settled(arrival)
            or (arrival.held_back and arrival.judged_in == self._looks)
        }
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
        return arrival

    def _find(self, path: str) -> _Arrival:
        """Return what is known of a file; one that only the ledger knows was met by an earlier process."""
        if path not in self._met:
            now = self._clock()
            self._met[path] = _Arrival(-1, -1, now, now)
        return self._met[path]

    def _is_settled(self, arrival: _Arrival) -> bool:
        return self._clock() - arrival.same_since >= self.settle_s

    def _waited_enough(self, arrival: _Arrival) -> bool:
        return self._clock() - arrival.first_met >= self.max_wait_s
