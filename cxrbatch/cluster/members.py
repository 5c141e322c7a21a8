"""The nodes of a run as its driver sees them: who came, who is gone, what each has in hand; they are reached by dask.

A task of dask's is bound to one node, and never tried again by dask: where work goes is decided here.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from cxrbatch.cluster.feed import Chunk, NodeLoad
from cxrbatch.cluster.node import ChunkDone, Joined, NodeOrder, join_run, leave_runs, process_chunk
from cxrbatch.errors import EngineError, OutputLocked, OutputNotWritable, RunError
from cxrbatch.output.folder.fence import raise_fence
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.folder.place import NodeFence
from cxrbatch.system.durable import TEMPORARY_PREFIX
from cxrbatch.system.logbook import log_event

LOOK_S = 1.0
# Nobody is there yet, or all were refused and others may come.
PATIENCE_S, REFUSED_PATIENCE_S = 180.0, 10.0
# So long a node that was given up may finish the report that it is writing.
_WRITERS_END_S = 5.0
_LEAVING_S = 5.0

# What is run on a node for each chunk; a test has another one.
Work = Callable[[str, Chunk], ChunkDone]


@dataclass(slots=True)
class Member:
    """One node: where it is, its fence, what it has in hand; not `is_ready` until it joined."""

    address: str
    fence: NodeFence
    load: NodeLoad = field(default_factory=NodeLoad)
    is_ready: bool = False
    machine: str = ""
    futures: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A node answered: with `number`, about a chunk."""

    member: Member
    future: Any
    number: int = 0


class Members:
    """All nodes that the scheduler knows, asked to join as they appear."""

    def __init__(self, client: Any, told: NodeOrder, work: Work = process_chunk) -> None:
        self._client, self._told, self._work = client, told, work
        self._members: dict[str, Member] = {}
        self._refused: dict[str, RunError] = {}
        self._fences: list[str] = []
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._numbers = count(1)
        self._looked_at = float("-inf")
        self._nobody_since = time.monotonic()

    @property
    def ready(self) -> list[Member]:
        """The nodes that joined, those with the least in hand first."""
        return sorted((each for each in self._members.values() if each.is_ready), key=lambda each: len(each.futures))

    @property
    def are_idle(self) -> bool:
        """Tell whether no node has anything in hand."""
        return not any(each.load.in_hand for each in self._members.values())

    def look(self) -> list[Member]:
        """Ask new nodes to join, now and then; return those that are gone.

        Raises:
            RunError: the scheduler is gone, or no node is left that could work.
            OutputNotWritable: a node's fence cannot be raised.
        """
        if time.monotonic() - self._looked_at < LOOK_S:
            return []
        self._looked_at = time.monotonic()
        there = self._addresses()
        for address in there - self._members.keys() - self._refused.keys():
            self._invite(address)
        for address in self._refused.keys() - there:
            del self._refused[address]
        gone = [member for address, member in self._members.items() if address not in there]
        self._refuse_nobody()
        return gone

    def _addresses(self) -> set[str]:
        try:
            # Asked of the scheduler each time: what `scheduler_info` says is at times an earlier answer without nodes.
            found = self._client.nthreads() if self._client.status == "running" else None
        except OSError:
            found = None
        if found is None:
            raise RunError(
                "the scheduler of the cluster is gone. Start it again, and give the same command: what was finished is "
                "recorded, the rest waits."
            )
        return set(found)

    def _invite(self, address: str) -> None:
        name = f"{TEMPORARY_PREFIX}node-{secrets.token_hex(6)}"
        self._fences.append(name)
        with output_errors_explained(self._out):
            member = Member(address, NodeFence(name, raise_fence(self._out, name=name)))
        self._members[address] = member
        self._submit(member, 0, join_run, self._told, member.fence)

    @property
    def _out(self) -> Path:
        return self._told.order.out

    def _submit(self, member: Member, number: int, function: Callable[..., Any], *arguments: object) -> None:
        future = self._client.submit(
            function, *arguments, workers=[member.address], allow_other_workers=False, pure=False, retries=0
        )
        member.futures[number] = future
        future.add_done_callback(lambda done: self._events.put(Event(member, done, number)))

    def give(self, member: Member, chunk: Chunk) -> None:
        """Send a chunk to a node."""
        number = next(self._numbers)
        member.load.in_hand[number] = chunk
        self._submit(member, number, self._work, self._told.token, chunk)

    def next_event(self, timeout_s: float) -> Event | None:
        """Return what a node that is still counted on answered; None where none did in time."""
        with suppress(Empty):
            event = self._events.get(timeout=timeout_s)
            if event.member.futures.pop(event.number, None) is not None:
                return event
        return None

    def join(self, member: Member, answer: Joined) -> None:
        """Count on a node from here on, or note why not."""
        member.machine = answer.machine
        if answer.refusal:
            self.refuse(member, EngineError(answer.refusal))
            return
        member.is_ready = True
        log_event("node joined", node=member.address, machine=answer.machine, process=answer.process)

    def refuse(self, member: Member, error: RunError) -> list[Chunk]:
        """Count on a node no more, for it cannot do the work; return what it had in hand."""
        why = f"{member.machine}: {error}"
        self._refused[member.address] = type(error)(why)
        log_event("node refused", level=logging.WARNING, node=member.address, why=why)
        return self.dismiss(member)

    def dismiss(self, member: Member) -> list[Chunk]:
        """Count on a node no more, and let it write nothing more; return what it had in hand."""
        self._members.pop(member.address, None)
        try:
            with output_errors_explained(self._out):
                raise_fence(self._out, name=member.fence.name, patience_s=_WRITERS_END_S)
        except OutputLocked:
            log_event("a node that is gone still writes", level=logging.ERROR, node=member.address)
        chunks, member.load.in_hand = list(member.load.in_hand.values()), {}
        futures, member.futures = list(member.futures.values()), {}
        self._client.cancel(futures, force=True)
        if not any(each.is_ready for each in self._members.values()):
            self._nobody_since = time.monotonic()
        return chunks

    def _refuse_nobody(self) -> None:
        if any(each.is_ready for each in self._members.values()):
            return
        waited_s = time.monotonic() - self._nobody_since
        reasons = "; ".join(sorted({str(error) for error in self._refused.values()}))
        if reasons and not self._members and waited_s > REFUSED_PATIENCE_S:
            cannot_write = all(isinstance(error, OutputNotWritable) for error in self._refused.values())
            kind = OutputNotWritable if cannot_write else EngineError
            raise kind(f"no node of the cluster can work for this run: {reasons}")
        if waited_s > PATIENCE_S:
            raise RunError(
                f"no node of the cluster has come to work in {PATIENCE_S:g} s{': ' + reasons if reasons else ''}. "
                "Start `dask worker` somewhere, and give the same command again: nothing is lost."
            )

    def leave(self) -> None:
        """Let all nodes go: what they have in hand is not waited for, and nothing of it is written."""
        with suppress(Exception):  # whatever is lost by now
            ready = [member.address for member in self.ready]
            self._client.cancel([each for member in self._members.values() for each in member.futures.values()])
            leaving = [self._client.submit(leave_runs, workers=[address], pure=False) for address in ready]
            self._client.gather(leaving, errors="skip", asynchronous=False) if _all_done(leaving) else None
        for name in self._fences:
            # One that is gone, as in the end, keeps out as well.
            with suppress(OSError, OutputLocked):
                raise_fence(self._out, name=name, patience_s=_WRITERS_END_S)
            with suppress(OSError):
                (self._out / name).unlink(missing_ok=True)


def _all_done(futures: list[Any]) -> bool:
    end = time.monotonic() + _LEAVING_S
    while time.monotonic() < end and not all(future.done() for future in futures):
        time.sleep(0.05)
    return all(future.done() for future in futures)
