"""Which studies are all there, told by a clock that the test sets."""

from __future__ import annotations

import pytest

from cxrbatch.errors import Reason
from cxrbatch.records import IndexedFile
from cxrbatch.run.headers import Deferred
from cxrbatch.watch.arrivals import ARRIVING, Arrivals
from tests.factories.ledgers import indexed_file


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def arrivals(clock: Clock) -> Arrivals:
    return Arrivals(60, 1800, clock=clock)


def test_a_study_waits_until_every_file_was_the_same_for_a_while(arrivals: Arrivals, clock: Clock) -> None:
    first, second = indexed_file("a"), indexed_file("b")
    assert arrivals.judge(first) is first
    clock.now += 50
    arrivals.judge(second)
    clock.now += 10
    assert arrivals.are_complete(["a"])
    assert not arrivals.are_complete(["a", "b"])
    clock.now += 50
    assert arrivals.are_complete(["a", "b"])


def test_a_file_that_changes_begins_to_settle_anew(arrivals: Arrivals, clock: Clock) -> None:
    arrivals.judge(indexed_file("a", 1))
    clock.now += 59
    arrivals.judge(indexed_file("a", 2))
    clock.now += 59
    assert not arrivals.are_complete(["a"])
    assert arrivals.next_due_s() == pytest.approx(1)
    clock.now += 1
    assert arrivals.are_complete(["a"])


def test_a_file_met_again_unchanged_goes_on_settling(arrivals: Arrivals, clock: Clock) -> None:
    arrivals.judge(indexed_file("a"))
    clock.now += 60
    arrivals.judge(indexed_file("a"))
    assert arrivals.are_complete(["a"])


@pytest.mark.parametrize("reason", [Reason.NOT_AN_IMAGE, Reason.UNREADABLE_HEADER])
def test_what_looks_unfinished_is_refused_only_once_it_settled(
    arrivals: Arrivals, clock: Clock, reason: Reason
) -> None:
    entry = indexed_file("a", key="", reason=reason)
    assert arrivals.judge(entry) == Deferred(entry.file, ARRIVING)
    arrivals.keep(())
    clock.now += 59
    assert arrivals.judge(entry) == Deferred(entry.file, ARRIVING)
    clock.now += 1
    arrivals.keep(())
    assert arrivals.judge(entry) is entry


def test_what_is_refused_for_what_it_says_is_refused_at_once(arrivals: Arrivals) -> None:
    entry = indexed_file("a", reason=Reason.NOT_CHEST)
    assert arrivals.judge(entry) is entry


def test_a_file_that_is_cut_short_holds_its_study_until_the_rest_comes(arrivals: Arrivals, clock: Clock) -> None:
    held = arrivals.judge(indexed_file("a", 1, reason=Reason.TRUNCATED_PIXELS))
    assert isinstance(held, IndexedFile)
    assert (held.study_key, held.rejection) == ("study", None)
    clock.now += 600
    assert not arrivals.are_complete(["a"])
    whole = indexed_file("a", 2)
    assert arrivals.judge(whole) is whole
    clock.now += 60
    assert arrivals.are_complete(["a"])


def test_a_study_that_never_settles_is_taken_as_it_is(arrivals: Arrivals, clock: Clock) -> None:
    cut = indexed_file("a", reason=Reason.TRUNCATED_PIXELS)
    arrivals.judge(cut)
    for size in range(2, 32):
        clock.now += 59
        arrivals.judge(indexed_file("b", size))
    clock.now = 2799
    assert not arrivals.are_complete(["a"])
    clock.now = 2800
    assert arrivals.are_complete(["a", "b"])
    assert arrivals.judge(cut) is cut


def test_a_file_found_to_be_cut_short_when_read_is_waited_for_once(arrivals: Arrivals, clock: Clock) -> None:
    arrivals.judge(indexed_file("a"))
    clock.now += 60
    assert arrivals.hold_cut_short(["a"])
    arrivals.forget(["a"])
    assert not arrivals.are_complete(["a"])
    clock.now = 2800
    assert arrivals.are_complete(["a"])
    assert not arrivals.hold_cut_short(["a"])
    arrivals.forget(["a"])
    assert arrivals.next_due_s() is None


def test_a_file_that_goes_on_changing_is_not_taken_again_at_once(arrivals: Arrivals, clock: Clock) -> None:
    arrivals.judge(indexed_file("a", 1))
    clock.now = 2800
    assert arrivals.are_complete(["a"])
    arrivals.forget(["a"])
    arrivals.judge(indexed_file("a", 2))
    assert not arrivals.are_complete(["a"])


def test_what_an_earlier_process_met_settles_anew(arrivals: Arrivals, clock: Clock) -> None:
    assert not arrivals.are_complete(["known to the ledger"])
    clock.now += 60
    assert arrivals.are_complete(["known to the ledger"])


def test_what_was_held_back_and_is_gone_is_forgotten(arrivals: Arrivals, clock: Clock) -> None:
    arrivals.judge(indexed_file("a.filepart", key="", reason=Reason.NOT_AN_IMAGE))
    arrivals.keep(())
    clock.now += 60
    arrivals.keep(())
    assert arrivals._met == {}


def test_only_what_waits_is_remembered(arrivals: Arrivals, clock: Clock) -> None:
    for path in ("scored", "waiting"):
        arrivals.judge(indexed_file(path))
    clock.now += 60
    arrivals.judge(indexed_file("new"))
    arrivals.keep({"waiting"})
    assert sorted(arrivals._met) == ["new", "waiting"]
