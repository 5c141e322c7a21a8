"""The engine of a run, held from its beginning to its end: `EngineSlot` says when it is opened, verified and closed."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace

from cxrbatch.config import Settings
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.open import EngineChoice, go_on_with, open_choice, open_engine, plan_engine
from cxrbatch.engine.time_limit import TimeLimitedEngine
from cxrbatch.records import EngineDescription
from cxrbatch.system.logbook import log_event
from cxrbatch.system.worker_handle import leave_signals_to_the_main_thread


class EngineSlot:
    """The engine that the settings ask for: described at once, opened when it is first needed, closed in the end."""

    def __init__(self, settings: Settings, *, opens_soon: bool = False, verifies: bool = True) -> None:
        """Find the engine and check that it can run here.

        Args:
            settings: which engine, and where it is to run.
            opens_soon: that of `plan_engine`.
            verifies: whether its file is verified now; else `verify` does it, or whatever opens it.

        Raises:
            EngineError: there is none, or it cannot.
        """
        self._settings = settings
        self._is_verified = verifies or opens_soon
        self.bundle: EngineBundle = find_bundle(settings.engine)
        self.description: EngineDescription = plan_engine(
            self.bundle,
            backend=settings.backend,
            precision=settings.precision,
            opens_soon=opens_soon,
            verifies=self._is_verified,
        )
        self._opening: Future[Engine] | None = None
        self._engine: Engine | None = None
        self._exact: Engine | None = None

    def __enter__(self) -> EngineSlot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stay_with(self, scored_by: str) -> None:
        """Go on with the file that scored an output folder before, where nobody asks for a precision.

        Args:
            scored_by: the identity of the engine that scored it; '' where none did.

        Raises:
            EngineError: that file, or that of another engine than scored before, is missing or damaged.
        """
        if self._settings.precision == "auto":
            precision = go_on_with(self.bundle, self.description, scored_by)
            if precision != "auto":
                self._settings = replace(self._settings, precision=precision)
                self.bundle.close()
                self.description = plan_engine(
                    self.bundle, backend=self._settings.backend, precision=precision, verifies=self._is_verified
                )
                log_event("goes on in FP32", engine_sha256=scored_by)
        if scored_by != self.description.sha256:
            self.verify()  # before anything that another engine scored is queued for this one

    def verify(self) -> None:
        """See that the engine's file is the one it was built with, unless that is known.

        Raises:
            EngineError: it is not, or is missing.
        """
        if self._is_verified:
            return
        was_opened = self._engine is not None or (self._opening is not None and self._opening.exception() is None)
        if not was_opened:  # what else keeps it from opening matters to nobody who does not ask for it
            plan_engine(self.bundle, backend=self._settings.backend, precision=self._settings.precision)
        self._is_verified = True

    def open(self) -> Engine:
        """Return the opened engine; a call that takes longer than `infer_timeout_s` is an EngineError."""
        if self._engine is None:
            opening, self._opening = self._opening, None
            opened = opening.result() if opening else self._open()
            self._engine = TimeLimitedEngine(opened, self._settings.infer_timeout_s)
        return self._engine

    def open_ahead(self) -> None:
        """Begin to open the engine beside whatever else is done until `open`, which says what went wrong with it.

        Only where it is ONNX Runtime's: a GPU's context belongs to the thread that will use it.
        """
        if self._engine is None and self._opening is None and self.description.backend == "onnxruntime":
            self._opening = Future()
            threading.Thread(target=self._open_into, args=(self._opening,), name="opening the engine").start()

    def _open_into(self, opening: Future[Engine]) -> None:
        leave_signals_to_the_main_thread()
        try:
            opening.set_result(self._open())
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that asks for the engine
            opening.set_exception(error)

    def _open(self) -> Engine:
        settings = self._settings
        return open_engine(
            self.bundle, backend=settings.backend, precision=settings.precision, threads=settings.threads
        )

    def open_exact(self) -> Engine | None:
        """Return the same network in FP32 on the CPU, for what a lower precision cannot tell; None where it is that.

        Raises:
            EngineError: the bundle's FP32 file is damaged.
        """
        if self.description.precision == "fp32" or "onnx" not in self.bundle.manifest.files:
            return None
        if self._exact is None:
            settings = self._settings
            exact = EngineChoice("onnxruntime", role="onnx", precision="fp32", why="its other file gave no number")
            opened = open_choice(self.bundle, exact, threads=settings.threads)
            self._exact = TimeLimitedEngine(opened, settings.infer_timeout_s)
        return self._exact

    def close(self) -> None:
        """Release the engine; a second call does nothing."""
        opening, self._opening = self._opening, None
        if opening is not None and opening.exception() is None:
            opening.result().close()
        engines, self._engine, self._exact = (self._engine, self._exact), None, None
        for engine in engines:
            if engine is not None:
                engine.close()
        self.bundle.close()
