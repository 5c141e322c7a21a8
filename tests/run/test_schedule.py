"""Times of day and ages as people write them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

from cxrbatch.errors import ConfigurationError
from cxrbatch.run.schedule import Deadline, parse_since


@pytest.fixture
def berlin() -> Iterator[None]:
    """A place where the clocks change."""
    former = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    os.environ.pop("TZ") if former is None else os.environ.__setitem__("TZ", former)
    time.tzset()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


@pytest.mark.parametrize(
    ("now", "deadline", "hours"),
    [
        ("2026-11-20T22:00", "06:00", 8),
        ("2026-11-20T05:00", "06:00", 1),
        ("2026-11-20T06:00", "6:00", 24),
        ("2026-03-28T22:00", "06:00", 7),  # the clocks go forward that night
        ("2026-10-24T22:00", "06:00", 9),  # and back
    ],
)
def test_the_deadline_is_the_next_such_time_of_day(berlin: None, now: str, deadline: str, hours: int) -> None:
    begun = at(now)
    found = Deadline.parse(deadline, now=lambda: begun)
    assert found.at - begun == timedelta(hours=hours)
    assert found.leaves_time(3600 * hours - 1)
    assert not found.leaves_time(3600 * hours)


@pytest.mark.parametrize("text", ["24:00", "6", "06:60", "noon", "06:00:00"])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no time of day such as 06:00"):
        Deadline.parse(text)


def test_since_takes_dates_times_and_ages() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
    assert parse_since("36h", now=lambda: now) == int((now - timedelta(hours=36)).timestamp()) * 10**9
    assert parse_since("2w", now=lambda: now) == int((now - timedelta(weeks=2)).timestamp()) * 10**9
    assert parse_since("2026-11-20") == int(at("2026-11-20").timestamp()) * 10**9
    assert (
        parse_since("2026-11-20T08:30+00:00")
        == int(datetime(2026, 11, 20, 8, 30, tzinfo=timezone.utc).timestamp()) * 10**9
    )


@pytest.mark.parametrize("text", ["yesterday", "7", "7y", ""])
def test_since_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a date such as"):
        parse_since(text)
