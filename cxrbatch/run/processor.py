"""The seam of processing: studies that wait go in, finished ones come out. Start at `StudyProcessor`.

`batch` knows no more than that. Whatever a processor has to know of one study travels in the `StudyTask`, and what it
finds in the `FinishedStudy`; it never sees the ledger, so the work may be done in this process, as `LocalProcessor`
does it, or on many machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cxrbatch.errors import Reason
from cxrbatch.output.folder.place import Place
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.print import print_reports
from cxrbatch.run.read import Reading, decode_studies
from cxrbatch.run.score import Scorer, score_studies
from cxrbatch.run.source import Order
from cxrbatch.run.stages import DecodedStudy, FinishedStudy, ScoredStudy, StageClock
from cxrbatch.system.workers import WorkerPool

# Asked, with the files of a study that end before their pixels do, whether the rest of them may still come.
MayGrow = Callable[[list[str]], bool]


class StudyProcessor(Protocol):
    """Reads, scores and prints studies."""

    def process(self, tasks: Iterable[StudyTask]) -> Iterator[FinishedStudy]:
        """Yield what became of each study, in whatever order.

        Tasks are drawn as they can be begun, and not all at once: whoever gives them may stop at a deadline. A study
        that is not all there yet does not come out, and goes on waiting.

        Raises:
            RunError: no study can be processed any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a processor is given when it is made: what to do, with what, and whom to tell.

    `place` is where reports go, checked before each. `on_scored` is called for each study that the engine is done with.
    """

    order: Order
    place: Place
    engine: EngineSlot
    workers: WorkerPool
    clock: StageClock
    on_scored: Callable[[], object] = lambda: None
    may_grow: MayGrow = lambda _: False


MakeProcessor = Callable[[Workplace], StudyProcessor]


@dataclass(frozen=True, slots=True)
class LocalProcessor:
    """Decodes and prints in worker processes, and runs the engine in this one; what is in flight is bounded."""

    at: Workplace

    def process(self, tasks: Iterable[StudyTask]) -> Iterator[FinishedStudy]:
        """Process studies one stage after the other; each stage draws from the one before it.

        Raises:
            EngineError: the engine cannot be opened, or fails for anything.
            OutputNotWritable: the output folder is full, or no longer where it was.
        """
        order, engine, workers, clock = self.at.order, self.at.engine, self.at.workers, self.at.clock
        reading = Reading(order.source.folder, engine.bundle.input, order.settings, order.pseudonyms)
        scorer = Scorer(engine.open(), engine.open_exact)
        decoded = filter(self._is_whole, decode_studies(tasks, reading, workers, clock))
        scored = self._told(score_studies(decoded, scorer, order.settings, clock))
        return print_reports(scored, self.at.place, order.settings, workers, clock)

    def _is_whole(self, study: DecodedStudy) -> bool:
        cut_short = [image.path for image in study.refused if image.reason == Reason.TRUNCATED_PIXELS.value]
        return not cut_short or not self.at.may_grow(cut_short)

    def _told(self, studies: Iterable[ScoredStudy]) -> Iterator[ScoredStudy]:
        for study in studies:
            self.at.on_scored()
            yield study
