"""A crash, a hang or a memory hog in one worker costs one task, and results keep the tasks' order."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cxrbatch.system.workers import WorkerCrashed, WorkerPool, WorkerTimedOut
from scripts.soak_workers import Plan, soak
from tests.factories import worker_tasks


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, memory_mb=512) as workers:
        yield workers


def test_a_task_that_needs_no_worker_passes_those_in_flight(pool: WorkerPool) -> None:
    outcomes = pool.run_ahead(worker_tasks.act, [0, 1, 2], timeout_s=30, passes=lambda task: task == 1)
    assert [outcome.task for outcome in outcomes] == [1, 0, 2]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told")
def test_a_worker_keeps_the_memory_that_a_task_freed_for_the_next_one() -> None:
    with WorkerPool(1, memory_mb=512) as workers:
        blocks = workers.run_ahead(worker_tasks.faults_of_a_large_block, [16 << 20] * 3, timeout_s=60)
        first, *others = (outcome.value() for outcome in blocks)
    assert first > 3_000
    assert max(others) < 100


def test_no_more_processes_are_started_than_there_is_work_for() -> None:
    with WorkerPool(3, memory_mb=512) as workers:
        assert [outcome.value() for outcome in workers.run_ahead(worker_tasks.act, [5], timeout_s=60)] == [5]
        assert len(workers.crew.handles) == 1
        outcomes = workers.run_ahead(worker_tasks.act, [6], timeout_s=60, keeps_busy=lambda _: 2)
        assert [outcome.value() for outcome in outcomes] == [6]
        workers.begin(1)
        assert wait_for(lambda: len(workers.crew.handles) == 2)
        assert [outcome.value() for outcome in workers.run_ahead(worker_tasks.act, range(1, 9), timeout_s=60)] == list(
            range(1, 9)
        )
        assert wait_for(lambda: len(workers.crew.handles) == 3)


def wait_for(is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not is_so() and time.monotonic() < until:
        time.sleep(0.01)
    return is_so()


def test_a_worker_looks_for_garbage_once_it_is_loaded(pool: WorkerPool) -> None:
    (outcome,) = pool.run_ahead(worker_tasks.how_garbage_is_collected, [0], timeout_s=20)
    assert outcome.value() == (True, 200_000)


def test_outcomes_come_in_the_order_of_the_tasks(pool: WorkerPool) -> None:
    assert [outcome.value() for outcome in pool.run_ahead(worker_tasks.act, range(6), timeout_s=30)] == list(range(6))


def test_tasks_are_drawn_only_as_places_become_free(pool: WorkerPool) -> None:
    drawn = []

    def endless() -> Iterator[int]:
        for number in itertools.count(1):
            drawn.append(number)
            yield number

    first = next(pool.run_ahead(worker_tasks.act, endless(), timeout_s=30, window=3))
    assert first.value() == 1
    assert len(drawn) <= 3


@pytest.mark.parametrize(
    ("what", "error", "says"),
    [
        ("segfault", WorkerCrashed, "SIGSEGV"),
        ("hang", WorkerTimedOut, "waited for longer than 3 s"),
        ("allocate", MemoryError, "^$"),
        ("raise", ValueError, "no such window"),
    ],
)
def test_a_bad_task_fails_alone(pool: WorkerPool, what: str, error: type[Exception], says: str) -> None:
    tasks: list[str | int] = [1, what, 2, 3]
    outcomes = list(pool.run_ahead(worker_tasks.act, tasks, timeout_s=3))
    with pytest.raises(error, match=says):
        outcomes[1].value()
    assert [outcomes[place].value() for place in (0, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize(("what", "was_killed"), [("segfault", False), ("killed", True)])
def test_a_crash_of_its_own_is_told_from_being_killed(pool: WorkerPool, what: str, was_killed: bool) -> None:
    (outcome,) = pool.run_ahead(worker_tasks.act, [what], timeout_s=30)
    with pytest.raises(WorkerCrashed) as crash:
        outcome.value()
    assert crash.value.was_killed is was_killed


@pytest.mark.parametrize(
    ("number", "was_killed"), [(signal.SIGHUP, True), (signal.SIGTERM, True), (signal.SIGSEGV, False)]
)
def test_a_signal_that_somebody_sent_says_nothing_about_the_task(number: signal.Signals, was_killed: bool) -> None:
    assert WorkerCrashed(-number).was_killed is was_killed


def test_a_terminal_that_is_closed_takes_no_worker_along(pool: WorkerPool) -> None:
    (outcome,) = pool.run_ahead(worker_tasks.act, ["hang up"], timeout_s=30)
    assert outcome.value() == 7


PARENT = """
from cxrbatch.system.workers import WorkerPool
from tests.factories import worker_tasks

if __name__ == "__main__":
    with WorkerPool(1, memory_mb=512) as pool:
        print(next(pool.run_ahead(worker_tasks.act, [1], timeout_s=30)).value(), flush=True)
        list(pool.run_ahead(worker_tasks.act, ["hang"], timeout_s=600))
"""


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"1\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert workers
    parent.kill()
    parent.communicate()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


@pytest.mark.slow
@pytest.mark.hostile("9.6 killed worker")
# One worker alone is part of `make soak`.
@pytest.mark.parametrize("workers", [1, 2] if os.environ.get("CXRBATCH_EVERY_FAULT") else [2])
def test_runs_whose_workers_are_killed_end_as_others_do(tmp_path: Path, workers: int) -> None:
    """What the second part of `make soak` does at length, a few times."""
    record = soak(tmp_path, workers, Plan(kills=4, studies=6, seed=workers, pdf=False, pause_s=0.3))
    assert record.kills == 4
    assert record.is_clean, record
    # Undisturbed machines need less than a second; tests share theirs.
    assert max(record.standstills_s) < 30
