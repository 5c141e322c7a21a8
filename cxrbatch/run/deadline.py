"""Times as people write them: until when to work, how old is too old, and since when."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cxrbatch.errors import ConfigurationError

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
