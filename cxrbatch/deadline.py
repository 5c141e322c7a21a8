"""A time of day in, whether there is still time for another study out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cxrbatch.errors import ConfigurationError

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
