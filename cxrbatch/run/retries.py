"""When `watch` last tried again what failed, kept in the ledger: the next process is not to begin anew with that.

Under cron a process lives for a minute. What failed for a server that is away would be tried at every call, and soon
be refused for having failed so often.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.waiting import RETRIED
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.system.times import Moment, present_moment


@dataclass(frozen=True, slots=True)
class Retried:
    """When that was, and how long after that what failed may be tried again."""

    at: Moment
    retry_s: float = 0.0


class Retries:
    """Tells when what failed may be tried again."""

    def __init__(self, ledger: Ledger, retry_s: float) -> None:
        self._ledger, self._retry_s = ledger, retry_s
        self._last = read_retried(ledger.fact(RETRIED))

    def is_due(self) -> bool:
        """Tell whether the last time is long enough ago, or nobody knows how long."""
        if self._last is None:
            return True
        now = present_moment()
        return not self._last.at.is_comparable(now) or self._last.at.seconds_until(now) >= self._retry_s

    def note(self) -> None:
        """What failed was queued again just now."""
        self._last = Retried(present_moment(), self._retry_s)
        self._ledger.remember(RETRIED, to_json(self._last))


def read_retried(text: str) -> Retried | None:
    """Read what `Retries` keeps in the ledger; None for nothing, or for what another version kept there."""
    try:
        return from_json(text, Retried) if text else None
    except ValueError:
        return None
