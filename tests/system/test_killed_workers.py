"""Workers that are killed, die or answer nonsense at any moment: that costs their task at most, and no other one."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from cxrbatch.errors import RunError, TaskFailed, WorkerCrashed
from cxrbatch.system import worker_crew, worker_handle
from cxrbatch.system.worker_process import BrokenFrame, Frame, FrameKind, FrameReader
from cxrbatch.system.workers import Outcome, WorkerPool
from tests.factories import standing_workers, worker_tasks

pytestmark = pytest.mark.hostile("9.6 killed worker")

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    standing_workers.end_all()
    others = psutil.Process().children()
    with WorkerPool(2, memory_mb=512) as pool:
        yield pool
    assert set(psutil.Process().children()) <= set(others)


def processes_of(pool: WorkerPool) -> list[psutil.Process]:
    """Return the workers of one pool that are there now, the spare one and those that are starting included."""
    processes = []
    for handle in list(pool.crew.handles):
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(handle.pid))
    return processes


def values(outcomes: Iterator[Outcome[Any, Any]]) -> list[Any]:
    return [outcome.value() for outcome in outcomes]


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("exits", WorkerCrashed, "exit code 0"),
        ("asks to exit", TaskFailed, "SystemExit"),
        ("interrupts", TaskFailed, "KeyboardInterrupt"),
        ("closes everything", WorkerCrashed, "closed its pipe"),
        ("closes everything and returns", WorkerCrashed, "exit code|closed its pipe"),
        ("takes the pipe's number", WorkerCrashed, "exit code|closed its pipe"),
        ("writes nonsense", WorkerCrashed, "no answer"),
        ("answers for another", WorkerCrashed, "no answer"),
        ("answers no pickle", WorkerCrashed, "no answer"),
        ("stops half-way", WorkerCrashed, "exit code 3"),
        ("leaves a copy", WorkerCrashed, "SIGSEGV"),
        ("cannot be sent", Exception, "pickle"),
        ("raises what cannot be sent", TaskFailed, "Unpicklable"),
        ("raises what cannot be made", TaskFailed, "Unraisable"),
    ],
)
def test_whatever_a_task_does_to_its_worker_costs_that_task(
    pool: WorkerPool, how: str, error: type[Exception], says: str
) -> None:
    before, bad, *after = pool.run_ahead(worker_tasks.misbehave, ["a", how, "b", "c", "d"], timeout_s=PATIENCE_S)
    with pytest.raises(error, match=says) as caught:
        bad.value()
    assert not getattr(caught.value, "was_killed", False)
    assert [outcome.value() for outcome in (before, *after)] == ["a", "b", "c", "d"]


def test_a_copy_that_a_task_made_of_its_worker_answers_nothing(pool: WorkerPool) -> None:
    tasks = ["copies itself", *map(str, range(20))]
    assert values(pool.run_ahead(worker_tasks.misbehave, tasks, timeout_s=PATIENCE_S)) == tasks


def test_a_task_that_cannot_be_sent_costs_itself(pool: WorkerPool) -> None:
    tasks: list[Any] = [1, lambda: None, 3]
    one, bad, three = pool.run_ahead(type, tasks, timeout_s=PATIENCE_S)
    with pytest.raises(Exception, match=r"pickle|local object"):
        bad.value()
    assert (one.value(), three.value()) == (int, int)


# --------------------------------------------------------------------------- somebody kills


def kill(worker: psutil.Process) -> bool:
    """Kill a worker; return whether it was still there: one whose turn has ended may go by itself."""
    try:
        worker.kill()
    except psutil.NoSuchProcess:
        return False
    return True


# One worker alone is part of `make soak`.
@pytest.mark.parametrize("count", [1, 2] if os.environ.get("CXRBATCH_EVERY_FAULT") else [2])
def test_workers_killed_at_random_moments_cost_no_task(count: int) -> None:
    dice, kills = random.Random(count), 0  # no secret
    done: list[int] = []
    tasks = [(number, dice.choice((0.0, 0.02, 0.05))) for number in range(120)]
    with WorkerPool(count, memory_mb=512) as pool:
        outcomes = pool.run_ahead(worker_tasks.sleep_and_return, tasks, timeout_s=PATIENCE_S)
        for outcome in outcomes:
            done.append(outcome.value())
            if dice.random() < 0.15 and (children := processes_of(pool)):
                kills += kill(dice.choice(children))
    assert done == list(range(120))
    assert kills >= 10


@pytest.mark.parametrize("size", [0, 40_000_000])
def test_a_worker_killed_while_it_receives_costs_no_task(size: int) -> None:
    with WorkerPool(1, memory_mb=512) as pool:
        pool.start()
        (worker,) = processes_of(pool)
        # Stopped, it reads nothing: the task hangs in the pipe.
        worker.suspend()
        killer = threading.Timer(0.5, kill, [worker])
        killer.start()
        assert values(pool.run_ahead(worker_tasks.count_bytes, [bytes(size)], timeout_s=PATIENCE_S)) == [size]
        killer.join()


def test_a_worker_killed_while_it_sends_costs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    receive, kills = worker_handle.WorkerHandle._receive, itertools.count()

    def receive_and_kill(handle: worker_handle.WorkerHandle) -> None:
        receive(handle)
        if len(handle._reader._received) > 2**20 and next(kills) < 2:
            os.kill(handle.pid, signal.SIGKILL)

    monkeypatch.setattr(worker_handle.WorkerHandle, "_receive", receive_and_kill)
    with WorkerPool(1, memory_mb=512) as pool:
        lengths = [
            len(value)
            for value in values(pool.run_ahead(worker_tasks.make_bytes, [50_000_000] * 3, timeout_s=PATIENCE_S))
        ]
    assert lengths == [50_000_000] * 3
    assert next(kills) >= 2


def test_workers_killed_while_idle_or_starting_are_replaced() -> None:
    with WorkerPool(2, memory_mb=512) as pool:
        pool.start()
        for _ in range(3):
            for child in processes_of(pool):
                kill(child)
            time.sleep(0.3)
        assert values(pool.run_ahead(abs, range(-10, 0), timeout_s=PATIENCE_S)) == list(range(10, 0, -1))


def test_a_task_whose_workers_are_killed_again_and_again_is_left(pool: WorkerPool) -> None:
    before, bad, after = pool.run_ahead(worker_tasks.kill_own_worker, [False, True, False], timeout_s=PATIENCE_S)
    with pytest.raises(WorkerCrashed, match="SIGKILL") as crash:
        bad.value()
    assert crash.value.was_killed
    assert (before.value(), after.value()) == (False, False)


# --------------------------------------------------------------------------- workers that do not start


def test_workers_that_die_as_they_start_end_the_run_with_advice() -> None:
    with (
        WorkerPool(2, memory_mb=512, warm_up=worker_tasks.die) as pool,
        pytest.raises(RunError, match=r"exit code 17.*doctor"),
    ):
        values(pool.run_ahead(abs, range(10), timeout_s=PATIENCE_S))


def test_workers_that_cannot_be_started_end_the_run_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(worker_handle, "_start_process", refuse)
    with WorkerPool(2, memory_mb=512) as pool, pytest.raises(RunError, match=r"unavailable.*TasksMax"):
        pool.start()


def test_a_machine_that_is_short_for_a_moment_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start, tries = worker_handle._start_process, itertools.count()

    def refuse_first(pipe: socket.socket) -> Any:
        if next(tries) < 3:
            raise OSError(12, "Cannot allocate memory")
        return start(pipe)

    monkeypatch.setattr(worker_handle, "_start_process", refuse_first)
    with WorkerPool(2, memory_mb=512) as pool:
        assert values(pool.run_ahead(abs, [-1, -2], timeout_s=PATIENCE_S)) == [1, 2]


def test_workers_killed_while_they_load_are_replaced(tmp_path: Path) -> None:
    with WorkerPool(1, memory_mb=512, warm_up=partial(worker_tasks.die_now_and_then, tmp_path)) as pool:
        assert values(pool.run_ahead(abs, [-1, -2], timeout_s=PATIENCE_S)) == [1, 2]
    assert len(list(tmp_path.iterdir())) == 4


# --------------------------------------------------------------------------- nothing is shared


def test_workers_share_no_pipe_and_no_other_process() -> None:
    with WorkerPool(2, memory_mb=512) as pool:
        pool.start()
        found = dict(values(pool.run_ahead(worker_tasks.open_files, range(8), timeout_s=PATIENCE_S)))
        assert {child.pid for child in processes_of(pool)} == set(found)
        families = [process.children() for process in processes_of(pool)]
    assert families == [[], []]
    assert len(found) == 2
    ours = {str(Path(f"/proc/self/fd/{number}").readlink()) for number in (1, 2)}
    one, two = (
        {link for link in links.values() if link.startswith(("socket:", "pipe:"))} - ours for links in found.values()
    )
    assert len(one) == len(two) == 1
    assert not one & two


def test_workers_take_turns_and_none_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_crew, "TASKS_PER_WORKER", 10)
    monkeypatch.setattr(worker_crew, "_SPARE_AFTER_TASKS", 2)
    with WorkerPool(1, memory_mb=512) as pool:
        pids = values(pool.run_ahead(worker_tasks.tell_pid, range(80), timeout_s=PATIENCE_S))
    turns = [len(list(group)) for _, group in itertools.groupby(pids)]
    assert len(turns) >= 4
    assert max(turns) <= 20
    assert len(set(pids)) == len(turns)


IGNORES_CHILDREN = """
from cxrbatch.system.workers import WorkerPool
from tests.factories import worker_tasks
with WorkerPool(1, memory_mb=512) as pool:
    (outcome,) = pool.run_ahead(worker_tasks.kill_own_worker, [True], timeout_s=60)
    print(outcome.future.exception().was_killed)
"""


def test_a_starter_that_ignores_its_children_hides_no_kill() -> None:
    ignore: Callable[[], object] = partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN)
    told = subprocess.run(
        [sys.executable, "-c", IGNORES_CHILDREN],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=ignore,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert told.stdout == "True\n"


# --------------------------------------------------------------------------- frames


def test_frames_come_whole_however_they_are_cut() -> None:
    frames = [Frame(FrameKind.READY), Frame(FrameKind.VALUE, 7, b"x" * 1000), Frame(FrameKind.ERROR, 2**60, b"")]
    content, reader, found = b"".join(frame.to_bytes() for frame in frames), FrameReader(), []
    for at in range(0, len(content), 13):
        reader.feed(content[at : at + 13])
        while (frame := reader.next_frame()) is not None:
            found.append(frame)
    assert found == frames
    assert reader.is_between_frames


@pytest.mark.parametrize("damage", [0, 4, 13], ids=["magic", "kind", "length"])
def test_what_is_no_frame_is_told(damage: int) -> None:
    content = bytearray(Frame(FrameKind.VALUE, 7, b"x").to_bytes())
    content[damage] = 0xFF
    reader = FrameReader()
    reader.feed(bytes(content))
    with pytest.raises(BrokenFrame):
        reader.next_frame()
