"""What is known of arrivals outlives the process: under cron, after a kill, across a restart of the machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from cxrbatch.errors import Reason
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import Header, ImageFile, IndexedFile
from cxrbatch.run.headers import Deferred
from cxrbatch.system.times import Moment
from cxrbatch.watch.arrivals import Arrivals
from tests.factories.ledgers import indexed_file

pytestmark = pytest.mark.hostile("9.11 watch --once has a memory")

SETTLE_S, MAX_WAIT_S = 60.0, 1800.0
HOUR_S = 3600.0
YEAR_S = 365 * 86400.0


@dataclass(slots=True)
class Machine:
    """A machine that can be started again, with a clock on its wall that anybody may set."""

    folder: Path
    boot: str = "first"
    up_s: float = 1000.0
    wall_s: float = 1_800_000_000.0

    def moment(self) -> Moment:
        return Moment(self.boot, self.up_s, self.wall_s)

    def pass_time(self, seconds: float, *, wall_s: float | None = None) -> None:
        self.up_s += seconds
        self.wall_s += seconds if wall_s is None else wall_s

    def start_again(self, *, wall_s: float = 0.0) -> None:
        self.boot, self.up_s = f"{self.boot}+", 5.0
        self.wall_s += wall_s

    @contextmanager
    def process(self) -> Iterator[tuple[Arrivals, Ledger]]:
        """A process that looks at the folder: what it knows in memory ends with it, as with SIGKILL."""
        with Ledger(self.folder) as ledger:
            arrivals = Arrivals(SETTLE_S, MAX_WAIT_S, clock=lambda: self.up_s)
            arrivals.go_on(ledger.arrivals)
            yield arrivals, ledger

    def look(self, *entries: IndexedFile, waiting: tuple[str, ...] = ()) -> None:
        """Let a process of its own look at new or changed files, once."""
        with self.process() as (arrivals, ledger):
            look(arrivals, ledger, *entries, waiting=waiting)

    def is_complete(self, *paths: str) -> bool:
        with self.process() as (arrivals, _):
            return arrivals.are_complete(paths)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr("cxrbatch.system.times._boot", lambda: machine.boot)
    monkeypatch.setattr("time.time", lambda: machine.wall_s)
    return machine


def cut(path: str, size: int = 1) -> IndexedFile:
    return indexed_file(path, size, reason=Reason.TRUNCATED_PIXELS)


def look(arrivals: Arrivals, ledger: Ledger, *entries: IndexedFile, waiting: tuple[str, ...] = ()) -> None:
    for entry in entries:
        judged = arrivals.judge(entry)
        if isinstance(judged, Deferred):
            ledger.index.record_deferred(judged.file, judged.message)
        else:
            ledger.index.record([judged])
    arrivals.keep(waiting or tuple(entry.file.path for entry in entries))
    arrivals.save()


def kept(machine: Machine) -> list[str]:
    with machine.process() as (_, ledger):
        return sorted(row.path for row in ledger.arrivals.rows())


def test_a_study_with_one_truncated_file_is_taken_in_the_end_by_processes_that_live_for_a_moment(
    machine: Machine,
) -> None:
    machine.look(cut("a"), indexed_file("b"))
    for _ in range(5):
        machine.pass_time(350)
        assert not machine.is_complete("a", "b")
    machine.pass_time(50)
    assert machine.is_complete("a", "b")


def test_what_was_the_same_since_the_process_before_has_settled(machine: Machine) -> None:
    machine.look(indexed_file("a"))
    machine.pass_time(59)
    assert not machine.is_complete("a")
    machine.pass_time(1)
    assert machine.is_complete("a")


def test_a_file_cut_short_only_once_read_is_remembered_as_such(machine: Machine) -> None:
    machine.look(indexed_file("a"))
    machine.pass_time(60)
    with machine.process() as (arrivals, _):
        assert arrivals.hold_cut_short(["a"])
        arrivals.save()
    machine.pass_time(60)
    assert not machine.is_complete("a")
    machine.pass_time(MAX_WAIT_S)
    assert machine.is_complete("a")


@pytest.mark.parametrize("reason", [Reason.NOT_AN_IMAGE, Reason.UNREADABLE_HEADER])
def test_what_looks_unfinished_is_refused_by_the_process_after_if_it_is_still_the_same(
    machine: Machine, reason: Reason
) -> None:
    entry = indexed_file("a", key="", reason=reason)
    machine.look(entry)
    machine.pass_time(30)
    with machine.process() as (arrivals, _):
        assert isinstance(arrivals.judge(entry), Deferred)
    machine.pass_time(30)
    with machine.process() as (arrivals, _):
        assert arrivals.judge(entry) is entry


def test_what_changed_while_nobody_looked_is_looked_at_before_it_is_taken_as_it_is(machine: Machine) -> None:
    machine.look(cut("a", 1))
    machine.pass_time(HOUR_S)
    with machine.process() as (arrivals, ledger):
        look(arrivals, ledger, cut("a", 2))
        assert not arrivals.are_complete(["a"])
        machine.pass_time(SETTLE_S - 1)
        look(arrivals, ledger, cut("a", 3))
        assert not arrivals.are_complete(["a"])
        machine.pass_time(1)
        assert arrivals.are_complete(["a"])


@pytest.mark.parametrize("wall_s", [YEAR_S, HOUR_S, 0.0, -YEAR_S], ids=["year on", "hour on", "still", "year back"])
def test_a_clock_on_the_wall_that_is_set_changes_nothing_while_the_machine_is_up(
    machine: Machine, wall_s: float
) -> None:
    machine.look(cut("a"), indexed_file("b", key="other"))
    machine.pass_time(59, wall_s=wall_s)
    assert not machine.is_complete("a")
    assert not machine.is_complete("b")
    machine.pass_time(1)
    assert machine.is_complete("b")
    machine.pass_time(MAX_WAIT_S)
    assert machine.is_complete("a")


def test_a_leap_forward_over_a_restart_takes_nothing_at_once(machine: Machine) -> None:
    machine.look(cut("a"), indexed_file("b", key="other"))
    machine.start_again(wall_s=YEAR_S)
    with machine.process() as (arrivals, ledger):
        assert not arrivals.are_complete(["a"])
        assert not arrivals.are_complete(["b"])
        look(arrivals, ledger, cut("a", 2), waiting=("a", "b"))
        machine.pass_time(SETTLE_S)
        assert arrivals.are_complete(["b"])
        assert not arrivals.are_complete(["a"]), "it changed, so the year that the clock tells of counts for nothing"


def test_a_clock_set_back_over_every_restart_lets_nothing_wait_for_ever(machine: Machine) -> None:
    machine.look(cut("a"))
    for _ in range(math.ceil(MAX_WAIT_S / SETTLE_S) + 1):
        machine.start_again(wall_s=-YEAR_S)
        with machine.process() as (arrivals, ledger):
            look(arrivals, ledger, waiting=("a",))
            machine.pass_time(SETTLE_S)
            arrivals.save()
    with machine.process() as (arrivals, _):
        machine.pass_time(SETTLE_S)
        assert arrivals.are_complete(["a"])


def test_a_machine_that_is_switched_off_at_night_waits_no_longer_than_its_settling(machine: Machine) -> None:
    machine.look(cut("a"))
    machine.start_again(wall_s=HOUR_S * 12)
    with machine.process() as (arrivals, _):
        assert not arrivals.are_complete(["a"])
        machine.pass_time(SETTLE_S)
        assert arrivals.are_complete(["a"])


def test_a_machine_without_a_name_for_its_starts_goes_by_the_wall(machine: Machine) -> None:
    machine.boot = ""
    machine.look(cut("a"))
    machine.pass_time(HOUR_S)
    with machine.process() as (arrivals, _):
        assert not arrivals.are_complete(["a"])
        machine.pass_time(SETTLE_S)
        assert arrivals.are_complete(["a"])


def test_a_clock_without_jumps_that_runs_backwards_is_another_machine(machine: Machine) -> None:
    machine.look(indexed_file("a"))
    machine.up_s -= 500  # one name for two sandboxes
    with machine.process() as (arrivals, _):
        assert not arrivals.are_complete(["a"])
        machine.pass_time(SETTLE_S)
        assert arrivals.are_complete(["a"])


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.floats(0, 4000), st.floats(-YEAR_S, YEAR_S), st.booleans()), min_size=1, max_size=8
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_taken_that_changed_within_its_settling_and_time_never_runs_backwards(
    machine: Machine, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, float, float, bool]]
) -> None:
    machine.folder, size = tmp_path_factory.mktemp("ledger"), 1
    machine.look(cut("a", size))
    for restarts, seconds, wall_s, changes in steps:
        machine.pass_time(seconds, wall_s=wall_s)
        if restarts:
            machine.start_again(wall_s=wall_s)
        size += changes
        with machine.process() as (arrivals, ledger):
            look(arrivals, ledger, *([cut("a", size)] if changes else []), waiting=("a",))
            arrival = arrivals._met["a"]
            assert arrival.first_met <= arrival.same_since <= machine.up_s
            if changes or restarts:
                assert not arrivals.are_complete(["a"])


def test_rows_go_with_what_is_taken_what_is_gone_and_what_a_run_took(machine: Machine) -> None:
    machine.look(indexed_file("taken"), indexed_file("gone"), indexed_file("by-run"), cut("waits"))
    assert kept(machine) == ["by-run", "gone", "taken", "waits"]
    with machine.process() as (arrivals, ledger):
        arrivals.forget(["taken"])
        arrivals.save()
        ledger.index.record_gone(["gone"])
        ledger.index.record([indexed_file("by-run", key="", reason=Reason.NOT_CHEST)])
    assert kept(machine) == ["waits"]


def test_a_file_that_a_run_took_and_that_came_again_begins_anew(machine: Machine) -> None:
    machine.look(cut("a"))
    with machine.process() as (_, ledger):
        ledger.index.record([indexed_file("a", key="study", reason=Reason.NOT_CHEST)])
    machine.pass_time(HOUR_S)
    with machine.process() as (arrivals, ledger):
        look(arrivals, ledger, cut("a", 2))
        machine.pass_time(MAX_WAIT_S - 1)
        assert not arrivals.are_complete(["a"])


def test_files_that_cannot_be_opened_for_years_are_not_kept(machine: Machine) -> None:
    with machine.process() as (arrivals, ledger):
        for number in range(5):
            arrivals.judge(Deferred(ImageFile(f"{number}", 1, 1), "no permission"))
        arrivals.keep(())
        arrivals.save()
        assert ledger.arrivals.rows() == []


@pytest.mark.parametrize("mtime_ns", [2**63, -(2**70), 0])
def test_times_that_no_database_holds_are_kept(machine: Machine, mtime_ns: int) -> None:
    with machine.process() as (arrivals, ledger):
        ledger.index.record([indexed_file("a")])
        arrivals.judge(IndexedFile(ImageFile("a", 1, mtime_ns), "study", Header()))
        arrivals.save()
        assert [row.mtime_ns for row in ledger.arrivals.rows()] == [mtime_ns]


def test_a_look_at_which_nothing_changed_writes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine.process() as (arrivals, ledger):
        look(arrivals, ledger, *(indexed_file(f"{number}", key=f"{number}") for number in range(50)))
        written: list[object] = []
        monkeypatch.setattr(type(ledger.arrivals), "write", lambda *known: written.append(known))
        for _ in range(10):
            machine.pass_time(1)
            arrivals.keep(tuple(f"{number}" for number in range(50)))
            arrivals.save()
        assert written == []


@pytest.mark.parametrize("text", ["", "{", '{"seen": 3}', "[]"])
def test_a_memory_that_cannot_be_read_is_none(machine: Machine, text: str) -> None:
    machine.look(indexed_file("a"))
    with machine.process() as (_, ledger):
        ledger.remember("arrivals", text)
    with machine.process() as (arrivals, _):
        assert not arrivals.are_complete(["a"])
        machine.pass_time(SETTLE_S)
        assert arrivals.are_complete(["a"])
