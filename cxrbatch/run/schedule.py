"""When something is done: until when to work, since when, how old is too old, and when what failed is tried again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cxrbatch.errors import ConfigurationError
from cxrbatch.output.ledger.ledger import RETRIED, Ledger
from cxrbatch.system.logbook import log_event
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.system.times import Moment, present_moment

_AGE = re.compile(r"(\d+)([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def _now() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment when a run is to be over; the clock on the wall counts, for that is what people mean."""

    at: datetime
    now: Callable[[], datetime] = _now

    @classmethod
    def parse(cls, text: str, now: Callable[[], datetime] = _now) -> Deadline:
        """Read a local time such as 06:00: today's, or tomorrow's where today's has passed.

        Raises:
            ConfigurationError: it is no time of day.
        """
        match = _TIME.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"deadline: {text!r} is no time of day such as 06:00.")
        begun = now()
        today = begun.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0, tzinfo=None)
        at = today.astimezone()
        if at <= begun:
            # Not 24 hours later: on the day that the clocks change, the same time of day is 23 or 25 away.
            at = (today + timedelta(days=1)).astimezone()
        return cls(at, now)

    def leaves_time(self, needed_s: float) -> bool:
        """Tell whether so many seconds are left."""
        return (self.at - self.now()).total_seconds() > needed_s


@dataclass(frozen=True, slots=True)
class Hours:
    """Which studies a run takes, those with a file modified since `since_ns`, and until when it works on them.

    `since_ns` is in nanoseconds since 1970; no study is begun that would not be finished by the deadline.
    """

    since_ns: int = 0
    deadline: Deadline | None = None

    @classmethod
    def parse(cls, since: str | None = None, deadline: str | None = None) -> Hours:
        """Read what a command line says of them.

        Raises:
            ConfigurationError: one of the two makes no sense.
        """
        return cls(parse_since(since) if since else 0, Deadline.parse(deadline) if deadline else None)


AT_ANY_TIME = Hours()


def parse_age(text: str) -> timedelta:
    """Read an age such as 90d, 12w or 36h.

    Raises:
        ConfigurationError: it is none.
    """
    age = _AGE.fullmatch(text)
    # Years have four digits.
    if age is None or (passed := timedelta(**{_UNITS[age[2]]: min(int(age[1]), 10**6)})) > timedelta(days=365_000):
        raise ConfigurationError(f"{text!r} is no age such as 90d, 12w or 36h.")
    return passed


def parse_since(text: str, now: Callable[[], datetime] = _now) -> int:
    """Read a local date or time (ISO 8601), or an age such as 36h or 7d; return nanoseconds since 1970.

    Raises:
        ConfigurationError: it is neither.
    """
    try:
        moment = now() - parse_age(text) if _AGE.fullmatch(text) else datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"since: {text!r} is neither a date such as 2026-11-20 nor an age such as 7d."
        ) from None
    return int(moment.timestamp()) * 1_000_000_000


def in_time(study_keys: Iterable[str], deadline: Deadline | None, done: Callable[[], int]) -> Iterator[str]:
    """Yield keys as long as what was begun, and one more, would be finished by the deadline at the rate so far."""
    if deadline is None:
        yield from study_keys
        return
    started, done_before = time.monotonic(), done()
    for begun, study_key in enumerate(study_keys):
        finished = done() - done_before
        seconds_each = (time.monotonic() - started) / finished if finished else 0.0
        if not deadline.leaves_time((begun - finished + 1) * seconds_each):
            log_event("deadline reached", studies_begun=begun)
            return
        yield study_key


@dataclass(frozen=True, slots=True)
class Retried:
    """When that was, and how long after that what failed may be tried again."""

    at: Moment
    retry_s: float = 0.0


class Retries:
    """When `watch` last tried again what failed, kept in the ledger: the next process is not to begin anew with that.

    Under cron a process lives for a minute. What failed for a server that is away would be tried at every call, and
    soon be refused for having failed so often.
    """

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
