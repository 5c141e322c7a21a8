"""From what a command line says to a courier, and sending once, or as long as studies finish."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from cxrbatch.errors import RunError
from cxrbatch.output.sent import SentObjects
from cxrbatch.pacs.commitment import Commitment, listening
from cxrbatch.pacs.courier import Courier
from cxrbatch.pacs.peer import Peer
from cxrbatch.pacs.send import Errand, Outcome, send_due, sleep_unless_stopped
from cxrbatch.pacs.store import StoreCourier
from cxrbatch.pacs.stow import StowCourier, WebPeer

ANSWERS_LATER_S = 30.0
"""For so long a command that listens waits in the end for answers about commitment."""

# Looking takes at most a tenth of the time, however many studies there are.
_LOOK_EVERY_S, _LOOK_SHARE = 2.0, 10
_LOOK_ANYWAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Committing:
    """Whether to ask for storage commitment, and where to listen for answers (host and port; None: nowhere)."""

    asks: bool = True
    at: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A courier, and what is to be committed by its peer; None where nothing is asked for."""

    courier: Courier
    commitment: Commitment | None = None


def open_dispatch(stack: ExitStack, whom: Peer | WebPeer, sent: SentObjects, committing: Committing) -> Dispatch:
    """Return what takes objects to a peer; `stack` ends it.

    Raises:
        ConfigurationError: the address for answers cannot be listened on.
    """
    if isinstance(whom, WebPeer):
        return Dispatch(StowCourier(whom))
    if not committing.asks:
        return Dispatch(StoreCourier(whom))
    commitment = Commitment(sent, listens=committing.at is not None)
    if committing.at is not None:
        stack.enter_context(listening(commitment, *committing.at, whom.calling))
    return Dispatch(StoreCourier(whom, commitment), commitment)


def send_once(errand: Errand, dispatch: Dispatch) -> Outcome:
    """Send what is due, and wait a little for answers about commitment that come by themselves."""
    outcome = send_due(errand)
    if dispatch.commitment is not None:
        outcome.studies_left += len(dispatch.commitment.wait(ANSWERS_LATER_S))
    return outcome


def send_as_they_finish(errand: Errand, dispatch: Dispatch) -> None:
    """Send what is due again and again; an output folder that cannot be read now is looked at again later.

    Where nothing changed, nothing is looked at. A round in which nothing could be sent is followed by a longer pause
    each time.

    Raises:
        Stopped: a signal asked for it.
    """
    seen, looked_at, failures = 0, float("-inf"), 0
    while not errand.is_over():
        sends_again = bool(dispatch.commitment and dispatch.commitment.note_answers())
        state, pause_s = errand.due.state(), _LOOK_EVERY_S
        if state != seen or sends_again or time.monotonic() - looked_at > _LOOK_ANYWAY_S:
            looked_at, seen = time.monotonic(), state
            outcome = _send(errand)
            if outcome.studies_left:
                seen = 0
            failures = failures + 1 if outcome.trouble and not outcome.objects["stored"] else 0
            pause_s = max(pause_s, _LOOK_SHARE * errand.looking_s)
            if failures:
                pause_s = max(pause_s, errand.persistence.pause_s(failures))
        sleep_unless_stopped(pause_s, errand.is_over)


def _send(errand: Errand) -> Outcome:
    former = errand.outcome.trouble
    try:
        outcome = send_due(errand)
    except RunError as error:
        errand.outcome = outcome = Outcome(studies_left=1, trouble=str(error))
    if outcome.objects:
        errand.tell(f"{errand.courier.peer}: {outcome.studies} studies sent, {outcome.studies_left} left")
    if outcome.trouble != former:
        errand.tell(outcome.trouble or f"{errand.courier.peer}: all is well again")
    return outcome
