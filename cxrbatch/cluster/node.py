"""What lives on a node: engine, worker processes and a LocalProcessor, fed with chunks of studies. See `process_chunk`.

It stays in the node's process from one chunk to the next. Chunks that arrive while one is being worked on flow into the
same stages, so that these never run empty between two of them. No library of a cluster is known here.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, Queue

from cxrbatch import __version__
from cxrbatch.cluster.mapping import mapped
from cxrbatch.errors import EngineError, RunError
from cxrbatch.output.folder.place import HeldOutput, NodeFence
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.output.report.report_files import REPORTS
from cxrbatch.pages.own_templates import PACKAGED, OwnTemplates, printing_with
from cxrbatch.records import EngineDescription
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.processes import open_workers
from cxrbatch.run.processor import LocalProcessor, Workplace
from cxrbatch.run.source import Order, Source
from cxrbatch.run.stages import FinishedStudy, StageClock
from cxrbatch.run.witness import not_seen


@dataclass(frozen=True, slots=True)
class NodeOrder:
    """What every node of a run is told, in paths of the driver's.

    `token` is the run's in the fence of OUT, by which a node knows that it sees the same folder. `engine` is what the
    driver would score with, `engine_folder` where that lies. `templates` are those that the driver has tried. `seen` is
    what it sees in INPUT.
    """

    order: Order
    token: str
    engine: EngineDescription
    engine_folder: Path
    templates: OwnTemplates = PACKAGED
    seen: tuple[str, ...] = ()
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Joined:
    """A node's answer: where it runs; `refusal` says why it cannot work for this run, '' where it can."""

    machine: str
    process: int
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """What became of a chunk's studies, how long it took, and seconds of stages since the chunk before."""

    finished: tuple[FinishedStudy, ...]
    wall_s: float
    stage_s: dict[str, float]


class NotJoined(Exception):
    """This process was not asked whether it can work for that run: it is a successor of the one that was."""


@dataclass(slots=True)
class _Job:
    tasks: tuple[StudyTask, ...]
    future: Future[ChunkDone] = field(default_factory=Future)
    finished: list[FinishedStudy] = field(default_factory=list)
    begun: float = 0.0


class _Node:
    """One node at work for one run; all of it is used by a single thread, as a GPU's context wants to be."""

    def __init__(self, told: NodeOrder, fence: NodeFence) -> None:
        """Open what it works with.

        Raises:
            RunError: it cannot be, or does not fit the run.
        """
        self._stack = ExitStack()
        try:
            self._at = self._open(told, fence)
            self._templates, self._seen = told.templates, told.seen
        except BaseException:
            self._stack.close()
            raise
        self._jobs: Queue[_Job | None] = Queue()
        self._thread = threading.Thread(target=self._work, name="node", daemon=True)
        self._thread.start()

    def _open(self, told: NodeOrder, fence: NodeFence) -> Workplace:
        order, out = told.order, mapped(told.order.out)
        # As the driver's, whatever would be fastest here.
        same = {"backend": told.engine.backend, "precision": told.engine.precision, "state": ""}
        settings = replace(order.settings, engine=str(mapped(told.engine_folder)), **same)  # type: ignore[arg-type]
        home = self._stack.enter_context(HeldOutput(out))
        try:
            home.add(out, out / REPORTS)
        except OSError as error:
            raise RunError(f"{out}: cannot be seen there ({error.strerror})") from error
        place = replace(home.place, token=told.token, node=fence)
        with place.writing():
            pass  # it is the driver's OUT, and nobody else's by now
        folder = mapped(order.source.folder)
        if refusal := not_seen(folder, told.seen, ()):
            raise RunError(refusal)
        workers = self._stack.enter_context(open_workers(settings))
        engine = self._stack.enter_context(EngineSlot(settings))
        if refusal := differences(told, engine.description):
            raise EngineError(refusal)
        here = Order(Source(folder, order.source.only), out, settings, order.pseudonyms)
        return Workplace(here, place, engine, workers, StageClock())

    def submit(self, tasks: tuple[StudyTask, ...]) -> ChunkDone:
        """Process a chunk, and wait for its end; called by several threads at a time.

        Raises:
            EngineError: its INPUT is gone from this machine, as when a share is lost.
            RunError: what the processor raises.
        """
        self._see_input(tasks)
        job = _Job(tasks)
        self._jobs.put(job)
        done = job.future.result()
        if any(study.unread for study in done.finished):
            self._see_input(tasks)
        return done

    def _see_input(self, tasks: tuple[StudyTask, ...]) -> None:
        if refusal := not_seen(self._at.order.source.folder, self._seen, tasks):
            raise EngineError(refusal)

    def close(self) -> None:
        """End everything, whatever it is at."""
        self._at.workers.end()
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            waiting: dict[str, _Job] = {}
            try:
                with printing_with(self._templates):
                    self._process(job, waiting)
            except BaseException as error:  # noqa: BLE001  # raised again where the chunk is waited for
                for each in {id(each): each for each in waiting.values()}.values():
                    each.future.set_exception(error)
        self._stack.close()

    def _process(self, first: _Job, waiting: dict[str, _Job]) -> None:
        """Process this chunk, and those that are there by the time that its last study is drawn."""
        waiting.update({task.study_key: first for task in first.tasks})
        for study in LocalProcessor(self._at).process(self._drawn(first, waiting)):
            job = waiting.pop(study.study_key)
            job.finished.append(study)
            if len(job.finished) == len(job.tasks):
                seconds, self._at.clock.seconds = self._at.clock.seconds, {}
                job.future.set_result(ChunkDone(tuple(job.finished), time.monotonic() - job.begun, seconds))
        if waiting:
            raise AssertionError(f"{len(waiting)} studies did not come out of their processor")

    def _drawn(self, job: _Job | None, waiting: dict[str, _Job]) -> Iterator[StudyTask]:
        while job is not None:
            waiting.update({task.study_key: job for task in job.tasks})
            job.begun = time.monotonic()
            yield from job.tasks
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
        self._jobs.put(None)  # which was to end the thread, and is for it to see


# One process works for one run at a time.
_nodes: dict[str, _Node] = {}
_change = threading.Lock()


def join_run(told: NodeOrder, fence: NodeFence) -> Joined:
    """Get ready to work for a run, or say why not; runs on a node."""
    machine, process = platform.node(), os.getpid()
    if told.version != __version__:
        return Joined(machine, process, f"it has cxrbatch {__version__}, the driver {told.version}")
    with _change:
        leave_runs()
        try:
            _nodes[told.token] = _Node(told, fence)
        except RunError as error:
            return Joined(machine, process, str(error))
    return Joined(machine, process)


def process_chunk(token: str, tasks: tuple[StudyTask, ...]) -> ChunkDone:
    """Process some studies for a run that this process joined; runs on a node.

    Raises:
        NotJoined: it did not.
        RunError: no study can be processed here any more.
    """
    node = _nodes.get(token)
    if node is None:
        raise NotJoined
    return node.submit(tasks)


def leave_runs() -> None:
    """End what works for earlier runs; runs on a node."""
    while _nodes:
        _nodes.popitem()[1].close()


def differences(told: NodeOrder, here: EngineDescription) -> str:
    """Return in words what of the engine here is not the driver's; '' where it is the same."""
    there = told.engine
    pairs = [
        (f"engine {here.name} ({here.sha256[:12]})", f"engine {there.name} ({there.sha256[:12]})"),
        (here.backend, there.backend),
        (here.precision, there.precision),
    ]
    return "; ".join(f"it has {one}, the driver {another}" for one, another in pairs if one != another)
