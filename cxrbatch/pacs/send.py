"""Sending what is due to one peer, until nothing is left, or again and again. Start at `send_due`.

Nothing is sent twice and nothing forgotten: each answer is noted as it comes (`output/sent.py`), and what is due is
found by looking, not remembered. What fails for now is tried again, after longer and longer pauses; the study whose
object it was goes to the end of the queue, so that one object which an archive cannot bear holds up no other. What the
peer does not want for good is noted as refused, and not sent again.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cxrbatch.output.sent import DONE, SentObject, SentObjects
from cxrbatch.pacs.courier import Courier, Lost, Verdict
from cxrbatch.pacs.due import DueStudies, NotReady, Parcel, stamp_of
from cxrbatch.system.faults import reach
from cxrbatch.system.stopping import stop_if_asked

SETTLE_EVERY = 200
"""After so many stored objects the peer is asked to commit itself to them."""

# A folder that changed within this time may change once more without its time showing it.
_RACY_NS = 2_000_000_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _LONGEST_REST_S = 1.0, 60.0, 900.0
_POLL_S = 0.1
_NOT_READY = (
    ": its objects are not those of its result. A run may be printing them; else `cxrbatch report OUT --dicom` writes "
    "them again."
)
_TOLD_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Persistence:
    """How often to try in a row without any success, and the pauses in between, in seconds.

    `rests` lets each object that was tried in vain rest by itself, so that whoever goes on for days neither asks an
    archive again and again what it cannot bear, nor keeps what is new waiting for that.
    """

    tries: int = 5
    first_pause_s: float = _FIRST_PAUSE_S
    longest_pause_s: float = _LONGEST_PAUSE_S
    rests: bool = False

    def pause_s(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row: twice as long each time, less up to half at random.

        So those who lost one archive at the same moment do not come back to it at the same moment.
        """
        longest = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  # no secret

    def is_rested(self, before: SentObject) -> bool:
        """Tell whether an object that was tried in vain may be tried again."""
        if not self.rests or not before.at:
            return True
        since = datetime.now(timezone.utc) - datetime.fromisoformat(before.at)
        pause_s = min(_LONGEST_REST_S, self.first_pause_s * 2.0 ** min(before.attempts, 30))
        return not timedelta(0) <= since < timedelta(seconds=pause_s)


@dataclass(slots=True)
class Outcome:
    """What became of what was due: objects by verdict, studies of which something is left, and the last trouble."""

    objects: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    studies_left: int = 0
    trouble: str = ""

    @property
    def is_all_stored(self) -> bool:
        """Tell whether nothing is left, and nothing was refused just now."""
        return not self.studies_left and not self.objects["refused"]


@dataclass(slots=True)
class Errand:
    """One peer, what is due to it, and how: everything that one round of sending needs.

    `kinds` are those to send (`sr`, `sc`, `pdf`); `tell` gets a line now and then; `is_over` tells that nobody wants it
    any more.
    """

    due: DueStudies
    sent: SentObjects
    courier: Courier
    kinds: tuple[str, ...]
    persistence: Persistence
    tell: Callable[[str], None]
    outcome: Outcome = field(default_factory=Outcome)
    told_at: float = field(default_factory=time.monotonic)
    looking_s: float = 0.0
    is_over: Callable[[], bool] = lambda: False

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.due.out


@dataclass(slots=True)
class _Queue:
    """The studies that wait, those that are not to be sent now, and how many attempts in a row came to nothing."""

    keys: deque[str]
    not_ready: list[str] = field(default_factory=list)
    resting: list[str] = field(default_factory=list)
    failures: int = 0
    since_settled: int = 0

    @property
    def left(self) -> int:
        """How many studies have something left."""
        return len(self.keys) + len(self.not_ready) + len(self.resting)


def send_due(errand: Errand) -> Outcome:
    """Send everything that is due, once.

    Raises:
        Stopped: a signal asked for it; what was answered until then is noted.
        RunError: the ledger cannot be read, or what was sent cannot be noted.
    """
    errand.outcome = outcome = Outcome()
    queue = _Queue(deque(_in_order(errand)))
    total = len(queue.keys)
    try:
        while queue.keys and not _is_hopeless(errand, queue) and not errand.is_over():
            stop_if_asked()
            _send_next(errand, queue)
            _tell_now_and_then(errand, total, len(queue.keys))
        _ask_commitment(errand, queue)
    finally:
        errand.courier.rest()
        outcome.studies_left = queue.left
        if queue.not_ready and not outcome.trouble:
            outcome.trouble = f"study {queue.not_ready[0]}{_NOT_READY}"
        errand.sent.note_peer(outcome.studies_left, outcome.trouble, reached=bool(outcome.objects))
    return outcome


def _ask_commitment(errand: Errand, queue: _Queue) -> None:
    queue.since_settled = 0
    if lost := errand.courier.settle():
        queue.resting += sorted(lost)
        errand.outcome.trouble = f"{errand.courier.peer}: does not have all that it stored; it is sent again later."


def _in_order(errand: Errand) -> list[str]:
    """Return the studies to look at; those with an object that was tried in vain come last."""
    started, tried = time.monotonic(), errand.sent.tried()
    found = sorted(errand.due.look(errand.sent.settled()), key=lambda study_key: study_key in tried)
    errand.looking_s = time.monotonic() - started
    return found


def _send_next(errand: Errand, queue: _Queue) -> None:
    """Send what is due of the first study; where that fails it goes to the end."""
    study_key = queue.keys.popleft()
    try:
        stamp = stamp_of(errand.out, study_key)
        parcels = errand.due.read(study_key)
    except NotReady:
        queue.not_ready.append(study_key)
        return
    if parcels is None:
        return
    waiting = _waiting(errand, parcels)
    rested = [(parcel, before) for parcel, before in waiting if not before or errand.persistence.is_rested(before)]
    try:
        all_done = _send_study(errand, queue, rested)
    except Lost as lost:
        _note_lost(errand, lost)
        queue.keys.append(study_key)
        _pause(errand, queue, str(lost), may_pass=lost.may_pass)
        return
    if not all_done:
        queue.keys.append(study_key)
        _pause(errand, queue, f"{errand.courier.peer}: cannot store now, for want of room perhaps.")
        return
    if len(rested) < len(waiting):
        queue.resting.append(study_key)
        return
    errand.outcome.studies += bool(waiting)
    _settle(errand, study_key, stamp, parcels)
    if queue.since_settled >= SETTLE_EVERY:
        _ask_commitment(errand, queue)


def count_due(errand: Errand) -> Outcome:
    """Return how many objects of each kind are due, of how many studies; nothing is sent."""
    outcome = Outcome()
    for study_key in _in_order(errand):
        try:
            waiting = _waiting(errand, errand.due.read(study_key) or [])
        except NotReady:
            outcome.studies_left += 1
            continue
        outcome.studies += bool(waiting)
        outcome.objects.update(parcel.kind for parcel, _ in waiting)
    return outcome


def _waiting(errand: Errand, parcels: list[Parcel]) -> list[tuple[Parcel, SentObject | None]]:
    """Return what of a study is to be sent, with what is known of it where it was tried."""
    known = errand.sent.of_study(parcels[0].study_key) if parcels else {}
    found = []
    for parcel in parcels:
        before = known.get(parcel.uid)
        if parcel.kind in errand.kinds and (before is None or before.status not in DONE):
            found.append((parcel, before))
    return found


def _send_study(errand: Errand, queue: _Queue, waiting: list[tuple[Parcel, SentObject | None]]) -> bool:
    """Send objects of one study; tell whether each was stored or refused."""
    attempts = {parcel.uid: before.attempts + 1 if before else 1 for parcel, before in waiting}
    all_done = True
    for parcel, answer in errand.courier.send([parcel for parcel, _ in waiting]):
        reach("sent-note")
        errand.sent.note(_noted(parcel, answer.verdict, attempts[parcel.uid], answer.told))
        reach("sent-noted")
        errand.outcome.objects[answer.verdict] += 1
        if answer.verdict == "waiting":
            all_done = False
        else:
            queue.failures, errand.outcome.trouble = 0, ""
        queue.since_settled += answer.verdict == "stored"
        stop_if_asked()
    return all_done


def _noted(parcel: Parcel, status: Verdict, attempts: int, code: str = "") -> SentObject:
    return SentObject(parcel.uid, parcel.study_key, parcel.revision, parcel.kind, status, code, attempts)


def _note_lost(errand: Errand, lost: Lost) -> None:
    """Count a try of the object that was on its way when the peer went."""
    if (parcel := lost.parcel) is None:
        return
    known = errand.sent.of_study(parcel.study_key).get(parcel.uid)
    errand.sent.note(_noted(parcel, "waiting", known.attempts + 1 if known else 1))


def _settle(errand: Errand, study_key: str, stamp: int | None, parcels: list[Parcel]) -> None:
    """Note that there is nothing left of a study, so that it is not read again; only where that is certain."""
    if stamp is None or any(parcel.kind not in errand.kinds for parcel in parcels):
        return
    if time.time_ns() - stamp > _RACY_NS and stamp == stamp_of(errand.out, study_key):
        errand.sent.settle(study_key, stamp)


def _pause(errand: Errand, queue: _Queue, trouble: str, *, may_pass: bool = True) -> None:
    """Wait until the next attempt, longer each time."""
    queue.failures += 1
    errand.outcome.trouble = trouble
    if not may_pass:
        queue.failures = errand.persistence.tries
    if _is_hopeless(errand, queue):
        return
    errand.sent.note_peer(queue.left, trouble, reached=False)
    pause_s = errand.persistence.pause_s(queue.failures)
    errand.tell(f"{trouble} Trying again in {pause_s:.0f} s; {len(queue.keys)} studies are left.")
    sleep_unless_stopped(pause_s)


def _is_hopeless(errand: Errand, queue: _Queue) -> bool:
    return queue.failures >= errand.persistence.tries


def _tell_now_and_then(errand: Errand, total: int, left: int) -> None:
    if time.monotonic() - errand.told_at >= _TOLD_EVERY_S:
        errand.told_at = time.monotonic()
        errand.tell(f"{total - left} of {total} studies sent to {errand.courier.peer}")
        errand.sent.note_peer(left, errand.outcome.trouble, reached=bool(errand.outcome.objects))


def sleep_unless_stopped(seconds: float, is_over: Callable[[], bool] = lambda: False) -> None:
    """Sleep, but for a signal that asks for a stop, or until it is over.

    Raises:
        Stopped: one did.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not is_over():
        stop_if_asked()
        time.sleep(min(left, _POLL_S))
