"""Runs that are killed or robbed of their disk at a fault point, for a tenth of a second each.

A helper process has everything loaded and forks one `cxrbatch run` per order. Its tasks run in the run's own process
instead of workers, one after another, so that each order reaches the same points in the same sequence.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run ended: its exit code (negative: the signal that killed it), what it said, which points it reached."""

    exit_code: int
    said: str
    reached: Counter[str]


class FaultedRuns:
    """The helper process, seen from a test; close it by leaving the context.

    `pdf`: whether it has loaded what prints PDFs, too; without, each run that prints one loads that anew.
    """

    def __init__(self, *, pdf: bool = False) -> None:
        self._loaded = ["--pdf"] if pdf else []

    def __enter__(self) -> FaultedRuns:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "CXRBATCH_PIXEL_CHECK": "false", "OMP_NUM_THREADS": "1"}
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "tests.factories.faulted", *self._loaded],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._helper.communicate(timeout=60)

    def run(
        self,
        images: Path,
        out: Path,
        engine: str,
        *more: str,
        fault: str = "",
        pdf: bool = False,
        file_bytes: int = 0,
        clock_days: float = 0.0,
    ) -> Ended:
        """Run `cxrbatch run images -o out` with this fault in a process of its own, and wait for its end.

        With `file_bytes` no file may grow beyond that (RLIMIT_FSIZE). `clock_days`: how far the wall clock is off.
        """
        arguments = ["run", str(images), "-o", str(out), "-e", engine, "--workers", "1", "--threads", "1", *more]
        arguments.append("--pdf" if pdf else "--no-pdf")
        return self._order(arguments, fault, file_bytes=file_bytes, clock_days=clock_days)

    def command(self, *arguments: str, fault: str = "", at: tuple[str, int] = ("", 1), do: str = "") -> Ended:
        """Give another command of cxrbatch in the same way; `do` is done in a shell `at` a point, the n-th time."""
        return self._order(list(arguments), fault, at=at, do=do)

    def _order(self, arguments: list[str], fault: str, **more: Any) -> Ended:
        assert self._helper.stdin
        assert self._helper.stdout
        order = {"fault": fault, "arguments": arguments, **more}
        self._helper.stdin.write(json.dumps(order) + "\n")
        self._helper.stdin.flush()
        answer = json.loads(self._helper.stdout.readline())
        return Ended(answer["exit_code"], answer["said"], Counter(answer["reached"]))


# --------------------------------------------------------------------------- the helper process


def serve() -> None:
    """Fork one run for each line on stdin; answer each with a line on stdout."""
    _work_without_workers(pdf="--pdf" in sys.argv)
    for number, line in enumerate(sys.stdin):
        order = json.loads(line)
        if not number:
            _run_once_for_nothing(order["arguments"])
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as points:
            child = os.fork()
            if not child:
                _run_and_leave(order, said.fileno(), points.fileno())
            _, status = os.waitpid(child, 0)
            answer = {
                "exit_code": os.waitstatus_to_exitcode(status),
                "said": _content(said.fileno()),
                "reached": Counter(_content(points.fileno()).split()),
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run_once_for_nothing(arguments: list[str]) -> None:
    """Let everything be loaded that a run loads on its way, templates too, before the first fork."""
    from cxrbatch.cli import run_command_line

    out, silence = arguments.index("-o") + 1, os.open(os.devnull, os.O_WRONLY)
    former = os.dup(1), os.dup(2)
    with tempfile.TemporaryDirectory() as nowhere:
        for descriptor in (1, 2):
            os.dup2(silence, descriptor)
        assert run_command_line([*arguments[:out], nowhere, *arguments[out + 1 :]]) == 0
        for descriptor in (1, 2):
            os.dup2(former[descriptor - 1], descriptor)
            os.close(former[descriptor - 1])
    os.close(silence)


def _run_and_leave(order: dict[str, Any], said: int, points: int) -> None:
    from cxrbatch.cli import run_command_line
    from cxrbatch.system import faults
    from cxrbatch.system.stopping import stop_cleanly_on

    fault = faults.read_fault(order["fault"]) if order["fault"] else None

    reached: Counter[str] = Counter()

    def at_point(name: str) -> None:
        os.write(points, f"{name}\n".encode())
        reached[name] += 1
        if order.get("do") and [name, reached[name]] == order["at"]:
            subprocess.run(["sh", "-ec", order["do"]], check=True)
        if fault:
            fault(name)

    os.dup2(said, 1)
    os.dup2(said, 2)
    stop_cleanly_on(signal.SIGINT, signal.SIGTERM)
    faults.arm(at_point)
    _set_clock(order.get("clock_days", 0.0))
    if order.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
    code = 1
    try:
        code = run_command_line(order["arguments"])
    finally:
        sys.stderr.flush()
        os._exit(code)


def _set_clock(days: float) -> None:
    """Let everything that asks for the time be told a wrong one."""
    from cxrbatch.records import results

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return super().now(tz) + timedelta(days=days)

    real_time = time.time
    time.time = lambda: real_time() + 86400 * days
    vars(results)["datetime"] = Clock


def _content(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 1 << 20).decode(errors="replace")


def _work_without_workers(*, pdf: bool) -> None:
    """Load what runs and their workers load, and let the worker pool run its tasks on the spot."""
    import cv2

    from cxrbatch.run.warm_up import warm_up
    from cxrbatch.system import workers
    from cxrbatch.system.stopping import stop_at_safe_points, stop_if_asked

    cv2.setNumThreads(1)
    warm_up(pdf=pdf)

    def open_pool(pool: Any, count: int, **_: object) -> None:
        pool.count = count

    def enter(pool: Any) -> Any:
        pool.safety = stop_at_safe_points()
        pool.safety.__enter__()
        return pool

    def leave(pool: Any, *error: Any) -> None:
        pool.safety.__exit__(*error)

    def run_on_the_spot(
        _: object, function: Callable[[Any], Any], tasks: Iterable[Any], **__: object
    ) -> Iterator[workers.Outcome[Any, Any]]:
        for task in tasks:
            stop_if_asked()
            future: Future[Any] = Future()
            try:
                future.set_result(function(task))
            except Exception as error:  # noqa: BLE001  # as a worker does
                future.set_exception(error)
            yield workers.Outcome(task, future, 0.0)

    replacements = {
        "__init__": open_pool,
        "__enter__": enter,
        "__exit__": leave,
        "begin": lambda pool, wanted: None,
        "end": lambda pool: None,
        "run_ahead": run_on_the_spot,
    }
    for name, replacement in replacements.items():
        setattr(workers.WorkerPool, name, replacement)


if __name__ == "__main__":
    serve()
