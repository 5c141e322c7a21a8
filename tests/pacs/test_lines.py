"""Lines whose peer has gone: nothing is tried on them without a pause."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import A_ABORT

from cxrbatch.pacs import lines


@pytest.mark.parametrize(("event", "left"), [("Evt15", 0), ("Evt9", 0), ("Evt17", 1), ("Evt3", 1)])
def test_what_is_said_on_a_closed_line_is_said_once(event: str, left: int) -> None:
    """pynetdicom looks at what waits to be said on every turn, and turns at once where there was something to do."""

    def refuse(event: str) -> None:
        raise InvalidEventError(event)

    provider = SimpleNamespace(to_provider_queue=queue.Queue(), event_queue=queue.Queue())
    provider.to_provider_queue.put(A_ABORT())
    lines._act(provider, refuse, event)
    assert (provider.to_provider_queue.qsize(), provider.event_queue.qsize()) == (left, 0)
    lines._act(provider, refuse, event)  # nor is a second one missed
