"""The health of a daemon: its engine, proved again and again, and the signs of life for systemd and for a scraper."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from cxrbatch.engine.bundle import ENGINE_FILE
from cxrbatch.engine.contract import Engine
from cxrbatch.errors import EngineError
from cxrbatch.records import Float32, Gray8
from cxrbatch.run.batch import Run
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.system.logbook import log_event
from cxrbatch.watch.metrics_server import MetricsServer
from cxrbatch.watch.systemd import ServiceManager, Watchdog

# Where a GPU or its memory fails, scores change wildly or are no numbers; rounding moves them by far less.
CANARY_LIMIT = 0.01
# The engine is asked to prove itself so often also where no systemd waits for it.
PROVED_EVERY_S = 300.0


class Canary:
    """One picture that an engine is asked about again and again: it has to go on saying the same."""

    def __init__(self) -> None:
        self._first: Float32 | None = None

    def sing(self, engine: Engine) -> None:
        """Score the picture.

        Raises:
            EngineError: the engine fails, gives no number, or another one than at first.
        """
        answer = engine.infer(self._pixels(engine)).probabilities
        if self._first is None and np.isfinite(answer).all():
            self._first = answer
        # Written so that NaN, which is not smaller than anything, fails.
        if self._first is None or not np.abs(answer - self._first).max() <= CANARY_LIMIT:
            raise EngineError(
                f"engine {engine.description.name}: it scores a test picture otherwise than when it was opened. "
                "Its hardware or driver may be failing; start again, and run `cxrbatch doctor` if it comes back."
            )

    @staticmethod
    def _pixels(engine: Engine) -> Gray8:
        size = engine.description.input.size_px
        return np.random.default_rng(0).integers(0, 256, (1, 1, size, size), np.uint8)


_Stamp = tuple[int, int, int]


@dataclass(slots=True)
class ProvenEngine:
    """The engine of a daemon: it proves itself again and again, and only what proves itself takes its place."""

    run: Run
    trouble: str = ""
    _canary: Canary = field(default_factory=Canary)
    _stamp: _Stamp = field(init=False)

    def __post_init__(self) -> None:
        self._stamp = _stamp(self.run.slot)

    def prove(self) -> None:
        """Show that the engine works.

        Raises:
            EngineError: it does not.
        """
        self._canary.sing(self.run.slot.open())

    def reload(self) -> None:
        """Take up an engine that was replaced on disk; one that cannot be used leaves the former at work."""
        stamp = _stamp(self.run.slot)
        if stamp == self._stamp:
            return
        try:
            slot, canary = EngineSlot(self.run.settings, opens_soon=True), Canary()
            slot.stay_with(self.run.engine.sha256)
            if slot.description.sha256 == self.run.slot.description.sha256:
                self._stamp = stamp
                return
            canary.sing(slot.open())
        except EngineError as error:
            # Perhaps its files are still being copied: the next pass tries again.
            self._refuse(str(error))
            return
        self._stamp, self._canary, self.trouble = stamp, canary, ""
        self._take_up(slot)

    def _refuse(self, trouble: str) -> None:
        if trouble != self.trouble:
            log_event("engine not reloaded", level=logging.ERROR, error=trouble)
            self.run.progress.say(f"the engine on disk is not used: {trouble}")
        self.trouble = trouble

    def _take_up(self, slot: EngineSlot) -> None:
        self.run.slot, former = slot, self.run.slot
        former.close()
        self.run.remember_engine()
        self.run.requeue()
        engine = slot.description
        log_event("engine reloaded", engine=engine.name, engine_sha256=engine.sha256)
        self.run.progress.say(f"engine reloaded: {engine.name} {engine.sha256[:12]}")


def _stamp(slot: EngineSlot) -> _Stamp:
    """Return what changes when an engine is built again: it moves into place as a new folder, a new file."""
    try:
        status = (slot.bundle.folder / ENGINE_FILE).stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)


class Vitals:
    """Tells systemd and whoever scrapes that the daemon can do its work, each time that it has shown it."""

    def __init__(
        self,
        service: ServiceManager,
        watchdog: Watchdog,
        server: MetricsServer | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service, self._watchdog, self._server, self._clock = service, watchdog, server, clock
        self._proved_at = clock()

    def pulse(self, prove: Callable[[], None]) -> None:
        """Where a sign of life is due, and every five minutes, let `prove` show that the engine works, and give it.

        Raises:
            EngineError: it does not.
        """
        if self._watchdog.due() or self._clock() - self._proved_at >= PROVED_EVERY_S:
            prove()
            self.proved()
        if self._server is not None:
            self._server.renew()

    def proved(self) -> None:
        """The engine has just shown that it works."""
        self._watchdog.feed()
        self._proved_at = self._clock()

    def publish(self, metrics: str, *, healthy: bool, waiting: int) -> None:
        """Tell what the last pass came to."""
        self.service.tell_status(f"{waiting} studies waiting" if healthy else "the input cannot be looked at")
        if self._server is not None:
            self._server.update(metrics, healthy=healthy, facts={"studies_waiting": waiting})


def open_vitals(stack: ExitStack, metrics_port: int | None) -> Vitals:
    """Begin to give signs of life; `stack` ends it. Without a port nobody can ask, only systemd is told.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    service = ServiceManager()
    server = None if metrics_port is None else stack.enter_context(MetricsServer(metrics_port))
    return Vitals(service, Watchdog(service), server)
