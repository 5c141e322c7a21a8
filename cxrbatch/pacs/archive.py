"""What an archive is asked for, and what it answers: studies of some days, their series, and what those hold.

No name and no number of a patient is asked for: UIDs, dates, modalities and makers are all that choosing needs.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Protocol

from cxrbatch.errors import CxrBatchError

OWN_MANUFACTURER = "cxrbatch"
OWN_SERIES_NUMBERS = frozenset({9901, 9902, 9903})
_UUID_ROOT = "2.25."  # PS3.5 B.2
_LEAST_SPAN = timedelta(minutes=1)


class Lost(CxrBatchError):
    """An archive did not answer; says what happened.

    `may_pass` tells that it is worth trying again by and by.
    """

    def __init__(self, message: str, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Span:
    """A time from `first` to `last`, both of them in it, as the archive's clock on the wall shows it (no time zone)."""

    first: datetime
    last: datetime

    @property
    def dates(self) -> str:
        """As a range of dates (PS3.4 C.2.2.2.5)."""
        return f"{self.first:%Y%m%d}-{self.last:%Y%m%d}"

    @property
    def times(self) -> str:
        """As a range of times; empty for whole days, and for more than one: those keys match each for itself."""
        is_whole = (self.first.hour, self.first.minute) == (0, 0) and (self.last.hour, self.last.minute) == (23, 59)
        if is_whole or self.first.date() != self.last.date():
            return ""
        return f"{self.first:%H%M}00-{self.last:%H%M}59"

    def halves(self) -> tuple[Span, ...]:
        """Return two spans that make up this one, whole days as long as there are any; none of a minute."""
        days = (self.last.date() - self.first.date()).days
        if days:
            middle = datetime.combine(self.first.date(), datetime.min.time()) + timedelta(days=(days + 1) // 2)
        else:
            minutes = int((self.last - self.first) / _LEAST_SPAN) + 1
            middle = self.first + _LEAST_SPAN * (minutes // 2)
        if not self.first < middle <= self.last:
            return ()
        return Span(self.first, middle - _LEAST_SPAN), Span(middle, self.last)


@dataclass(frozen=True, slots=True)
class StudyFound:
    """A study; `modalities` and `began` are empty and None where the archive does not say."""

    uid: str
    modalities: frozenset[str] = frozenset()
    began: datetime | None = None


@dataclass(frozen=True, slots=True)
class SeriesFound:
    """A series; `objects` is how many it holds, 0 where the archive does not say."""

    study_uid: str
    uid: str
    modality: str = ""
    manufacturer: str = ""
    number: str = ""
    objects: int = 0

    @property
    def is_own(self) -> bool:
        """Tell whether cxrbatch made it: by its maker, or by number and kind of UID where that was rewritten."""
        if self.manufacturer.strip().casefold() == OWN_MANUFACTURER:
            return True
        with suppress(ValueError):
            is_made = uuid.UUID(int=int(self.uid.removeprefix(_UUID_ROOT))).version == 5
            return self.uid.startswith(_UUID_ROOT) and is_made and int(self.number) in OWN_SERIES_NUMBERS
        return False


@dataclass(frozen=True, slots=True)
class ObjectFound:
    """An object; `sop_class` is empty where the archive does not say."""

    uid: str
    sop_class: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """Studies that were found.

    `is_whole` is False where the archive says that there are more; `nameless` are those that it does not name.
    """

    studies: tuple[StudyFound, ...]
    is_whole: bool = True
    nameless: int = 0


class Archive(Protocol):
    """Somebody who keeps studies. Every method raises `Lost` where it does not answer."""

    @property
    def name(self) -> str:
        """What tells it from others."""

    def studies(self, span: Span, modality: str) -> Answers:
        """Return the studies of a time that have a series of this modality, or that might."""

    def series(self, study_uid: str) -> Sequence[SeriesFound]:
        """Return the series of a study."""

    def objects(self, series: SeriesFound) -> Sequence[ObjectFound]:
        """Return the objects of a series."""

    def fetch(self, series: SeriesFound, uids: Sequence[str], *, is_all: bool) -> str:
        """Let objects of a series come into the inbox, all of them or some; return what went wrong, in words, or ""."""

    def rest(self) -> None:
        """Close what is open: it will not be asked for a while."""


def span_since(since: timedelta, now: datetime, zone: tzinfo | None) -> Span:
    """Return the days to ask for, in the archive's own time: from that of the moment to tomorrow.

    An archive dates studies by its own clock, and by that of the modality: what looks like tomorrow from here may be
    today there. The first day is asked for as a whole, since dates and times match each for itself; `is_in` leaves out
    what is too early.

    Args:
        since: how long before now.
        now: with a time zone.
        zone: the archive's; None: this machine's.
    """
    moment = now.astimezone(timezone.utc) - since  # within one zone, differences would be those on the wall
    begun, here = moment.astimezone(zone), now.astimezone(zone)
    # Where clocks were set on or back since, so long ago is another time; in the hour that comes twice, the first one.
    again = (moment + timedelta(hours=1)).astimezone(zone)
    back = max((begun.utcoffset() or timedelta()) - (again.utcoffset() or timedelta()), timedelta())
    first, last = begun.replace(tzinfo=None) - back, here.replace(tzinfo=None) + timedelta(days=1)
    return Span(first.replace(second=0, microsecond=0), last.replace(hour=23, minute=59, second=0, microsecond=0))


def is_in(study: StudyFound, span: Span) -> bool:
    """Tell whether a study began in a span; one without a time might have."""
    return study.began is None or study.began >= span.first


def read_moment(date: str, time: str) -> datetime | None:
    """Return when a study began, by its date and time (PS3.5 DA and TM); None where they do not say."""
    digits = time.split(".", maxsplit=1)[0]
    for length, form in ((6, "%H%M%S"), (4, "%H%M"), (2, "%H")):
        if len(digits) >= length:
            with suppress(ValueError):
                return datetime.strptime(date + digits[:length], "%Y%m%d" + form)  # noqa: DTZ007  # in its own time
            break
    return None
