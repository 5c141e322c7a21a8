"""When a pull may fetch, and how much: hours of the day, objects per hour, and how long to wait after a failure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time as time_of_day, timedelta, timezone, tzinfo

from cxrbatch.errors import UsageError
from cxrbatch.system.stopping import stop_if_asked

_HOUR_S = 3600.0
_POLL_S = 0.2
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,6})\s*([smhd])")
_HOURS = re.compile(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)")
_LONGEST_PAUSE_S = 60.0


class Clock:
    """Time as it goes by; tests have one of their own."""

    def now(self) -> datetime:
        """Return this moment, in UTC."""
        return datetime.now(timezone.utc)

    def wait(self, seconds: float) -> None:
        """Wait; a stop that is asked for comes at once.

        Raises:
            Stopped: a signal asked for it.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            stop_if_asked()
            time.sleep(min(left, _POLL_S))
        stop_if_asked()


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of each day, from `begin` to just before `end`; across midnight where `end` is the earlier one."""

    begin: time_of_day
    end: time_of_day
    zone: tzinfo | None = None

    def wait_s(self, now: datetime) -> float:
        """Return how long it takes until they begin; 0 within them."""
        here = now.astimezone(self.zone)
        clock = here.time()
        crosses = self.begin >= self.end
        if (self.begin <= clock or clock < self.end) if crosses else (self.begin <= clock < self.end):
            return 0.0
        begins = here.replace(hour=self.begin.hour, minute=self.begin.minute, second=0, microsecond=0)
        if begins <= here:
            begins += timedelta(days=1)
        # By the clock on the wall: where it is set back or on meanwhile, the next look is at the new one.
        return max((begins - here).total_seconds(), 1.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much may be fetched: `per_hour` objects, 0 for any number."""

    per_hour: int = 0

    def wait_s(self, number: int, arrivals: Callable[[float], Sequence[float]], now: datetime) -> float:
        """Return how long to wait before so many objects may be fetched.

        A series of more objects than an hour may bring is fetched as soon as the last hour brought none.

        Args:
            number: how many are to come.
            arrivals: returns when objects came after a moment, the earliest first; in seconds since 1970.
            now: this moment.
        """
        if not self.per_hour:
            return 0.0
        came = arrivals(now.timestamp() - _HOUR_S)
        too_many = min(len(came) + number - self.per_hour, len(came))
        return max(0.0, came[too_many - 1] + _HOUR_S - now.timestamp() + 0.001) if too_many > 0 else 0.0


def pauses(first_s: float = 1.0) -> Callable[[int], float]:
    """Return how long to wait after so many failures in a row: twice as long each time, up to a minute."""
    return lambda failures: min(first_s * 2 ** min(failures - 1, 16), _LONGEST_PAUSE_S)


def read_duration(text: str, *, least_s: int = 1) -> timedelta:
    """Read `90s`, `30m`, `24h` or `7d`.

    Raises:
        UsageError: it is none of these, or too short.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not found or not least_s <= seconds <= 100 * 366 * 86_400:
        raise UsageError(f"{text!r} is no duration such as 90s, 30m, 24h or 7d.")
    return timedelta(seconds=seconds)


def read_hours(text: str, zone: tzinfo | None) -> Hours:
    """Read `20:00-06:00`, in a time zone; None: this machine's.

    Raises:
        UsageError: it is none.
    """
    found = _HOURS.fullmatch(text.strip())
    try:
        parts = [int(part) for part in found.groups()] if found else [24] * 4
        hours = Hours(time_of_day(parts[0], parts[1]), time_of_day(parts[2], parts[3]), zone)
    except ValueError:
        hours = None
    if hours is None or hours.begin == hours.end:
        raise UsageError(f"{text!r} are no hours such as 20:00-06:00.")
    return hours
