"""`cxrbatch pull` where time matters and archives misbehave: with a clock and an archive of the tests' own."""
# ruff: noqa: DTZ001  # an archive's dates and times have no zone

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.pacs.archive import (
    Answers,
    Lost,
    ObjectFound,
    SeriesFound,
    Span,
    StudyFound,
    is_in,
    read_moment,
    span_since,
)
from cxrbatch.pacs.pace import Clock, Hours, Pace, pauses, read_duration, read_hours
from cxrbatch.pacs.pull import Outcome, Pull, Wish
from cxrbatch.pacs.pulled import PullInbox
from cxrbatch.pacs.receive import RADIOGRAPHS
from cxrbatch.system.stopping import Stopped
from tests.factories.ports import free_port
from tests.pacs.conftest import radiograph

NEVER = datetime.max.replace(tzinfo=timezone.utc)
NOON = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
DAY = datetime(2026, 3, 10)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda m: m.replace(second=0, microsecond=0))


class Hourglass(Clock):
    """A clock that goes on as it is waited for; `until` ends the test that would wait for ever."""

    def __init__(self, moment: datetime = NOON, until: datetime = NEVER) -> None:
        self.moment, self.until = moment, until
        self.waited: list[float] = []

    def now(self) -> datetime:
        return self.moment

    def timestamp(self) -> float:
        return self.moment.timestamp()

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.moment += timedelta(seconds=seconds)
        if self.moment > self.until:
            raise Stopped(15)


@dataclass(slots=True)
class Shelf:
    """An archive that holds series of so many objects each, and fails as it is told."""

    inbox: PullInbox
    series_sizes: dict[str, int]
    failures: list[Lost | str] = field(default_factory=list)
    most_answers: int = 1000
    broken: set[str] = field(default_factory=set)
    unlisted: int = 0
    fetched: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    name: str = "SHELF"

    def studies(self, span: Span, modality: str) -> Answers:
        self.asked.append((span.dates, span.times))
        # The last part of a study's UID is its minute of the day.
        began = {uid: DAY + timedelta(minutes=int(uid.split(".")[-1])) for uid in self.series_sizes}
        found = [StudyFound(uid, began=when) for uid, when in began.items() if span.first <= when <= span.last]
        return Answers(tuple(found[: self.most_answers]), len(found) <= self.most_answers)

    def series(self, study_uid: str) -> Sequence[SeriesFound]:
        return [SeriesFound(study_uid, f"{study_uid}.5", "CR", objects=self.series_sizes[study_uid])]

    def objects(self, series: SeriesFound) -> Sequence[ObjectFound]:
        kept = [ObjectFound(f"{series.uid}.{n}", RADIOGRAPHS[0]) for n in range(series.objects - self.unlisted)]
        return [*kept, ObjectFound(f"{series.uid}.99", "1.2.840.10008.5.1.4.1.1.11.1")]  # a presentation state

    def fetch(self, series: SeriesFound, uids: Sequence[str], *, is_all: bool) -> str:
        assert not is_all  # or the presentation state would come, too
        if series.uid in self.broken:
            raise Lost("SHELF: went away")
        failure = self.failures.pop(0) if self.failures else ""
        for uid in uids[: 1 if failure else None]:
            received = self.inbox.incoming / "received.dcm"
            radiograph(series.study_uid, uid).save_as(received, enforce_file_format=True)
            self.inbox.take(received, series.study_uid, uid)
            self.fetched.append(uid)
        if isinstance(failure, Lost):
            raise failure
        return failure

    def rest(self) -> None:
        pass


Open = Callable[..., tuple[Pull, Shelf, Hourglass]]


def opened(inbox: PullInbox, clock: Hourglass, sizes: dict[str, int], wish: Wish) -> tuple[Pull, Shelf, list[str]]:
    told: list[str] = []
    shelf = Shelf(inbox, sizes)
    pull = Pull(shelf, inbox, wish, told.append)
    pull.clock = clock
    return pull, shelf, told


def a_day(**rules: object) -> Wish:
    return Wish(timedelta(hours=24), zone=timezone.utc, **rules)  # type: ignore[arg-type]


def inbox_at(root: Path, clock: Hourglass) -> PullInbox:
    return PullInbox(root, clock=clock.timestamp)


# --------------------------------------------------------------------------- pace and hours


def test_no_hour_brings_more_than_it_may(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, _ = opened(inbox, clock, {f"1.{n}.480": 2 for n in range(1, 7)}, a_day(pace=Pace(5)))
        assert pull.round().came == 12
        arrivals = inbox.arrivals(0)
    assert all(sum(first <= each < first + 3600 for each in arrivals) <= 5 for first in arrivals)
    assert clock.moment - NOON < timedelta(hours=2, minutes=5)  # 4, 4 and 4
    assert len(shelf.fetched) == 12


def test_the_pace_holds_across_starts_and_a_larger_series_than_an_hour_may_bring_still_comes(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        opened(inbox, clock, {"1.480": 3}, a_day(pace=Pace(4)))[0].round()
    with inbox_at(tmp_path, clock) as inbox:
        outcome = opened(inbox, clock, {"2.480": 9}, a_day(pace=Pace(4)))[0].round()
    assert outcome.came == 9
    assert timedelta(hours=1) <= clock.moment - NOON < timedelta(hours=1, minutes=2)


def test_what_the_hours_do_not_hold_is_left(tmp_path: Path) -> None:
    clock = Hourglass()
    night = Hours(time(20), time(6), timezone.utc)
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, _ = opened(inbox, clock, {"1.480": 2, "2.540": 2, "3.600": 2}, a_day(hours=night, pace=Pace(2)))
        outcome = pull.round()
        assert (outcome.came, outcome.reasons, shelf.asked) == (0, ["it is not within the hours"], [])
        clock.moment = NOON.replace(hour=4, minute=30) + timedelta(days=1)
        outcome = pull.round()
        assert (outcome.came, outcome.is_done) == (4, False)
        assert clock.moment.hour == 6


def test_as_a_daemon_it_waits_for_the_hours(tmp_path: Path) -> None:
    clock = Hourglass(until=NOON + timedelta(hours=12))
    evening = Hours(time(20), time(22), timezone.utc)
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, told = opened(inbox, clock, {"1.480": 2}, a_day(hours=evening))
        with pytest.raises(Stopped):
            pull.go_on(600)
    assert clock.waited[0] == 8 * 3600
    assert len(shelf.fetched) == 2
    assert told.count("left for another time: it is not within the hours") == 2  # before, and after


@pytest.mark.parametrize(
    ("now", "hours", "wait_h"),
    [
        ("12:00", "20:00-06:00", 8.0),
        ("20:00", "20:00-06:00", 0.0),
        ("23:59", "20:00-06:00", 0.0),
        ("00:00", "20:00-06:00", 0.0),
        ("05:59", "20:00-06:00", 0.0),
        ("06:00", "20:00-06:00", 14.0),
        ("08:30", "08:00-09:00", 0.0),
        ("09:00", "08:00-09:00", 23.0),
        ("07:30", "08:00-00:00", 0.5),
        ("23:30", "08:00-00:00", 0.0),
    ],
)
def test_hours_of_a_day_and_across_midnight(now: str, hours: str, wait_h: float) -> None:
    hour, minute = map(int, now.split(":"))
    tokyo = ZoneInfo("Asia/Tokyo")
    moment = datetime(2026, 3, 10, hour, minute, tzinfo=tokyo).astimezone(timezone.utc)
    assert read_hours(hours, tokyo).wait_s(moment) == wait_h * 3600


@pytest.mark.parametrize("text", ["", "20:00", "8-9", "24:00-06:00", "20:60-06:00", "08:00-08:00", "20:00-06:00x"])
def test_what_are_no_hours_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no hours"):
        read_hours(text, None)


def test_durations() -> None:
    assert [read_duration(each).total_seconds() for each in ("90s", "30m", "24h", " 7D ")] == [90, 1800, 86400, 604800]
    for wrong in ("", "0h", "24", "h", "-1h", "1.5h", "1w", "999999d"):
        with pytest.raises(UsageError, match="no duration"):
            read_duration(wrong)
    assert [pauses(1.0)(failures) for failures in (1, 2, 3, 7, 1000)] == [1, 2, 4, 60, 60]


# --------------------------------------------------------------------------- what goes wrong


def test_a_lost_connection_is_tried_again_for_what_did_not_come(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, told = opened(inbox, clock, {"1.480": 4}, a_day(modalities=("CR",)))
        shelf.failures = [Lost("SHELF: went away"), Lost("SHELF: went away")]
        assert pull.round().is_done
    assert shelf.fetched == [f"1.480.5.{n}" for n in range(4)]  # none of them twice
    assert told == ["SHELF: went away; tried again in 1 s", "SHELF: went away; tried again in 2 s"]


def test_an_archive_that_stays_away_is_left_for_another_time(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, _ = opened(inbox, clock, {"1.480": 9}, a_day(tries=3, modalities=("CR",)))
        shelf.failures = [Lost("away")] * 3
        outcome = pull.round()
        assert (outcome.came, outcome.reasons, outcome.is_done) == (3, ["away"], False)
        shelf.failures = [Lost("no such thing here", may_pass=False)]
        assert pull.round().reasons == ["no such thing here"]
        assert clock.waited == [1, 2]
        assert pull.round().came == 5
        assert pull.round() == Outcome(studies=1, series=1)


def test_a_series_that_never_comes_holds_up_no_other(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, _ = opened(inbox, clock, {"1.480": 1, "2.540": 2, "3.600": 1}, a_day(tries=2))
        shelf.broken = {"1.480.5"}
        outcome = pull.round()
        assert (outcome.came, outcome.series, outcome.is_done) == (3, 3, False)
        assert outcome.reasons == ["SHELF: went away"]
    assert shelf.fetched == ["2.540.5.0", "2.540.5.1", "3.600.5.0"]


def test_what_is_counted_but_not_listed_yet_is_asked_for_again(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, _ = opened(inbox, clock, {"1.480": 4}, a_day())
        shelf.unlisted = 2
        assert pull.round().came == 2
        shelf.unlisted = 0
        assert pull.round().came == 2
    assert shelf.fetched == [f"1.480.5.{n}" for n in range(4)]


def test_what_an_archive_could_not_send_is_left_and_others_come(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, told = opened(inbox, clock, {"1.480": 3, "2.540": 3}, a_day())
        shelf.failures = ["some of it failed (status B000); 2 of its objects failed, 0 with a warning"]
        outcome = pull.round()
        pull.report(outcome)
        assert (outcome.came, outcome.left) == (4, 2)
        assert told[0] == "SHELF: studies 2, series 2, new objects 4, objects still to come 2"
        assert "2 of its objects failed" in told[1]
        outcome = pull.round()
        assert (outcome.came, outcome.left, outcome.is_done) == (2, 0, True)


def test_what_was_stored_but_not_noted_does_not_come_again(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        (tmp_path / "1.480").mkdir()
        (tmp_path / "1.480" / "1.480.5.0.dcm").write_bytes(b"stored, then killed")
        pull, shelf, _ = opened(inbox, clock, {"1.480": 2}, a_day())
        assert pull.round().came == 1
    assert shelf.fetched == ["1.480.5.1"]


def test_what_came_and_cannot_be_noted_is_there_all_the_same(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        pull, shelf, _ = opened(inbox, clock, {"1.480": 1}, a_day())
        inbox._known.execute("PRAGMA query_only = ON")  # as where not a byte is left
        received = inbox.incoming / "received.dcm"
        radiograph("1.480", "1.480.5.0").save_as(received, enforce_file_format=True)
        with pytest.raises(OSError, match="cannot be noted"):
            inbox.take(received, "1.480", "1.480.5.0")
        assert pull.round().is_done
        assert not shelf.fetched


def test_a_record_that_is_damaged_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with PullInbox(tmp_path) as inbox:
        (record,) = inbox.incoming.glob("kept-*.sqlite")
    record.write_bytes(b"no database, but long enough to be taken for one" * 100)
    arguments = ["pull", str(tmp_path), "127.0.0.1", str(free_port())]
    assert run_command_line(arguments) == ExitCode.CONFIGURATION
    assert "what was pulled cannot be read" in capfd.readouterr().err
    record.unlink()
    with PullInbox(tmp_path):  # and nobody holds it
        pass


# --------------------------------------------------------------------------- which time is asked for


def test_the_days_are_those_of_the_archive() -> None:
    late = datetime(2026, 3, 10, 20, tzinfo=timezone.utc)  # the 11th in Tokyo, 05:00
    span = span_since(timedelta(hours=2), late, ZoneInfo("Asia/Tokyo"))
    assert (span.dates, span.times) == ("20260311-20260312", "")
    assert span_since(timedelta(hours=6), late, ZoneInfo("Asia/Tokyo")).dates == "20260310-20260312"
    assert span_since(timedelta(hours=6), late, ZoneInfo("America/New_York")).dates == "20260310-20260311"
    assert is_in(StudyFound("1", began=datetime(2026, 3, 11, 3)), span)
    assert not is_in(StudyFound("1", began=datetime(2026, 3, 11, 2, 59)), span)
    assert is_in(StudyFound("1"), span)


def test_so_long_ago_is_so_long_ago_where_clocks_were_set_on_or_back() -> None:
    zurich, day = ZoneInfo("Europe/Zurich"), timedelta(hours=24)
    on = datetime(2026, 3, 29, 12, tzinfo=zurich)  # 03:00 followed 01:59 in that night
    assert span_since(day, on, zurich).first == datetime(2026, 3, 28, 11)
    back = datetime(2026, 10, 25, 12, tzinfo=zurich)
    assert span_since(day, back, zurich).first == datetime(2026, 10, 24, 13)
    # 02:45 came twice; of 02:10, half an hour later on the wall of the second time, nothing may be left out.
    twice = datetime(2026, 10, 26, 1, 45, tzinfo=timezone.utc)
    assert span_since(timedelta(hours=25), twice, zurich).first <= datetime(2026, 10, 25, 2, 10)


@pytest.mark.parametrize(
    ("date", "time_", "moment"),
    [
        ("20260310", "081530.123", datetime(2026, 3, 10, 8, 15, 30)),
        ("20260310", "0815", datetime(2026, 3, 10, 8, 15)),
        ("20260310", "", None),
        ("", "081530", None),
        ("2026.3.1", "081530", None),
    ],
)
def test_when_a_study_began(date: str, time_: str, moment: datetime | None) -> None:
    assert read_moment(date, time_) == moment


@given(first=MOMENTS, length=st.timedeltas(timedelta(0), timedelta(days=40)))
@settings(max_examples=60, deadline=None)
def test_halves_are_the_whole_without_overlap_down_to_a_minute(first: datetime, length: timedelta) -> None:
    span = Span(first, first + timedelta(minutes=int(length / timedelta(minutes=1))))
    halves = span.halves()
    if not halves:
        assert span.first == span.last
        return
    left, right = halves
    assert (left.first, right.last) == (span.first, span.last)
    assert right.first - left.last == timedelta(minutes=1)
    assert left.first <= left.last < right.first <= right.last


def test_a_limited_archive_is_asked_until_it_tells_all(tmp_path: Path) -> None:
    clock = Hourglass()
    with inbox_at(tmp_path, clock) as inbox:
        sizes = {f"1.{minute}": 1 for minute in range(480, 520)}
        pull, shelf, _ = opened(inbox, clock, sizes, a_day(modalities=("CR",)))
        shelf.most_answers = 3
        outcome = pull.round()
    assert outcome.is_done, outcome.reasons
    assert outcome.came == 40
    assert all(times == "" or dates[:8] == dates[9:] for dates, times in shelf.asked)


# --------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name HOST and PORT"),
        (["pacs"], "name HOST and PORT"),
        (["pacs", "104", "--dicomweb", "http://x"], "takes the place"),
        (["--dicomweb", "http://user:secret@x"], "no user, password"),
        (["pacs", "104", "--since", "yesterday"], "no duration"),
        (["pacs", "104", "--every", "5"], "no duration"),
        (["pacs", "104", "--hours", "night"], "no hours"),
        (["pacs", "104", "--timezone", "Moon/Sea"], "no such zone"),
        (["pacs", "104", "--modality", "C*R"], "takes names"),
        (["pacs", "104", "--listen-tls"], "--listen-tls needs"),
    ],
)
def test_what_is_no_command_is_told(
    arguments: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["pull", str(tmp_path / "in"), *arguments]) == ExitCode.USAGE
    assert told in capfd.readouterr().err
