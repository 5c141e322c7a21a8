"""A sleep that ends early when something happens in a folder; where events do not work, just a sleep.

Events of the file system are a courtesy: network shares have none, queues overflow, names may not be text. So they
only wake, and nothing that they say is believed; the next look at the folder is the truth.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from cxrbatch.system.stopping import stop_if_asked

log = logging.getLogger(__name__)

_STOP_POLL_S = 0.2
_GATHER_MS = 200
_ENDS_WITHIN_S = 2.0


class Waker:
    """Sleeps until time is up or something happened below a folder."""

    def __init__(self, root: Path, out: Path) -> None:
        """Listen below `root`, but not to what is written to `out`."""
        self._root, self._own = str(root.resolve()), f"{out.resolve()}{os.sep}"
        self._news, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, name="file events", daemon=True)

    def __enter__(self) -> Waker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_ENDS_WITHIN_S)

    def wake(self) -> None:
        """End the sleep, or the next one: there is something to do."""
        self._news.set()

    def sleep(self, seconds: float) -> bool:
        """Sleep for at most so long; tell whether something happened.

        Raises:
            Stopped: a signal asked for it.
        """
        left = seconds
        while left > 0 and not self._news.wait(min(left, _STOP_POLL_S)):
            stop_if_asked()
            left -= _STOP_POLL_S
        stop_if_asked()
        happened = self._news.is_set()
        self._news.clear()
        return happened

    def _listen(self) -> None:
        with suppress(ImportError):
            from watchfiles import watch

            try:
                for _ in watch(
                    self._root,
                    watch_filter=lambda _, path: not path.startswith(self._own),
                    stop_event=self._stop,
                    step=_GATHER_MS // 4,
                    debounce=_GATHER_MS,
                    raise_interrupt=False,
                    ignore_permission_denied=True,
                ):
                    self._news.set()
            except Exception as error:  # noqa: BLE001  # a name that is no text, a queue that overflowed, no inotify
                log.warning("no more file events (%s); the folder is looked at in intervals", type(error).__name__)
