"""The engine that the settings ask for: described at once, opened when it is first needed."""

from __future__ import annotations

from cxrbatch.config import Settings
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.installed import find_bundle
from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine
from cxrbatch.engine.open import open_engine, plan_engine
from cxrbatch.engine.time_limit import TimeLimitedEngine
from cxrbatch.records import EngineDescription


class EngineSlot:
    """The engine that the settings ask for: described at once, opened when it is first needed, closed in the end."""

    def __init__(self, settings: Settings) -> None:
        """Find the engine and check that it can run here.

        Raises:
            EngineError: there is none, or it cannot.
        """
        self._settings = settings
        self.bundle: EngineBundle = find_bundle(settings.engine)
        self.description: EngineDescription = plan_engine(
            self.bundle, backend=settings.backend, precision=settings.precision
        )
        self._engine: Engine | None = None
        self._exact: Engine | None = None

    def __enter__(self) -> EngineSlot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> Engine:
        """Return the opened engine; a call that takes longer than `infer_timeout_s` is an EngineError."""
        if self._engine is None:
            settings = self._settings
            opened = open_engine(
                self.bundle, backend=settings.backend, precision=settings.precision, threads=settings.threads
            )
            self._engine = TimeLimitedEngine(opened, settings.infer_timeout_s)
        return self._engine

    def open_exact(self) -> Engine | None:
        """Return the same network in FP32 on the CPU, for what a lower precision cannot tell; None where it is that.

        Raises:
            EngineError: the bundle's FP32 file is damaged.
        """
        if self.description.precision == "fp32" or "onnx" not in self.bundle.manifest.files:
            return None
        if self._exact is None:
            settings = self._settings
            opened = OnnxRuntimeEngine(self.bundle, role="onnx", threads=settings.threads)
            self._exact = TimeLimitedEngine(opened, settings.infer_timeout_s)
        return self._exact

    def close(self) -> None:
        """Release the engine; a second call does nothing."""
        engines, self._engine, self._exact = (self._engine, self._exact), None, None
        for engine in engines:
            if engine is not None:
                engine.close()
