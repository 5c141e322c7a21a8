"""What a run has done so far, and the report that run.json is made of."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from cxrbatch import __version__
from cxrbatch.config import Settings
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import EngineDescription, now_text
from cxrbatch.run.index import IndexCount
from cxrbatch.run.record import Recorded
from cxrbatch.run.stages import StageClock
from cxrbatch.system.logbook import log_event

REPORTED_LIBRARIES = (
    "numpy",
    "pydicom",
    "onnxruntime",
    "imagecodecs",
    "simplejpeg",
    "pillow",
    "opencv-python-headless",
    "weasyprint",
)


@dataclass(frozen=True, slots=True)
class Indexed:
    """An index that was brought up to date: what its walk met, and how long that took."""

    count: IndexCount
    took_s: float


@dataclass(slots=True)
class RunAccount:
    """What was done since the run began; `indexed`: the last index that was finished."""

    clock: StageClock = field(default_factory=StageClock)
    started_at: str = field(default_factory=now_text)
    started: float = field(default_factory=time.monotonic)
    indexed: Indexed | None = None
    studies_done: int = 0
    images_scored: int = 0

    def count(self, study: Recorded) -> None:
        """Count a study that was recorded."""
        self.studies_done += 1
        self.images_scored += study.images_scored
        what = "study failed" if study.failure else "study done"
        log_event(what, study_key=study.study_key, images_scored=study.images_scored)

    def note_total(self, total: int) -> None:
        """Note that the ledger knows of so many files since the index, for it took over studies from the disk."""
        if self.indexed is not None:
            self.indexed = replace(self.indexed, count=replace(self.indexed.count, total=total))

    def report(self, ledger: Ledger, settings: Settings, engine: EngineDescription, *, finished: bool) -> RunReport:
        """Return what run.json is to say now."""
        met = self.indexed.count if self.indexed else IndexCount()
        return RunReport(
            cxrbatch_version=__version__,
            started_at=self.started_at,
            finished_at=now_text(),
            finished=finished,
            settings=settings,
            engine=engine,
            files=ledger.count_files(),
            files_deferred=met.deferred,
            folders_unlistable=met.unlistable,
            folders_hidden=met.hidden,
            studies=ledger.count_studies(),
            reasons=ledger.count_reasons(),
            failures=ledger.failures(),
            studies_this_run=self.studies_done,
            images_scored_this_run=self.images_scored,
            wall_s=round(time.monotonic() - self.started, 3),
            stage_s={stage: round(seconds, 3) for stage, seconds in self.clock.seconds.items()},
            libraries={"python": platform.python_version()} | {name: version(name) for name in REPORTED_LIBRARIES},
        )
