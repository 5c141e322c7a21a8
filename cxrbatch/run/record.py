"""What is kept of a finished study, in the ledger and in the account of the run. Start at `Recorder.record`.

Only the process that holds the output folder does this, wherever the study was processed.
"""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxrbatch import __version__
from cxrbatch.config import RUNS, Settings
from cxrbatch.engine.backends import version_of
from cxrbatch.errors import Reason, RunError, error_name
from cxrbatch.output.drift import DriftReport
from cxrbatch.output.find_drift import find_drift
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.folder.place import Place
from cxrbatch.output.folder.settle import Settling
from cxrbatch.output.ledger.attempts import failed_again
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.recent import read_recent, run_since
from cxrbatch.output.ledger.restore import known_study
from cxrbatch.output.report.intent import being_printed
from cxrbatch.output.report.report_files import REPORTS, is_drawn, report_folder, tidy_report
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import EngineDescription, PrintedStudy, StudyResult, now_text
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.index import IndexCount
from cxrbatch.run.notify import shown_settings
from cxrbatch.run.stages import FinishedStudy, StageClock
from cxrbatch.system.durable import make_folder, remove_temporaries
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


def open_place(out: Path, ledger: Ledger) -> Place:
    """Return where reports go, with a folder for them.

    Raises:
        OutputNotWritable: it cannot be made, or the output folder is no longer where it was.
    """
    with output_errors_explained(out):
        ledger.home.check()
        make_folder(out / REPORTS, within=out)
        ledger.home.add(out / REPORTS)
    return ledger.home.place


def remove_half_written(out: Path) -> None:
    """Remove what workers that were ended left half written."""
    for folder in (out, out / RUNS):
        remove_temporaries(folder, below=False)
    for study_key in being_printed(out):
        remove_temporaries(report_folder(out, study_key))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A study that the ledger has: done with, or, with a `failure`, tried again in the next run."""

    study_key: str
    images_scored: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records what became of studies in the ledger of one output folder."""

    out: Path
    ledger: Ledger

    def record(self, finished: FinishedStudy) -> Recorded:
        """Record a study; one that the ledger cannot hold is recorded as failed."""
        if finished.printed is None:
            return self._record_unscored(finished)
        result = finished.printed.result
        try:
            failure = self._record_scored(finished.printed, finished)
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  # one study
            return self._record_instead(result, error)
        return Recorded(result.study_key, len(result.images), failure)

    def record_reprinted(self, printed: PrintedStudy) -> Recorded:
        """Record a report that was printed from an earlier result; one that could not be waits on."""
        if not printed.failure:
            with output_errors_explained(self.out, self.ledger.home):
                self.ledger.results.record_printed(printed)
                tidy_report(self.out, printed)
        return Recorded(printed.result.study_key, failure=printed.failure)

    def _record_unscored(self, finished: FinishedStudy) -> Recorded:
        self.ledger.results.record_unscored(finished.study_key, finished.refused, failure=finished.unread)
        return Recorded(finished.study_key, failure=finished.unread)

    def _record_instead(self, result: StudyResult, error: Exception) -> Recorded:
        """Record that a study failed, and bring its report folder back to what the ledger says."""
        failed_before = self.ledger.queue.attempts(result.study_key)
        message = f"unexpected {error_name(error)} while recording; please report it"
        refused = tuple(
            failed_again(image.path, Reason.UNEXPECTED_ERROR, message, failed_before=failed_before.get(image.path, 0))
            for image in result.images
        )
        recorded = self._record_unscored(FinishedStudy(result.study_key, refused))
        with output_errors_explained(self.out, self.ledger.home):
            Settling(self.out, self.ledger).undo_study(result.study_key)
        return recorded

    def _record_scored(self, printed: PrintedStudy, finished: FinishedStudy) -> str:
        """Record a study that was scored, then remove what its report folder has of an earlier revision.

        Returns:
            Why the study is tried again; empty where it is done with.
        """
        # Of a result without pictures, nothing but the end of its worker can fail.
        if not is_drawn(printed.result) or (printed.failure and not printed.result.pictures):
            return self._record_undrawn(printed, finished)
        failure = self.ledger.results.record(printed, failure=finished.unread, unprinted=finished.unprinted)
        with output_errors_explained(self.out, self.ledger.home):
            tidy_report(self.out, printed)
        return failure

    def _record_undrawn(self, printed: PrintedStudy, finished: FinishedStudy) -> str:
        """Record a study whose worker died in printing; return the failure, '' where its report is whole all the same.

        An earlier report stands, in the tables, too. Without one the scores alone do.
        """
        self.ledger.home.check()
        study_key = finished.study_key
        with output_errors_explained(self.out, self.ledger.home):
            if Settling(self.out, self.ledger).settle_study(study_key):
                return self.ledger.results.failures().get(study_key, "")
        known = known_study(self.ledger, study_key)
        if known is not None and known.result is not None and is_drawn(known.result):
            failure = finished.unread or finished.unprinted
            self.ledger.results.record_unscored(study_key, finished.refused, failure=failure)
            return failure
        return self.ledger.results.record(printed, failure=finished.unread, unprinted=finished.unprinted)


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
    drift: DriftReport | None = None

    def count(self, study: Recorded) -> None:
        """Count a study that was recorded."""
        self.studies_done += 1
        self.images_scored += study.images_scored
        what = "study failed" if study.failure else "study done"
        log_event(what, study_key=study.study_key, images_scored=study.images_scored)

    def compare(self, ledger: Ledger, slot: EngineSlot, limit: float) -> None:
        """Compare what was scored, if anything was, with what the engine was validated on, and the 30 days before."""
        if not limit or not self.studies_done:
            return
        engine, since = slot.description, run_since(self.started_at)
        now, recent = read_recent(ledger.store, engine.sha256, since)
        before = set(self.drift.alarms) if self.drift else set()
        self.drift = find_drift(engine, slot.bundle.manifest.reference, now, recent, limit=limit, since=since)
        for line in self.drift.alarms:
            if not any((line.what, line.label, line.against) == (a.what, a.label, a.against) for a in before):
                facts = {"what": line.what, "label": line.label, "against": line.against}
                log_event("drift", level=logging.WARNING, psi=line.psi, studies=line.studies, **facts)

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
            settings=shown_settings(settings),
            engine=engine,
            files=ledger.results.count_files(),
            files_deferred=met.deferred,
            folders_unlistable=met.unlistable,
            folders_hidden=met.hidden,
            studies=ledger.results.count_studies(),
            reasons=ledger.results.count_reasons(),
            failures=ledger.results.failures(),
            studies_this_run=self.studies_done,
            images_scored_this_run=self.images_scored,
            wall_s=round(time.monotonic() - self.started, 3),
            stage_s={stage: round(seconds, 3) for stage, seconds in self.clock.seconds.items()},
            images_out_of_distribution=(
                ledger.results.count_unlike_training(engine.sha256) if "distance" in engine.extra_outputs else None
            ),
            drift=self.drift,
            libraries={"python": platform.python_version()} | {name: version_of(name) for name in REPORTED_LIBRARIES},
        )
