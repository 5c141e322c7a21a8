"""What counts as computing, what as waiting, and what as no time at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from cxrbatch.system.times import AwakeTime, ProcessState, TaskTime, look_at_process

pytestmark = pytest.mark.hostile("9.5 pause")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watched(states: Iterator[ProcessState | None]) -> tuple[TaskTime, Callable[[float], None]]:
    clock = Clock()
    task = TaskTime(1, clock=clock, look=lambda _: next(states))

    def pass_time(seconds: float) -> None:
        clock.now += seconds
        task.look()

    return task, pass_time


def test_a_look_that_comes_late_counts_no_more_than_one_that_comes_in_time() -> None:
    clock = Clock()
    awake = AwakeTime(clock)
    for seconds in (0.1, 0.1, 3600.0, 0.1, -50.0):
        clock.now += seconds
        awake.look()
    assert awake.seconds == pytest.approx(0.5)


def test_waiting_counts_where_nothing_computes() -> None:
    states = iter([ProcessState(5.0), *(ProcessState(5.0 + 0.01 * n) for n in range(1, 11))])
    task, pass_time = watched(states)
    for _ in range(10):
        pass_time(0.1)
    assert task.computed_s == pytest.approx(0.1)
    assert task.waited_s == pytest.approx(1.0)


@pytest.mark.parametrize("state", [ProcessState(5.0, is_stopped=True), ProcessState(5.0, is_runnable=True)])
def test_a_process_that_is_stopped_or_gets_no_core_neither_computes_nor_waits(state: ProcessState) -> None:
    task, pass_time = watched(iter([state] * 100))
    for _ in range(50):
        pass_time(0.1)
    assert (task.computed_s, task.waited_s) == (0, 0)


def test_where_nobody_tells_of_processes_all_time_is_waiting() -> None:
    task, pass_time = watched(iter([None] * 20))
    for _ in range(10):
        pass_time(0.1)
    assert task.computed_s == 0
    assert task.waited_s == pytest.approx(1.0)


SPIN = """
import threading, time
def spin():
    while True: pass
threading.Thread(target=spin).start()
time.sleep(60)
"""


def test_linux_tells_of_a_real_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        deadline = time.monotonic() + 30
        while ((state := look_at_process(child.pid)) is None or state.cpu_s < 0.3) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert state is not None
        # The thread that computes is not the first one, which sleeps.
        assert state.is_runnable
        psutil.Process(child.pid).suspend()
        # Its threads stop one after the other.
        while (state := look_at_process(child.pid)) is not None and (not state.is_stopped or state.is_runnable):
            time.sleep(0.01)
        stopped = look_at_process(child.pid)
        assert stopped is not None
        time.sleep(0.3)
        assert look_at_process(child.pid) == stopped
    finally:
        child.kill()
        child.wait()
    assert look_at_process(child.pid) is None
    own = look_at_process(os.getpid())
    assert own is not None
    assert own.is_runnable
