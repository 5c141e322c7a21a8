"""An engine in, the same engine out with a limit on how long a call may take: a hang becomes an error."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from cxrbatch.engine.contract import Engine
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, Gray8, Scores


@dataclass(slots=True)
class _Call:
    """One call of `infer` and what became of it."""

    scores: Scores | None = None
    error: BaseException | None = None


class TimeLimitedEngine:
    """Passes on what an engine answers, but waits for it no longer than a limit.

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
        thread = threading.Thread(target=self._run, args=(call, pixels), name="engine", daemon=True)
        thread.start()
        thread.join(self._limit_s)
        if thread.is_alive():
            self._hangs = True
            raise EngineError(self._complaint())
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
