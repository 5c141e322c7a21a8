"""The engine of studies that are scored elsewhere: described, never opened here.

A shard's is known from its record alone; that of a cluster lies here, too, and its nodes are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.engine.bundle import EngineBundle
from cxrbatch.engine.contract import Engine
from cxrbatch.engine.manifest import Manifest
from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, TrainingReference
from cxrbatch.run.engine_slot import EngineSlot


class DescribedSlot(EngineSlot):
    """The engine that other machines are to score with: found and verified here, described, and not opened."""

    def __init__(
        self,
        settings: Settings,
        *,
        opens_soon: bool = False,
        verifies: bool = True,
        on_news: Callable[[], object] = lambda: None,
    ) -> None:
        """Find the engine; but for `on_news`, called where another slot would begin to open it, see `EngineSlot`."""
        super().__init__(settings, verifies=verifies or opens_soon)
        self._on_news = on_news

    def open_ahead(self) -> None:
        """Let who scores know that there will be something to score."""
        self._on_news()

    def _open(self) -> Engine:
        raise AssertionError(f"engine {self.description.name} is for other machines to open")


class RecordedSlot(EngineSlot):
    """Stands where a run has its engine, and knows of it what was recorded where it scored."""

    def __init__(
        self, settings: Settings, description: EngineDescription, reference: TrainingReference | None = None
    ) -> None:
        """Take what was recorded.

        Args:
            settings: those of the run.
            description: the engine, as it was where it ran.
            reference: what it was validated on, for drift.
        """
        self._settings, self._is_verified = settings, True
        self._opening = self._engine = self._exact = None
        self.description = description
        manifest = Manifest(
            name=description.name,
            created=description.created,
            architecture=description.architecture,
            task=description.task,
            labels=description.labels,
            input=description.input,
            files={},
            reference=reference,
        )
        self.bundle = EngineBundle(Path(), manifest)

    def open_ahead(self) -> None:
        """Do nothing: nothing is scored here."""

    def _open(self) -> Engine:
        raise EngineError(f"engine {self.description.name}: its scores were recorded elsewhere; it is not here to run.")
