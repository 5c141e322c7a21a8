"""A pause is no fault: real stops of workers and of the main process, a server that stalls, a decoder that spins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from cxrbatch.engine.time_limit import TimeLimitedEngine
from cxrbatch.errors import WorkerTimedOut
from cxrbatch.system.workers import WorkerPool
from tests.factories import worker_tasks
from tests.system.test_killed_workers import processes_of

pytestmark = pytest.mark.hostile("9.5 pause")

LIMIT_S = 1.0
PATIENCE_S = 60.0


def resume_once_stopped(worker: psutil.Process, after_s: float) -> None:
    """Let a worker that stopped itself go on after so many seconds."""
    end = time.monotonic() + PATIENCE_S
    while worker.status() != psutil.STATUS_STOPPED and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(after_s)
    worker.resume()


@pytest.mark.parametrize("task", [worker_tasks.stop_while_computing, worker_tasks.stop_while_sleeping])
def test_a_worker_that_is_stopped_is_not_late(task: Callable[[float], float]) -> None:
    with WorkerPool(1, memory_mb=512) as pool:
        pool.start()
        (worker,) = processes_of(pool)
        waker = threading.Thread(target=resume_once_stopped, args=(worker, 2 * LIMIT_S))
        waker.start()
        (outcome,) = pool.run_ahead(task, [0.6], timeout_s=LIMIT_S)
        assert outcome.value() > 2 * LIMIT_S
        waker.join()


def test_a_decoder_that_spins_is_late_by_what_it_computed() -> None:
    with WorkerPool(1, memory_mb=512) as pool:
        (outcome,) = pool.run_ahead(worker_tasks.compute, [600.0], timeout_s=LIMIT_S)
        with pytest.raises(WorkerTimedOut, match="took longer than 1 s") as late:
            outcome.value()
    assert not late.value.waiting


def test_what_all_threads_compute_counts() -> None:
    with WorkerPool(1, memory_mb=512) as pool:
        (outcome,) = pool.run_ahead(worker_tasks.compute_on_two_threads, [600.0], timeout_s=LIMIT_S)
        with pytest.raises(WorkerTimedOut) as late:
            outcome.value()
    assert not late.value.waiting


def test_a_file_that_a_server_does_not_give_is_waited_for_and_left(tmp_path: Path) -> None:
    # Nobody writes into it: a read waits, as on a server that is away.
    os.mkfifo(tmp_path / "stalled")
    (tmp_path / "fine").write_bytes(b"fine")
    with WorkerPool(1, memory_mb=512) as pool:
        tasks = [tmp_path / name for name in ("fine", "stalled", "fine")]
        before, stalled, after = pool.run_ahead(worker_tasks.read_all, tasks, timeout_s=LIMIT_S)
        with pytest.raises(WorkerTimedOut, match="waited for longer than 1 s") as late:
            stalled.value()
        assert late.value.waiting
        assert (before.value(), after.value()) == (b"fine", b"fine")


def test_a_file_that_a_server_gives_slowly_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slow")

    def give() -> None:
        with (tmp_path / "slow").open("wb") as pipe:
            time.sleep(0.5)
            pipe.write(b"slow")

    threading.Thread(target=give).start()
    with WorkerPool(1, memory_mb=512) as pool:
        (outcome,) = pool.run_ahead(worker_tasks.read_all, [tmp_path / "slow"], timeout_s=10 * LIMIT_S)
        assert outcome.value() == b"slow"


def test_a_machine_under_load_makes_no_healthy_task_late() -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    cores = os.sched_getaffinity(0)
    with WorkerPool(1, memory_mb=512) as pool:
        pool.start()
        core = min(cores)
        (worker,) = processes_of(pool)
        os.sched_setaffinity(worker.pid, {core})
        load = [subprocess.Popen(spin) for _ in range(4)]
        try:
            for each in load:
                os.sched_setaffinity(each.pid, {core})
            started = time.monotonic()
            (outcome,) = pool.run_ahead(worker_tasks.compute, [0.4], timeout_s=LIMIT_S)
            assert outcome.value() == 0.4
            assert time.monotonic() - started > LIMIT_S
        finally:
            for each in load:
                each.kill()
                each.wait()


PAUSED = """
from cxrbatch.system.workers import WorkerPool
from tests.factories import worker_tasks
with WorkerPool(2, memory_mb=512) as pool:
    pool.start()
    print("ready", flush=True)
    tasks = [0.05] * 40
    print(all(outcome.value() == 0.05 for outcome in pool.run_ahead(worker_tasks.compute, tasks, timeout_s=1)))
"""


@pytest.mark.parametrize("everyone", [True, False], ids=["all", "main"])
def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_been(everyone: bool) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PAUSED],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    send = os.killpg if everyone else os.kill
    for _ in range(2):
        time.sleep(0.3)
        send(child.pid, signal.SIGSTOP)
        time.sleep(1.3)
        send(child.pid, signal.SIGCONT)
    said, _ = child.communicate(timeout=PATIENCE_S)
    assert said == "True\n"


# --------------------------------------------------------------------------- the engine


class SlowEngine:
    """Answers after a while, in the middle of which the process is paused."""

    description: Any = SimpleNamespace(name="fake", backend="tensorrt")

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def infer(self, pixels: Any) -> Any:
        return self._act()

    def close(self) -> None:
        pass


def test_a_paused_process_does_not_blame_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    # As after a frozen virtual machine: the clock is an hour ahead, and the call goes on.
    real, ahead = time.monotonic, [0.0]

    def act() -> str:
        time.sleep(0.2)
        ahead[0] = 3600.0
        time.sleep(0.2)
        return "scores"

    monkeypatch.setattr("cxrbatch.system.times.time.monotonic", lambda: real() + ahead[0])
    engine = TimeLimitedEngine(SlowEngine(act), 60.0)
    assert engine.infer(np.zeros((1, 1, 8, 8), np.uint8)) == "scores"  # type: ignore[comparison-overlap]


def take_naps() -> str:
    for _ in range(20):
        time.sleep(0.04)
    return "awake"


STOPPED_ENGINE = """
import time
import numpy as np
from cxrbatch.engine.time_limit import TimeLimitedEngine
import test_pauses

engine = TimeLimitedEngine(test_pauses.SlowEngine(test_pauses.take_naps), 2)
print("ready", flush=True)
print(engine.infer(np.zeros((1, 1, 8, 8), np.uint8)))
"""


def test_a_stopped_process_does_not_blame_its_engine() -> None:
    paths = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[2])))
    environment = os.environ | {"PYTHONPATH": paths}
    child = subprocess.Popen([sys.executable, "-c", STOPPED_ENGINE], env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.2)
    psutil.Process(child.pid).suspend()
    time.sleep(2.5)
    psutil.Process(child.pid).resume()
    said, _ = child.communicate(timeout=PATIENCE_S)
    assert said == "awake\n"
