"""Studies that come by themselves: ask an archive what is new, and let what is wanted come into INPUT. Start at `Pull`.

Lines that are told name the archive and numbers, and nothing of a patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta, tzinfo
from typing import NoReturn, TypeVar

from cxrbatch.pacs.archive import Archive, Lost, ObjectFound, SeriesFound, Span, StudyFound, is_in, span_since
from cxrbatch.pacs.pace import Clock, Hours, Pace, pauses
from cxrbatch.pacs.pulled import PullInbox
from cxrbatch.pacs.receive import RADIOGRAPHS
from cxrbatch.system.stopping import stop_if_asked

Answer = TypeVar("Answer")

# An archive may say that it has sent before its last object is acknowledged.
_LATE_S, _POLL_S = 10.0, 0.2
_CLASSES = frozenset(RADIOGRAPHS)


@dataclass(frozen=True, slots=True)
class Wish:
    """What to pull, and how.

    Attributes:
        since: how far back studies are looked for.
        modalities: of the series that come; none: of all that hold images we take.
        zone: the archive's time zone; None: this machine's.
        pace: how much per hour.
        hours: when; None: at any time.
        tries: failed attempts in a row after which the rest is left for another time.
        pause_s: how long to wait after so many failures in a row.
    """

    since: timedelta
    modalities: tuple[str, ...] = ("CR", "DX")
    zone: tzinfo | None = None
    pace: Pace = field(default_factory=Pace)
    hours: Hours | None = None
    tries: int = 5
    pause_s: Callable[[int], float] = field(default_factory=pauses)


@dataclass(slots=True)
class Outcome:
    """What became of one round; `left` counts the objects that are wanted and not here.

    `reasons` are why something is left, in words, each once.
    """

    studies: int = 0
    series: int = 0
    own: int = 0
    came: int = 0
    left: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Tell whether all that is wanted is here, as far as the archive told."""
        return not self.left and not self.reasons

    def note(self, reason: str) -> None:
        """Say why something is left."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def __str__(self) -> str:
        """Return the round as a line."""
        parts = [f"studies {self.studies}", f"series {self.series}", f"new objects {self.came}"]
        if self.own:
            parts.append(f"our own series, not fetched {self.own}")
        if self.left:
            parts.append(f"objects still to come {self.left}")
        return ", ".join(parts)


class _OutOfHours(Exception):
    """The hours ended; what is left comes another time."""


class Pull:
    """Brings what is new in an archive into an inbox."""

    def __init__(self, archive: Archive, inbox: PullInbox, wish: Wish, tell: Callable[[str], None]) -> None:
        """Take the archive, where objects go, what is wanted, and who is told what goes wrong."""
        self._archive, self._inbox, self._wish, self._tell = archive, inbox, wish, tell
        self.clock = Clock()
        self._failures = 0  # in a row, whatever was asked for

    def round(self) -> Outcome:
        """Ask once, and let come what is new; what fails is tried again, and in the end left for another time.

        Raises:
            ConfigurationError: the archive does not know where to send.
            Stopped: a signal asked for it.
        """
        outcome, later, self._failures = Outcome(), list[SeriesFound](), 0
        try:
            self._require_hours()
            for study in self._studies(outcome):
                outcome.studies += 1
                for series in self._patiently(lambda study=study: self._archive.series(study.uid)):  # type: ignore[misc]
                    if not self._took(series, outcome):
                        later.append(series)
            for series in later:
                while not self._took(series, outcome):
                    pass
        except _OutOfHours:
            outcome.note("it is not within the hours")
        except Lost as error:
            outcome.note(str(error))
        finally:
            self._archive.rest()
        return outcome

    def report(self, outcome: Outcome) -> None:
        """Tell what became of a round, and why something is left."""
        self._tell(f"{self._archive.name}: {outcome}")
        for reason in outcome.reasons:
            self._tell(f"left for another time: {reason}")

    def go_on(self, every_s: float) -> NoReturn:
        """Ask again and again, within the hours; tell of rounds that brought something, or could not.

        Raises:
            ConfigurationError: the archive does not know where to send.
            Stopped: a signal asked for it.
        """
        reasons: list[str] = []
        while True:
            outcome = self.round()
            if outcome.came or outcome.reasons != reasons:
                self.report(outcome)
            reasons = outcome.reasons
            hours = self._wish.hours
            self.clock.wait(max(every_s, hours.wait_s(self.clock.now()) if hours else 0.0))

    def _studies(self, outcome: Outcome) -> Iterator[StudyFound]:
        """Yield each study of the time once, whichever of its modalities it was found by."""
        span = span_since(self._wish.since, self.clock.now(), self._wish.zone)
        begin = Span(span.first.replace(hour=0, minute=0), span.last)
        seen: set[str] = set()
        for modality in self._wish.modalities or ("",):
            for study in self._asked(begin, modality, outcome):
                is_other = bool(modality and study.modalities) and study.modalities.isdisjoint(self._wish.modalities)
                if study.uid not in seen and is_in(study, span) and not is_other:
                    seen.add(study.uid)
                    yield study

    def _asked(self, span: Span, modality: str, outcome: Outcome) -> Iterator[StudyFound]:
        """Ask for a time; where the archive does not tell all of it, for its halves."""
        stop_if_asked()
        answers = self._patiently(lambda: self._archive.studies(span, modality))
        if answers.nameless:
            outcome.note("the archive found studies that it does not name")
        halves = () if answers.is_whole else span.halves()
        if not answers.is_whole and not halves:
            outcome.note("the archive tells only some of the studies of a minute")
        for half in halves:
            yield from self._asked(half, modality, outcome)
        if not halves:
            yield from answers.studies

    def _took(self, series: SeriesFound, outcome: Outcome) -> bool:
        """Let what is new in a series come; False where that failed for now: one that never comes holds up no other."""
        before = outcome.series
        try:
            self._take_series(series, outcome)
        except Lost as error:
            if not self._may_pass(error):
                raise
            outcome.series = before
            self._pause(error)
            return False
        return True

    def _take_series(self, series: SeriesFound, outcome: Outcome) -> None:
        wish = self._wish
        if series.is_own:
            outcome.own += 1
            return
        if wish.modalities and series.modality and series.modality not in wish.modalities:
            return
        outcome.series += 1
        if series.objects and series.objects == self._inbox.objects_of(series.uid):
            return
        objects = self._once(lambda: self._archive.objects(series))
        wanted = [each.uid for each in objects if not each.sop_class or each.sop_class in _CLASSES]
        missing = self._inbox.missing(series.study_uid, wanted)
        left = self._fetch(series, objects, missing, outcome) if missing else 0
        outcome.left += left
        if not left:
            # Not what the archive counts: it may count what it does not list yet.
            self._inbox.note_series(series.uid, len({each.uid for each in objects}))

    def _fetch(self, series: SeriesFound, objects: Sequence[ObjectFound], missing: list[str], outcome: Outcome) -> int:
        """Let objects come; return how many did not."""
        self._wait_for_turn(len(missing))
        before = missing

        def fetch() -> str:
            # Some came before the line broke.
            still = self._inbox.missing(series.study_uid, before)
            return self._archive.fetch(series, still, is_all=len(still) == len(objects)) if still else ""

        try:
            problem = self._once(fetch)
            self._failures = 0
            if not problem:
                self._wait_for_late(series, before)
        finally:
            missing = self._inbox.missing(series.study_uid, before)
            outcome.came += len(before) - len(missing)
        if missing:
            outcome.note(problem or "the archive said that it had sent what did not come")
        return len(missing)

    def _wait_for_late(self, series: SeriesFound, uids: Sequence[str]) -> None:
        deadline = self.clock.now() + timedelta(seconds=_LATE_S)
        while self._inbox.missing(series.study_uid, uids) and self.clock.now() < deadline:
            self.clock.wait(_POLL_S)

    def _wait_for_turn(self, number: int) -> None:
        """Wait until so many objects may be fetched.

        Raises:
            _OutOfHours: the hours end before.
        """
        self._require_hours()
        while wait_s := self._wish.pace.wait_s(number, self._inbox.arrivals, self.clock.now()):
            self._archive.rest()
            self.clock.wait(min(wait_s, 60.0))
            self._require_hours()

    def _require_hours(self) -> None:
        if self._wish.hours is not None and self._wish.hours.wait_s(self.clock.now()):
            raise _OutOfHours

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask, again and again where that may help.

        Raises:
            Lost: it did not help.
        """
        while True:
            try:
                answer = self._once(ask)
            except Lost as error:
                if not self._may_pass(error):
                    raise
                self._pause(error)
            else:
                self._failures = 0
                return answer

    def _once(self, ask: Callable[[], Answer]) -> Answer:
        stop_if_asked()
        try:
            return ask()
        except Lost:
            stop_if_asked()
            self._failures += 1
            self._archive.rest()
            raise

    def _may_pass(self, error: Lost) -> bool:
        return error.may_pass and self._failures < self._wish.tries

    def _pause(self, error: Lost) -> None:
        pause_s = self._wish.pause_s(self._failures)
        self._tell(f"{error}; tried again in {pause_s:g} s")
        self.clock.wait(pause_s)
