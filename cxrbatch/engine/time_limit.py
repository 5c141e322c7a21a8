"""An engine with a limit on how long a call may take, so that a hang becomes an error."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from cxrbatch.engine.contract import Engine
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, Gray8, Scores
from cxrbatch.system.stopping import stop_if_asked
from cxrbatch.system.times import AwakeTime

_POLL_S = 0.05
# A stop waits so long for a call that is under way.
_GRACE_S = 5.0
THREAD_NAME = "engine"


def an_engine_hangs() -> bool:
    """Tell whether a call of this process is still under way: it may never end, and keep the process from ending."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


@dataclass(slots=True)
class _Call:
    """One call of `infer` and what became of it."""

    scores: Scores | None = None
    error: BaseException | None = None


class TimeLimitedEngine:
    """Passes on what an engine answers, but waits for it no longer than a limit. A pause of this process is no waiting.

    A call that hangs inside a driver cannot be ended from outside. Its thread is left behind and the engine is not
    used again, nor closed: the process is to end, with the engine's exit code, so that whoever keeps it running
    starts a new one.
    """

    def __init__(self, engine: Engine, limit_s: float) -> None:
        self._engine, self._limit_s = engine, limit_s
        self._hangs = False

    @property
    def description(self) -> EngineDescription:
        """See `Engine.description`."""
        return self._engine.description

    def infer(self, pixels: Gray8) -> Scores:
        """Score a batch; see `Engine.infer`.

        Raises:
            EngineError: what the engine raises, or that it did not answer in time.
        """
        if self._hangs:
            raise EngineError(self._complaint())
        call = _Call()
        thread = threading.Thread(target=self._run, args=(call, pixels), name=THREAD_NAME, daemon=True)
        thread.start()
        awake = AwakeTime()
        while thread.is_alive():
            thread.join(_POLL_S)
            awake.look()
            waited_s = awake.seconds
            # From here on it is left alone, whether it ends or not.
            self._hangs = waited_s > min(self._limit_s, _GRACE_S) and thread.is_alive()
            if self._hangs:
                stop_if_asked()
            if self._hangs and waited_s > self._limit_s:
                raise EngineError(self._complaint())
        self._hangs = False
        if call.error is not None:
            raise call.error
        assert call.scores is not None, "a call that is over has scores or an error"
        return call.scores

    def close(self) -> None:
        """Release the engine, unless it hangs."""
        if not self._hangs:
            self._engine.close()

    def _run(self, call: _Call, pixels: Gray8) -> None:
        try:
            call.scores = self._engine.infer(pixels)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
            call.error = error

    def _complaint(self) -> str:
        description = self.description
        return (
            f"engine {description.name} ({description.backend}): no answer in {self._limit_s:g} s (infer_timeout_s). "
            f"Run the same command again: finished studies are kept."
        )
