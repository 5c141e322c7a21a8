"""A stop comes at once, or at a safe point where one is asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from cxrbatch.errors import RunError
from cxrbatch.system.stopping import Stopped, stop_at_safe_points, stop_cleanly_on, stop_if_asked
from cxrbatch.system.workers import Outcome, WorkerCrashed, WorkerPool


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    stop_cleanly_on(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_stop_comes_at_once() -> None:
    with pytest.raises(Stopped) as stopped:
        ask_to_stop()
    assert stopped.value.exit_code == 128 + signal.SIGUSR1


def test_a_stop_waits_for_a_safe_point() -> None:
    done = []
    with pytest.raises(Stopped), stop_at_safe_points():
        ask_to_stop()
        done.append("half")
        done.append("whole")
        stop_if_asked()
        done.append("more")
    assert done == ["half", "whole"]


def test_a_block_without_a_safe_point_stops_as_it_ends() -> None:
    done = []
    with pytest.raises(Stopped), stop_at_safe_points():
        ask_to_stop()
        done.append("all")
    assert done == ["all"]


def test_what_cleans_up_after_a_stop_is_not_stopped() -> None:
    with pytest.raises(Stopped), stop_at_safe_points():
        ask_to_stop()
        try:
            stop_if_asked()
        finally:
            stop_if_asked()


def test_the_second_signal_ends_the_process_the_hard_way() -> None:
    with pytest.raises(Stopped):
        ask_to_stop()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_pool_stops_between_tasks_and_ends() -> None:
    def tasks() -> Iterator[int]:
        for number in range(1000):
            if number == 3:
                ask_to_stop()
            yield number

    values: list[int] = []
    with pytest.raises(Stopped), WorkerPool(1, memory_mb=200) as pool:
        values.extend(outcome.value() for outcome in pool.run_ahead(abs, tasks(), timeout_s=30))
    assert len(values) <= 3


def test_waiting_for_a_long_task_is_a_safe_point() -> None:
    with pytest.raises(Stopped), WorkerPool(1, memory_mb=200) as pool:
        outcomes = pool.run_ahead(signal_parent_and_sleep, [os.getpid()], timeout_s=60)
        list(outcomes)


@pytest.mark.parametrize("error", [WorkerCrashed(-signal.SIGTERM), RunError("no worker process can be started")])
def test_workers_that_a_stop_ended_too_are_no_verdict_on_their_tasks(error: Exception) -> None:
    future: Future[None] = Future()
    future.set_exception(error)
    with pytest.raises(Stopped), stop_at_safe_points():
        ask_to_stop()
        WorkerPool(1, memory_mb=200)._finished(Outcome(None, future, timeout_s=30))
        pytest.fail("the outcome would have been recorded")


def signal_parent_and_sleep(parent: int) -> None:
    import time

    os.kill(parent, signal.SIGUSR1)
    time.sleep(50)
