"""When a daemon derives its tables anew: they are of the whole output, which costs more the larger that has become."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cxrbatch.run.batch import Run

# While there is work the tables are derived anew at most this often, and take at most a twentieth of the time.
_EVERY_S = 10.0
_SHARE = 20


@dataclass(slots=True)
class Tables:
    """The tables of one output folder; `are_old`: something happened since they were written."""

    run: Run
    are_old: bool = True
    _written_at: float = 0.0
    _took_s: float = 0.0

    def due(self, *, idle: bool) -> float:
        """Return when they may be written again, on the monotonic clock."""
        return self._written_at + max(0.0 if idle else _EVERY_S, _SHARE * self._took_s)

    def write(self, *, idle: bool) -> None:
        """Write them where they are old and it is time; what they tell is finished where nothing waits."""
        if not self.are_old or time.monotonic() < self.due(idle=idle):
            return
        started = time.monotonic()
        self.run.print_overtaken()
        self.run.write_tables(finished=idle)
        self._written_at, self.are_old = time.monotonic(), False
        self._took_s = self._written_at - started
