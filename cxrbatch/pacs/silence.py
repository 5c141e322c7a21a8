"""How long an archive may say nothing while it sends what it was told to.

It need not answer before it is done (PS3.4 C.4.2.3: pending responses are optional), and a large image over a slow
line takes longer than any answer should. What comes meanwhile shows that it is at work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pynetdicom.association import Association

_POLL_S = 0.2


class Silence:
    """The time since an archive last answered, or something of it came."""

    def __init__(self, stirred_at: Callable[[], float], limit_s: float) -> None:
        """Take what tells when something last came, in seconds since 1970, and how long nothing may."""
        self._stirred_at, self._limit_s = stirred_at, limit_s
        self._heard_at = time.time()
        self.is_too_long = False

    def end(self) -> None:
        """Note that it answered."""
        self._heard_at = time.time()

    @contextmanager
    def limited(self, association: Association) -> Iterator[None]:
        """Abort an association, while the block runs, where the silence is too long."""
        done, before = threading.Event(), association.dimse_timeout
        association.dimse_timeout = None
        threading.Thread(target=self._watch, args=(association, done), daemon=True).start()
        try:
            yield
        finally:
            done.set()
            association.dimse_timeout = before

    def _watch(self, association: Association, done: threading.Event) -> None:
        while not done.wait(_POLL_S):
            since = time.time() - max(self._heard_at, self._stirred_at())
            if since > self._limit_s:
                self.is_too_long = True
                break_off(association)
                return


def break_off(association: Association) -> None:
    """Abort an association on which another thread waits for an answer: there is none, and it is to know that."""
    association.abort()
    association.dimse.msg_queue.put((None, None))
