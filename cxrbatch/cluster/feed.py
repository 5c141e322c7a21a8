"""Which studies go to which node next: chunks that grow with a node's speed, and what is done where one dies.

Pure bookkeeping, without any cluster. When a node is lost, its studies go elsewhere, one at a time and alone on a node:
the one that kills its node takes no other with it, and is known after the third.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cxrbatch.errors import Reason
from cxrbatch.output.ledger.attempts import failed_again
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.run.stages import FinishedStudy

SMALLEST_CHUNK, LARGEST_CHUNK = 4, 32
IN_FLIGHT = 2
"""Chunks that a node has: one that it works on, and one that lies there when it is done."""
CHUNK_TAKES_S = 10.0
"""What a chunk is to take: long beside what it costs to send it, short beside a run's end, when others wait for it."""
KILLS = 3
AHEAD_PER_NODE = IN_FLIGHT * LARGEST_CHUNK
"""Studies that are drawn ahead, so that the last chunks, which nobody is to wait for, are known to be the last."""

Chunk = tuple[StudyTask, ...]


@dataclass(slots=True)
class NodeLoad:
    """What a node has in hand, by number, and how many studies its next chunk is to have."""

    in_hand: dict[int, Chunk] = field(default_factory=dict)
    size: int = SMALLEST_CHUNK
    is_alone: bool = False

    def measure(self, studies: int, wall_s: float) -> None:
        """Size the next chunk by how long one of so many studies took; no more than twice the last one."""
        if studies > 1 or not self.is_alone:
            wanted = studies * CHUNK_TAKES_S / max(wall_s, 1e-3)
            self.size = max(SMALLEST_CHUNK, min(LARGEST_CHUNK, 2 * self.size, round(wanted)))


class Feed:
    """Draws studies as nodes have room for them."""

    def __init__(self, tasks: Iterable[StudyTask]) -> None:
        self._tasks: Iterator[StudyTask] = iter(tasks)
        self._waiting: deque[StudyTask] = deque()
        self._suspects: deque[StudyTask] = deque()
        self._killed: Counter[str] = Counter()
        self._is_drawn = False

    @property
    def is_drained(self) -> bool:
        """Tell whether nothing is left to give, to a node with room for anything."""
        return self._is_drawn and not self._waiting and not self._suspects

    def next_chunk(self, load: NodeLoad, nodes: int) -> Chunk:
        """Return what a node is to get now, one of so many; nothing where it has enough, or there is nothing.

        Once the last study was drawn, chunks become smaller with what is left (guided self-scheduling; Polychronopoulos
        and Kuck 1987), so that all nodes end at nearly the same time.
        """
        if load.is_alone or len(load.in_hand) >= IN_FLIGHT:
            return ()
        if self._suspects:
            # Who has something in hand comes to its end first: then it takes one.
            load.is_alone = not load.in_hand
            return (self._suspects.popleft(),) if load.is_alone else ()
        self._draw(nodes * AHEAD_PER_NODE)
        size = load.size
        if self._is_drawn:
            size = min(size, math.ceil(len(self._waiting) / (IN_FLIGHT * nodes)))
        return tuple(self._waiting.popleft() for _ in range(min(size, len(self._waiting))))

    def _draw(self, wanted: int) -> None:
        # One by one: whatever iterates over what is left of an iterator and stops would close it.
        while not self._is_drawn and len(self._waiting) < wanted:
            task = next(self._tasks, None)
            self._is_drawn = task is None
            if task is not None:
                self._waiting.append(task)

    def give_back(self, chunks: Iterable[Chunk]) -> None:
        """Take back studies that a node did not process, through no fault of theirs."""
        self._waiting.extendleft(task for chunk in chunks for task in chunk)

    def note_death(self, chunks: Iterable[Chunk]) -> Iterator[FinishedStudy]:
        """Take back studies that a node had in hand when it died; yield those that this happened to too often."""
        for task in (task for chunk in chunks for task in chunk):
            self._killed[task.study_key] += 1
            if self._killed[task.study_key] < KILLS:
                self._suspects.append(task)
            else:
                yield killer(task)


def killer(task: StudyTask) -> FinishedStudy:
    """Say of a study that its nodes died: its files failed, and are refused after three runs."""
    message = f"the node that was at work on its study died, {KILLS} times"
    failed = tuple(
        failed_again(
            file.file.path,
            Reason.UNEXPECTED_ERROR,
            message,
            failed_before=task.attempts.get(file.file.path, 0),
        )
        for file in task.files
    )
    return FinishedStudy(task.study_key, (*task.refused, *failed))
