"""The whole data flow of a run: discover -> read -> screen -> preprocess -> infer -> record -> report.

Start at `run_batch`: index everything, then process what waits, then write the tables. `watch` takes the same steps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from cxrbatch import __version__
from cxrbatch.config import Settings
from cxrbatch.output.folder.opening import open_output, output_errors_explained
from cxrbatch.output.folder.settle import Settling, order_orphans_removed, remove_as_ordered, settle_strays
from cxrbatch.output.ledger.ledger import ENGINE, LOCALE, TROUBLE, Ledger
from cxrbatch.output.ledger.restore import unprinted_results
from cxrbatch.output.run_json import RunReport, write_run_json
from cxrbatch.output.sheets.sheet import Sheets
from cxrbatch.output.tables import refresh_tables
from cxrbatch.records import EngineDescription
from cxrbatch.run.deidentified_output import settle_names
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.index import INDEX_RULES, Index, Judge, account_for, index_input
from cxrbatch.run.kept import check_kept, remember_kept, requeue_unkept
from cxrbatch.run.notify import Notifier, check_receiver, open_notifier, telling_of_failure
from cxrbatch.run.own_pages import pages_by
from cxrbatch.run.print import PRINTED, check_printing, print_again, print_overtaken
from cxrbatch.run.processes import is_new, open_workers
from cxrbatch.run.processor import LocalProcessor, MakeProcessor, MayGrow, Workplace
from cxrbatch.run.record import Indexed, Recorder, RunAccount, open_place, remove_half_written
from cxrbatch.run.requeued import telling_of_requeued
from cxrbatch.run.schedule import AT_ANY_TIME, Deadline, Hours, in_time
from cxrbatch.run.sheet import write_sheet
from cxrbatch.run.source import Order, Postponed, check_folders, claim_input
from cxrbatch.system.logbook import log_event, log_limits
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import to_json
from cxrbatch.system.workers import WorkerPool

SCORED = "studies scored"


@dataclass(frozen=True, slots=True)
class Means:
    """What does the work of a run: worker processes that got ready before, what makes its processor and its engine."""

    workers: WorkerPool | None = None
    make_processor: MakeProcessor = LocalProcessor
    slot: Callable[..., EngineSlot] = EngineSlot


def run_batch(
    root: Path,
    out: Path,
    settings: Settings,
    progress: RunProgress,
    *,
    hours: Hours = AT_ANY_TIME,
    means: Means | None = None,
) -> RunReport:
    """Index everything below `root`, then process every study that waits; leave all outputs in `out`.

    What an earlier run finished is not done again; what it left half done is. A run that is stopped
    (Ctrl-C, SIGTERM) still writes the tables of what it has.

    Args:
        root: the input folder, or a single file.
        out: the output folder.
        settings: what is asked for.
        progress: told how far the run is.
        hours: since when a file must have been modified for its study to be processed, and until when to work.
        means: what does the work, where it is not the usual.

    Raises:
        RunError: the run cannot start or go on; its subclasses tell why and carry the exit code.
    """
    with telling_of_failure(settings, out), open_run(root, out, settings, progress, means) as run:
        run.ledger.remember(TROUBLE, "")  # what ended the daemon before does not end this run
        run.index(reread_refused=settings.retry == "rejected")
        run.requeue()
        if settings.retry == "rejected":
            run.ledger.queue.requeue_unprinted()
        keys = run.ledger.queue.pending_keys(newest_first=settings.newest_first, since_ns=hours.since_ns)
        run.process(keys[: settings.limit or None], deadline=hours.deadline)
        run.print_overtaken()
        return run.write_tables(finished=True)


@contextmanager
def open_run(
    root: Path, out: Path, settings: Settings, progress: RunProgress, means: Means | None = None
) -> Iterator[Run]:
    """Hold an output folder, its worker processes and an engine; what stops the block leaves tables all the same.

    Raises:
        RunError: it cannot be, or the work inside cannot go on.
    """
    check_printing(settings)
    check_receiver(settings)
    source = check_folders(root, out, settings.state)
    with ExitStack() as stack:
        begins, means = is_new(out), means or Means()
        workers = means.workers or stack.enter_context(open_workers(settings, ahead_of=out))
        stack.enter_context(pages_by(settings, progress.say, workers))
        # Where the same engine was at work before, its file is read and hashed once: by what opens it, or in the end.
        engine = stack.enter_context(means.slot(settings, opens_soon=begins, verifies=begins))
        ledger = stack.enter_context(open_output(out, log_limits(settings), state=settings.state))
        claim_input(ledger, root, out)
        engine.stay_with(ledger.engine_sha256)
        stack.callback(workers.end)  # before anybody else may hold OUT
        order = Order(source, out, settings, settle_names(out, ledger, settings, workers))
        run = Run(order, ledger, engine, workers, progress, open_notifier(settings, ledger), means.make_processor)
        stack.callback(run.close_engine)
        description = engine.description
        check_kept(settings, description)
        run.remember_engine()
        log_event("run started", cxrbatch=__version__, engine=description.name, engine_sha256=description.sha256)
        try:
            run.notifier.begin()
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
    """Work on one output folder: its steps, in order, and the account of what they did."""

    order: Order
    ledger: Ledger
    slot: EngineSlot
    workers: WorkerPool
    progress: RunProgress
    notifier: Notifier
    make_processor: MakeProcessor
    account: RunAccount = field(default_factory=RunAccount)
    sheets: Sheets = field(default_factory=Sheets)

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.order.out

    @property
    def settings(self) -> Settings:
        """What is asked for."""
        return self.order.settings

    @property
    def engine(self) -> EngineDescription:
        """The engine that scores."""
        return self.slot.description

    def close_engine(self) -> None:
        """Release the engine that scores now: perhaps one that took the first one's place."""
        self.slot.close()

    def remember_engine(self) -> None:
        """Keep in the ledger which engine scores, for the tables have its columns, and in which language pages are."""
        self.ledger.remember(ENGINE, to_json(self.engine))
        self.ledger.remember(LOCALE, self.settings.locale)

    def index(
        self, *, judge: Judge | None = None, reread_refused: bool = False, postponed: Postponed | None = None
    ) -> Indexed:
        """Bring the ledger up to date with the input folder; arguments are those of `Index`."""
        # What is new will be scored: the engine opens while it is read.
        on_news = self.slot.open_ahead
        index = Index(self.order, reread_refused=reread_refused, postponed=postponed, on_news=on_news)
        if judge is not None:
            index = replace(index, judge=judge)
        started = time.monotonic()
        self.ledger.home.check()
        with self.account.clock.measure("index"):
            count = index_input(index, self.ledger, self.workers, self.progress)
            with output_errors_explained(self.out, self.ledger.home):
                self.ledger.home.check()
                self.ledger.home.marker.update(index_rules=self.ledger.fact(INDEX_RULES))
        self.account.indexed = indexed = Indexed(count, time.monotonic() - started)
        if count.is_news or judge is None:
            log_event("indexed", **asdict(count))
        return indexed

    def requeue(self, *, retry_failed: bool = True) -> None:
        """Queue again what failed, what another engine scored, and what lacks pictures or maps that are asked for."""
        queue, engine, draws = self.ledger.queue, self.engine.sha256, self.settings.pictures
        with telling_of_requeued(self.progress) as told:
            keeps = requeue_unkept(self.ledger, self.settings, engine, told)
            queue.requeue(engine_sha256=engine, retry_failed=retry_failed, draws=draws, told=told)
        remember_kept(self.ledger, keeps)

    def process(
        self, study_keys: Collection[str], *, deadline: Deadline | None = None, may_grow: MayGrow = lambda _: False
    ) -> None:
        """Give studies that wait to the processor, and record what becomes of each.

        Args:
            study_keys: which, in their order.
            deadline: no study is begun that would not be finished by then.
            may_grow: asked, with the files of a study that are cut short, whether it is to go on waiting.
        """
        if not study_keys:
            return
        for what in (SCORED, PRINTED):
            self.progress.begin(what, len(study_keys))
        place, on_scored = open_place(self.out, self.ledger), partial(self.progress.advance, SCORED)
        workplace = Workplace(self.order, place, self.slot, self.workers, self.account.clock, on_scored, may_grow)
        in_hours = in_time(study_keys, deadline, lambda: self.account.studies_done)
        tasks = self.ledger.queue.take(in_hours, with_priors=self.settings.priors)
        finished = self.make_processor(workplace).process(tasks)
        log_event("processing", studies_pending=len(study_keys))
        recorder = Recorder(self.out, self.ledger)
        for study in finished:
            self.account.count(recorder.record(study))
            self.notifier.urgent()
            self.progress.advance(PRINTED)
        log_event("processed", studies=self.account.studies_done)
        for what in (SCORED, PRINTED):
            self.progress.finish(what)

    def print_unprinted(self) -> None:
        """Print the reports that a killed run did not come to: from results and pictures, whatever is in INPUT now."""
        results = unprinted_results(self.ledger)
        if not results:
            return
        place, recorder = open_place(self.out, self.ledger), Recorder(self.out, self.ledger)
        self.progress.begin(PRINTED, len(results))
        for printed in print_again(results, self.ledger, place, self.settings, self.workers):
            self.account.count(recorder.record_reprinted(printed))
            self.progress.advance(PRINTED)
        self.progress.finish(PRINTED)

    def print_overtaken(self) -> None:
        """Print the reports again whose patients have other earlier studies by now than when they were printed."""
        patients = self.ledger.priors.due() if self.settings.priors else []
        if not patients:
            return
        place, recorder = open_place(self.out, self.ledger), Recorder(self.out, self.ledger)
        again = print_overtaken(self.ledger, place, self.settings, self.workers)
        printed_again = sum(not recorder.record_reprinted(printed).failure for printed in again)
        log_event("reports compared with priors", patients=len(patients), printed_again=printed_again)
        self.ledger.priors.settled(patients)

    def write_tables(self, *, finished: bool) -> RunReport:
        """Derive tables, worklist and run.json from the ledger, and return what run.json says."""
        self.ledger.home.check()
        if finished:
            self.slot.verify()
        with self.account.clock.measure("tables"), output_errors_explained(self.out, self.ledger.home):
            orphans = self._settle_strays() if finished else []
            refresh_tables(self.out, self.ledger, self.engine)
            order_orphans_removed(self.ledger, orphans)
            remove_as_ordered(self.out, self.ledger)
            self.account.compare(self.ledger, self.slot, self.settings.drift_limit)
        report = self._report(finished=finished)
        if finished and self.account.indexed is not None:
            account_for(self.ledger, self.account.indexed.count.total)
        with output_errors_explained(self.out, self.ledger.home):
            self.ledger.home.check()
            write_run_json(self.out, report)
        self.write_metrics(report)
        write_sheet(self.sheets, self.ledger, report, self.settings, self.workers, self.account.clock)
        self.notifier.settle(report)
        log_event("tables written", studies=report.studies_this_run, images_scored=report.images_scored_this_run)
        return report

    def _settle_strays(self) -> list[str]:
        """Take over finished reports that the ledger does not know; return the keys of those that are to go."""
        strays = settle_strays(Settling(self.out, self.ledger))
        if strays.adopted:
            self.account.note_total(sum(self.ledger.results.count_files().values()))
        return strays.orphans

    def write_metrics(self, report: RunReport | None = None, *, finished: bool = True) -> str:
        """Write metrics.prom, and return what it says; without a report, as the work stands now."""
        # Here, for its library takes 12 MB, and while the engine is opened a run takes more than ever.
        from cxrbatch.output.metrics_prom import write_metrics

        _, oldest_queued_at = self.ledger.queue.waiting()
        with output_errors_explained(self.out, self.ledger.home):
            self.ledger.home.check()
            report = report or self._report(finished=finished)
            return write_metrics(self.out, report, oldest_queued_at=oldest_queued_at, state=self.ledger.folder)

    def let_go(self) -> None:
        """Release what is in flight: it goes on waiting in the ledger, and leaves nothing half written behind."""
        self.workers.end()
        if self.ledger.home.place.is_same():
            remove_half_written(self.out)

    def write_what_there_is(self) -> None:
        """Write the tables of a run that was stopped; what stopped it matters more than a table that fails."""
        try:
            self.write_tables(finished=False)
        except Exception as error:  # noqa: BLE001  # the caller raises what stopped the run
            log_event("tables not written", level=logging.ERROR, error=type(error).__name__)

    def _report(self, *, finished: bool) -> RunReport:
        return self.account.report(self.ledger, self.settings, self.engine, finished=finished)
