"""Studies processed on many machines: the same seam as `LocalProcessor`, so that a run knows no difference.

The driver, which holds OUT, reads headers, gives tasks of a few kB to nodes, and alone records what comes back. Pixels
are read and reports written by the nodes, over shared folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxrbatch.cluster.feed import Feed
from cxrbatch.cluster.members import Event, Members, Work
from cxrbatch.cluster.node import ChunkDone, NodeOrder, process_chunk
from cxrbatch.errors import EngineError, OutputNotWritable, RunError
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.pages.own_templates import in_use
from cxrbatch.run.processor import Workplace
from cxrbatch.run.source import Order, Source
from cxrbatch.run.stages import FinishedStudy
from cxrbatch.run.witness import names_in
from cxrbatch.system.logbook import log_event
from cxrbatch.system.stopping import stop_if_asked

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ClusterProcessor:
    """Gives studies to the nodes of a cluster, chunk by chunk, and yields what they return.

    `share`: how many cores each node may use where nothing else is asked for; 0 where it has its machine to itself.
    """

    at: Workplace
    client: Callable[[], Any]
    share: int = 0
    work: Work = process_chunk

    def process(self, tasks: Iterable[StudyTask]) -> Iterator[FinishedStudy]:
        """Process studies; what comes out first is what is finished first.

        Raises:
            EngineError: no node has the engine of this run, at the same precision, on the same backend.
            OutputNotWritable: no node can write the output folder, or it is no longer where it was.
            RunError: no scheduler answers, or no node is left.
        """
        members, feed = Members(self.client(), self._told(), self.work), Feed(tasks)
        try:
            while not (feed.is_drained and members.are_idle):
                stop_if_asked()
                for gone in members.look():
                    log_event("node lost", node=gone.address)
                    yield from self._counted(feed.note_death(members.dismiss(gone)))
                ready = members.ready
                for member in ready:
                    while chunk := feed.next_chunk(member.load, len(ready)):
                        members.give(member, chunk)
                if (event := members.next_event(_POLL_S)) is not None:
                    yield from self._counted(self._settle(event, members, feed))
        finally:
            members.leave()

    def _told(self) -> NodeOrder:
        order, engine = self.at.order, self.at.engine
        settings = order.settings
        if self.share:
            settings = replace(settings, workers=settings.workers or self.share, threads=settings.threads or self.share)
        source = Source(order.source.folder.resolve(), order.source.only)
        there = Order(source, order.out.resolve(), settings, order.pseudonyms)
        folder = Path(engine.bundle.folder).resolve()
        return NodeOrder(there, self.at.place.token, engine.description, folder, in_use(), names_in(source))

    def _settle(self, event: Event, members: Members, feed: Feed) -> Iterator[FinishedStudy]:
        """Take what a node answered."""
        member, number = event.member, event.number
        try:
            answer = event.future.result()
        except (EngineError, OutputNotWritable) as error:
            # Of that node: its driver, its GPU, its mounts. Others go on, but where OUT is gone here, too.
            self.at.place.check()
            feed.give_back(members.refuse(member, error))
            return
        except RunError:
            raise
        except BaseException as error:  # noqa: BLE001  # cancelled, lost, or of a process that is not the one that joined
            log_event("node lost", node=member.address, error=type(error).__name__)
            lost = member.load.in_hand.values() if number else ()
            yield from feed.note_death(list(lost))
            members.dismiss(member)
            return
        if not isinstance(answer, ChunkDone):
            members.join(member, answer)
            return
        chunk = member.load.in_hand.pop(number)
        member.load.measure(len(chunk), answer.wall_s)
        member.load.is_alone = False
        for stage, seconds in answer.stage_s.items():
            self.at.clock.add(stage, seconds)
        yield from answer.finished

    def _counted(self, studies: Iterable[FinishedStudy]) -> Iterator[FinishedStudy]:
        for study in studies:
            self.at.on_scored()
            yield study
