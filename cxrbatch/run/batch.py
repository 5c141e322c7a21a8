"""The whole data flow of a run: discover -> read -> screen -> preprocess -> infer -> record -> report."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from cxrbatch import __version__
from cxrbatch.config import Settings
from cxrbatch.errors import Reason, RunError, error_name
from cxrbatch.output.folder.marker import update_marker
from cxrbatch.output.folder.opening import open_output, output_errors_explained
from cxrbatch.output.folder.place import Place
from cxrbatch.output.folder.settle import Settling, order_orphans_removed, remove_as_ordered, settle_strays
from cxrbatch.output.ledger.attempts import failed_again
from cxrbatch.output.ledger.ledger import ENGINE, Ledger
from cxrbatch.output.ledger.settle import known_study, unprinted_results
from cxrbatch.output.ledger.waiting import TROUBLE
from cxrbatch.output.metrics_prom import write_metrics
from cxrbatch.output.report.intent import being_printed
from cxrbatch.output.report.pictures import is_drawn
from cxrbatch.output.report.report import REPORTS, report_folder, tidy_report
from cxrbatch.output.run_json import RunReport, write_run_json
from cxrbatch.output.tables import derive_tables
from cxrbatch.records import EngineDescription, PrintedStudy, RefusedImage, now_text
from cxrbatch.run.deadline import Deadline
from cxrbatch.run.deidentification import Pseudonyms
from cxrbatch.run.deidentified_output import settle_names
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.folders import Source, check_folders, claim_input
from cxrbatch.run.index import INDEX_RULES, Index, IndexCount, Judge, Postponed, account_for, index_input
from cxrbatch.run.print import PRINTED, open_workers, print_again, print_reports
from cxrbatch.run.read import Reading, decode_studies
from cxrbatch.run.score import Scorer, score_studies
from cxrbatch.run.stages import DecodedStudy, ScoredStudy, StageClock
from cxrbatch.system import durable
from cxrbatch.system.logbook import log_event, log_limits
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import to_json
from cxrbatch.system.workers import WorkerPool

IsWhole = Callable[[DecodedStudy], bool]

SCORED = "studies scored"
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


def _is_whole(_: DecodedStudy) -> bool:
    return True


def run_batch(
    root: Path,
    out: Path,
    settings: Settings,
    progress: RunProgress,
    *,
    since_ns: int = 0,
    deadline: Deadline | None = None,
) -> RunReport:
    """Index everything below `root`, then process every study that waits; leave all outputs in `out`.

    What an earlier run finished is not done again; what it left half done is. A run that is stopped
    (Ctrl-C, SIGTERM) still writes the tables of what it has.

    Args:
        root: the input folder, or a single file.
        out: the output folder.
        settings: what is asked for.
        progress: told how far the run is.
        since_ns: process only studies with a file modified since, in nanoseconds since 1970.
        deadline: no study is begun that would not be finished by then.

    Raises:
        RunError: the run cannot start or go on; its subclasses tell why and carry the exit code.
    """
    with open_run(root, out, settings, progress) as run:
        run.ledger.remember(TROUBLE, "")  # what ended the daemon before does not end this run
        run.index(reread_refused=settings.retry == "rejected")
        run.requeue()
        if settings.retry == "rejected":
            run.ledger.requeue_unprinted()
        keys = run.ledger.pending_keys(newest_first=settings.newest_first, since_ns=since_ns)
        run.process(keys[: settings.limit or None], deadline=deadline)
        return run.write_tables(finished=True)


@contextmanager
def open_run(root: Path, out: Path, settings: Settings, progress: RunProgress) -> Iterator[Run]:
    """Hold an output folder, its worker processes and an engine; what stops the block leaves tables all the same.

    Raises:
        RunError: it cannot be, or the work inside cannot go on.
    """
    source = check_folders(root, out, settings.state)
    with ExitStack() as stack:
        engine = stack.enter_context(EngineSlot(settings))
        ledger = stack.enter_context(open_output(out, log_limits(settings), state=settings.state))
        claim_input(ledger, root, out)
        workers = stack.enter_context(open_workers(settings))
        pseudonyms = settle_names(out, ledger, settings, workers)
        run = Run(source, out, settings, engine, ledger, workers, progress, pseudonyms)
        # An engine that took this one's place is closed, too.
        stack.callback(run.close_engine)
        run.remember_engine()
        description = engine.description
        log_event("run started", cxrbatch=__version__, engine=description.name, engine_sha256=description.sha256)
        try:
            run.print_unprinted()
            yield run
        except BaseException as error:
            log_event("run stopped", level=logging.ERROR, error=type(error).__name__)
            with suppress(OSError):
                run.let_go()
            run.write_what_there_is()
            raise


@dataclass(slots=True)
class Run:
    """Work on one output folder: its steps, in order, and what they count."""

    source: Source
    out: Path
    settings: Settings
    slot: EngineSlot
    ledger: Ledger
    workers: WorkerPool
    progress: RunProgress
    pseudonyms: Pseudonyms | None = None
    clock: StageClock = field(default_factory=StageClock)
    started_at: str = field(default_factory=now_text)
    started: float = field(default_factory=time.monotonic)
    indexed: IndexCount = field(default_factory=IndexCount)
    last_index_s: float = 0.0
    has_indexed: bool = False
    studies_done: int = 0
    images_scored: int = 0

    @property
    def root(self) -> Path:
        """The folder that the paths of files begin at."""
        return self.source.folder

    @property
    def engine(self) -> EngineDescription:
        """The engine that scores."""
        return self.slot.description

    def close_engine(self) -> None:
        """Release the engine that scores now."""
        self.slot.close()

    def remember_engine(self) -> None:
        """Keep in the ledger which engine scores: the tables have its columns."""
        self.ledger.remember(ENGINE, to_json(self.engine))

    def index(
        self, *, judge: Judge | None = None, reread_refused: bool = False, postponed: Postponed | None = None
    ) -> None:
        """Bring the ledger up to date with the input folder; arguments are those of `Index`."""
        index = Index(
            self.root,
            self.out,
            self.settings,
            reread_refused=reread_refused,
            pseudonyms=self.pseudonyms,
            postponed=postponed,
            only=self.source.only,
        )
        if judge is not None:
            index = replace(index, judge=judge)
        started = time.monotonic()
        self.ledger.home.check()
        with self.clock.measure("index"):
            self.indexed = index_input(index, self.ledger, self.workers, self.progress)
            with output_errors_explained(self.out):
                self.ledger.home.check()
                update_marker(self.out, index_rules=self.ledger.fact(INDEX_RULES))
        self.last_index_s, self.has_indexed = time.monotonic() - started, True
        if self.indexed.is_news or judge is None:
            log_event("indexed", **asdict(self.indexed))

    def requeue(self, *, retry_failed: bool = True) -> None:
        """Queue again what failed, and what another engine scored."""
        self.ledger.requeue(engine_sha256=self.engine.sha256, retry_failed=retry_failed)

    def process(
        self, study_keys: Collection[str], *, deadline: Deadline | None = None, is_whole: IsWhole = _is_whole
    ) -> None:
        """Take studies that wait through decode, score, print and record; the order of things is here.

        Args:
            study_keys: which, in their order.
            deadline: no study is begun that would not be finished by then.
            is_whole: asked, of every study that was read, whether to go on with it; otherwise it goes on waiting.
        """
        if not study_keys:
            return
        settings, workers, clock = self.settings, self.workers, self.clock
        for what in (SCORED, PRINTED):
            self.progress.begin(what, len(study_keys))
        engine = self.slot.open()
        log_event("processing", studies_pending=len(study_keys))
        tasks = self.ledger.take(_in_time(study_keys, deadline, lambda: self.studies_done))
        reading = Reading(self.root, self.slot.bundle.input, settings, self.pseudonyms)
        decoded = decode_studies(tasks, reading, workers, clock)
        scored = score_studies(filter(is_whole, decoded), Scorer(engine, self.slot.open_exact), settings, clock)
        printable = self._record_unscored(scored)
        for printed, print_failure in print_reports(printable, self._open_place(), settings, workers, clock):
            self._record(printed, print_failure)
        log_event("processed", studies=self.studies_done)
        for what in (SCORED, PRINTED):
            self.progress.finish(what)

    def print_unprinted(self) -> None:
        """Print the reports that a killed run did not come to: from results and pictures, whatever is in INPUT now."""
        results = unprinted_results(self.ledger)
        if not results:
            return
        place, settings = self._open_place(), self.settings
        self.progress.begin(PRINTED, len(results))
        for printed, failure in print_again(results, place, settings, self.workers):
            if not failure:
                with output_errors_explained(self.out):
                    self.ledger.record_printed(printed)
                    tidy_report(self.out, printed)
            self._count(printed.result.study_key, n_scored=0, failure=failure)
        self.progress.finish(PRINTED)

    def _open_place(self) -> Place:
        """Return where things lie, with a folder for reports among them."""
        with output_errors_explained(self.out):
            self.ledger.home.check()
            durable.make_folder(self.out / REPORTS, within=self.out)
            self.ledger.home.add(self.out / REPORTS)
        return self.ledger.home.place

    def _record(self, printed: PrintedStudy, print_failure: str) -> None:
        """Record a scored study; one that the ledger cannot hold is recorded as failed."""
        result = printed.result
        n_scored = len(result.images)
        try:
            failure = self._record_printed(printed, print_failure)
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  # one study
            refused = [
                failed_again(
                    image.path,
                    Reason.UNEXPECTED_ERROR,
                    f"unexpected {error_name(error)} while recording; please report it",
                    failed_before=self.ledger.attempts(result.study_key).get(image.path, 0),
                )
                for image in result.images
            ]
            failure, n_scored = _unreadable(tuple(refused)), 0
            self.ledger.record_unscored(result.study_key, refused, failure=failure)
            with output_errors_explained(self.out):
                Settling(self.out, self.ledger).undo_study(result.study_key)
        self._count(result.study_key, n_scored=n_scored, failure=failure)

    def _record_printed(self, printed: PrintedStudy, print_failure: str) -> str:
        """Record a study that was scored, then remove what its report folder has of an earlier revision.

        Returns:
            Why the study is tried again; empty where it is done with.
        """
        failure = _unreadable(printed.result.refused)
        if not is_drawn(printed.result):
            return self._record_undrawn(printed, failure, print_failure)
        failure = self.ledger.record_study(printed, failure=failure, unprinted=print_failure)
        with output_errors_explained(self.out):
            tidy_report(self.out, printed)
        return failure

    def _record_undrawn(self, printed: PrintedStudy, failure: str, unprinted: str) -> str:
        """Record a study whose worker died in printing; return the failure, '' where its report is whole all the same.

        An earlier report stands, in the tables, too. Without one the scores alone do.
        """
        self.ledger.home.check()
        result, settling = printed.result, Settling(self.out, self.ledger)
        with output_errors_explained(self.out):
            if settling.settle_study(result.study_key):
                return self.ledger.failures().get(result.study_key, "")
        known = known_study(self.ledger, result.study_key)
        if known is not None and known.result is not None and is_drawn(known.result):
            failure = failure or unprinted
            self.ledger.record_unscored(result.study_key, result.refused, failure=failure)
            return failure
        return self.ledger.record_study(printed, failure=failure, unprinted=unprinted)

    def _record_unscored(self, studies: Iterable[ScoredStudy]) -> Iterator[ScoredStudy]:
        """Record the studies that got no score, and pass on the others."""
        for study in studies:
            self.progress.advance(SCORED)
            if study.result is not None:
                yield study
                continue
            failure = _unreadable(study.refused)
            self.ledger.record_unscored(study.task.study_key, study.refused, failure=failure)
            self._count(study.task.study_key, n_scored=0, failure=failure)

    def _count(self, study_key: str, *, n_scored: int, failure: str) -> None:
        self.studies_done += 1
        self.images_scored += n_scored
        self.progress.advance(PRINTED)
        log_event("study failed" if failure else "study done", study_key=study_key, images_scored=n_scored)

    def write_tables(self, *, finished: bool) -> RunReport:
        """Derive the tables, the worklist and run.json from the ledger, and return what run.json says."""
        self.ledger.home.check()
        with self.clock.measure("tables"), output_errors_explained(self.out):
            orphans = self._settle_strays() if finished else []
            derive_tables(self.out, self.ledger, self.engine)
            order_orphans_removed(self.ledger, orphans)
            remove_as_ordered(self.out, self.ledger)
        report = self._report(finished=finished)
        if finished and self.has_indexed:
            account_for(self.ledger, self.indexed.total)
        with output_errors_explained(self.out):
            self.ledger.home.check()
            write_run_json(self.out, report)
        self.write_metrics(report)
        log_event("tables written", studies=self.studies_done, images_scored=self.images_scored)
        return report

    def _settle_strays(self) -> list[str]:
        """Take over finished reports that the ledger does not know; return the keys of those that are to go."""
        strays = settle_strays(Settling(self.out, self.ledger))
        if strays.adopted:
            self.indexed = replace(self.indexed, total=sum(self.ledger.count_files().values()))
        return strays.orphans

    def write_metrics(self, report: RunReport | None = None, *, finished: bool = True) -> str:
        """Write metrics.prom, and return what it says; without a report, as the work stands now."""
        _, oldest_queued_at = self.ledger.queue()
        with output_errors_explained(self.out):
            self.ledger.home.check()
            report = report or self._report(finished=finished)
            return write_metrics(self.out, report, oldest_queued_at=oldest_queued_at)

    def let_go(self) -> None:
        """Release what is in flight: it goes on waiting in the ledger, and leaves nothing half written behind."""
        self.workers.end()
        if self.ledger.home.place.is_same():
            for folder in (self.out, *(report_folder(self.out, key) for key in being_printed(self.out))):
                durable.remove_temporaries(folder, below=False)

    def write_what_there_is(self) -> None:
        """Write the tables of a run that was stopped; what stopped it matters more than a table that fails."""
        try:
            self.write_tables(finished=False)
        except Exception as error:  # noqa: BLE001  # the caller raises what stopped the run
            log_event("tables not written", level=logging.ERROR, error=type(error).__name__)

    def _report(self, *, finished: bool) -> RunReport:
        return RunReport(
            cxrbatch_version=__version__,
            started_at=self.started_at,
            finished_at=now_text(),
            finished=finished,
            settings=self.settings,
            engine=self.engine,
            files=self.ledger.count_files(),
            files_deferred=self.indexed.deferred,
            folders_unlistable=self.indexed.unlistable,
            folders_hidden=self.indexed.hidden,
            studies=self.ledger.count_studies(),
            reasons=self.ledger.count_reasons(),
            failures=self.ledger.failures(),
            studies_this_run=self.studies_done,
            images_scored_this_run=self.images_scored,
            wall_s=round(time.monotonic() - self.started, 3),
            stage_s={stage: round(seconds, 3) for stage, seconds in self.clock.seconds.items()},
            libraries={"python": platform.python_version()} | {name: version(name) for name in REPORTED_LIBRARIES},
        )


def paths_cut_short(study: DecodedStudy) -> list[str]:
    """Return the files of a study that end before their pixels do."""
    return [image.path for image in study.refused if image.reason == Reason.TRUNCATED_PIXELS.value]


def _in_time(study_keys: Iterable[str], deadline: Deadline | None, done: Callable[[], int]) -> Iterator[str]:
    """Yield keys as long as what was begun, and one more, would be finished by the deadline at the rate so far."""
    if deadline is None:
        yield from study_keys
        return
    started, done_before = time.monotonic(), done()
    for begun, study_key in enumerate(study_keys):
        finished = done() - done_before
        seconds_each = (time.monotonic() - started) / finished if finished else 0.0
        if not deadline.leaves_time((begun - finished + 1) * seconds_each):
            log_event("deadline reached", studies_begun=begun)
            return
        yield study_key


def _unreadable(refused: tuple[RefusedImage, ...]) -> str:
    messages = sorted({image.message for image in refused if image.status == "failed"})
    return "; ".join(messages)
