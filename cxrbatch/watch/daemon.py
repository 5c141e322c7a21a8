"""The daemon: which studies are all there, then the same steps as a run, again and again until it is told to stop.

It does what `run` does, and leaves what `run` leaves; only a study that may still be arriving waits. The look at
the folder is the truth, events only make it come earlier. An input folder that cannot be listed now is looked at
again later; an engine or an output folder that fails ends the daemon with their exit codes, for whoever keeps it
running (systemd, a container) to start it afresh: the ledger is the queue, so nothing is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import EngineError, RunError, UsageError
from cxrbatch.output.ledger.ledger import TROUBLE
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import IndexedFile
from cxrbatch.run.batch import Run, open_run
from cxrbatch.run.headers import Deferred
from cxrbatch.run.schedule import Retries
from cxrbatch.run.source import Postponed
from cxrbatch.system.logbook import log_event
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.stopping import Stopped
from cxrbatch.watch.arrivals import Arrivals, is_marked
from cxrbatch.watch.file_events import Waker
from cxrbatch.watch.health import ProvenEngine, Vitals, open_vitals
from cxrbatch.watch.sender import Sender
from cxrbatch.watch.tables import Tables

# So many studies are processed before the folder is looked at again: new ones are not to wait for a backlog.
STUDIES_PER_PASS = 64
_METRICS_EVERY_S = 10.0
# The folder is looked at for at most a third of the time, however many events there are.
_LEAST_PAUSE_S = 0.2

LoadSettings = Callable[[], Settings]


@dataclass(slots=True)
class Requests:
    """What signals ask of a daemon."""

    reload: bool = False


def watch_folder(
    root: Path,
    out: Path,
    load_settings: LoadSettings,
    progress: RunProgress,
    *,
    once: bool = False,
    requests: Requests | None = None,
) -> RunReport:
    """Index `root` again and again, and process every study that is all there, until a signal asks to stop.

    Args:
        root: the input folder.
        out: the output folder.
        load_settings: read again when a reload is asked for; what fails then is logged, and changes nothing.
        progress: told of the work of a pass, and in sentences what a person at the terminal wants to know.
        once: end after one look at the folder and, where something is still settling, a second one.
        requests: what signals ask for.

    Returns:
        What run.json says in the end.

    Raises:
        RunError: the daemon cannot go on.
    """
    requests = requests or Requests()
    settings, refused = load_settings(), ""
    former: Settings | None = None
    arrivals = Arrivals(settings.settle_s, settings.max_wait_s)
    while True:
        arrivals.settle_s, arrivals.max_wait_s = settings.settle_s, settings.max_wait_s
        try:
            with ExitStack() as stack:
                vitals = open_vitals(stack, settings.metrics_port)
                run = stack.enter_context(open_run(root, out, settings, progress))
                run.sheets.kind = "watch"
                stack.enter_context(Sender(out, settings, once=once))
                former = None  # these settings work; what fails from here on is no fault of theirs
                if refused:
                    log_event("settings not reloaded", level=logging.ERROR, error=refused)
                waker = stack.enter_context(Waker(root, out))
                report = _Daemon(run, arrivals, waker, requests, vitals, is_once=once).work(once=once)
            if report is not None:
                return report
            former = settings
            settings, refused = load_settings(), ""
        except RunError as error:
            if former is None:
                raise
            settings, refused, former = former, str(error), None


@dataclass(slots=True)
class _Daemon:
    """One opened output folder, worked on in passes."""

    run: Run
    arrivals: Arrivals
    waker: Waker
    requests: Requests
    vitals: Vitals
    is_once: bool = False
    has_passed: bool = False
    trouble: str = ""
    published_at: float = 0.0
    postponed: Postponed = field(init=False)
    engine: ProvenEngine = field(init=False)
    tables: Tables = field(init=False)
    retries: Retries = field(init=False)

    def __post_init__(self) -> None:
        self.arrivals.go_on(self.run.ledger.arrivals)
        self.retries = Retries(self.run.ledger, self.run.settings.retry_s)
        self.postponed = Postponed(self.run.settings.retry_s)
        self.engine, self.tables = ProvenEngine(self.run), Tables(self.run)
        self.run.workers.while_waiting = self._pulse

    def work(self, *, once: bool) -> RunReport | None:
        """Pass once, or until a signal asks to stop or to reload; an engine that fails is remembered for `status`."""
        try:
            return self.pass_once() if once else self.pass_until_asked()
        except EngineError as error:
            with suppress(RunError):  # what the engine says matters more than a ledger that cannot be written
                self._remember_trouble(str(error))
            raise

    def pass_until_asked(self) -> RunReport | None:
        """Pass until a signal asks to stop, and return the last report; None where a reload is asked for."""
        try:
            self.run.workers.start()
            self._prove()
            self.vitals.proved()
            self.vitals.service.tell_ready("at work")
            while not self.requests.reload:
                backlog = self._pass()
                self.tables.write(idle=not backlog)
                self._publish()
                if not backlog:
                    self._sleep()
        except Stopped as stopped:
            log_event("daemon asked to stop", signal=stopped.signal_number)
            self.vitals.service.tell_stopping()
            self.run.let_go()
            # Perhaps in the middle of a look at the folder: what that met cannot be accounted for.
            return self.run.write_tables(finished=False)
        self.requests.reload = False
        self.vitals.service.tell_reloading()
        log_event("reloading the settings")
        return None

    def pass_once(self) -> RunReport:
        """Look at the folder, wait until what is there has settled, look again, and process what is all there."""
        self._pass(limit=0)
        if self.arrivals.next_due_s() is not None:
            self.say(f"waiting {self.arrivals.settle_s:g} s for files to settle")
            end = time.monotonic() + self.arrivals.settle_s
            while (left := end - time.monotonic()) > 0:
                self._pulse()
                self.waker.sleep(min(left, 1.0))
        while self._pass():
            pass
        return self.run.write_tables(finished=True)

    def _pass(self, *, limit: int = STUDIES_PER_PASS) -> int:
        """Look at the folder once, and process up to `limit` of the studies that are all there.

        Returns:
            How many more of them wait.
        """
        run = self.run
        if run.settings.reload_engine:
            self.engine.reload()
            if self.engine.trouble:
                self._remember_trouble()
        try:
            indexed = run.index(judge=self._judge, postponed=self.postponed)
        except UsageError as error:
            if self.is_once:
                raise
            self._note_trouble(str(error))
            return 0
        self._note_trouble("")
        self._requeue()
        waiting = self._waiting_files()
        self.arrivals.keep({path for paths in waiting.values() for path in paths})
        ready = [key for key in self._in_order(waiting) if self._is_complete(waiting[key])]
        self.arrivals.save()
        chosen = ready[:limit]
        if chosen:
            self._process(chosen)
            self.arrivals.forget(path for key in chosen for path in waiting[key])
            self.arrivals.save()
        self.tables.are_old |= bool(chosen) or indexed.count.is_news
        return len(ready) - len(chosen)

    def _requeue(self) -> None:
        """Queue again what failed long enough ago and, at first, what another engine scored."""
        is_due = self.retries.is_due()
        if is_due or not self.has_passed:
            self.run.requeue(retry_failed=is_due)
        if is_due:
            self.retries.note()
        self.has_passed = True

    def _judge(self, entry: IndexedFile | Deferred) -> IndexedFile | Deferred:
        self._pulse()
        return self.arrivals.judge(entry)

    def _pulse(self) -> None:
        self.vitals.pulse(self._prove)

    def _prove(self) -> None:
        """Show that the engine works."""
        self.engine.prove()

    def _process(self, chosen: list[str]) -> None:
        run = self.run
        done_before, started = run.account.studies_done, time.monotonic()
        run.process(chosen, may_grow=self._may_grow)
        if done := run.account.studies_done - done_before:
            waiting = run.ledger.results.count_studies().get("pending", 0)
            self.say(f"{done} studies in {time.monotonic() - started:.1f} s; {waiting} waiting")

    def _waiting_files(self) -> dict[str, list[str]]:
        rows = self.run.ledger.queue.waiting_files()
        return {key: [path for _, path in group] for key, group in groupby(rows, key=lambda row: row[0])}

    def _in_order(self, waiting: dict[str, list[str]]) -> Iterator[str]:
        keys = self.run.ledger.queue.pending_keys(newest_first=self.run.settings.newest_first)
        return (key for key in keys if key in waiting)

    def _is_complete(self, paths: list[str]) -> bool:
        return self.arrivals.are_complete(paths) or is_marked(self.run.order.source.folder, paths)

    def _may_grow(self, cut_short: list[str]) -> bool:
        """Hold a study back where files turned out to end before their pixels do, unless it waited long enough."""
        return not is_marked(self.run.order.source.folder, cut_short) and self.arrivals.hold_cut_short(cut_short)

    def _publish(self) -> None:
        now = time.monotonic()
        if now - self.published_at < _METRICS_EVERY_S and self.published_at:
            return
        waiting, _ = self.run.ledger.queue.waiting()
        metrics = self.run.write_metrics(finished=not self.trouble)
        self.vitals.publish(metrics, healthy=not self.trouble, waiting=waiting)
        self.published_at = now

    def say(self, sentence: str) -> None:
        """Tell a person at the terminal, or the journal."""
        self.run.progress.say(sentence)

    def _note_trouble(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log_event("the input cannot be looked at now", level=logging.ERROR)
            self.say(trouble)
        self.trouble = trouble
        self._remember_trouble()

    def _remember_trouble(self, ended_by: str = "") -> None:
        """Let `status` tell what keeps the daemon from its work, or what ended it."""
        self.run.ledger.remember(TROUBLE, ended_by or self.trouble or self.engine.trouble)

    def _sleep(self) -> None:
        """Sleep until something may have changed, or settled, or failed long enough ago."""
        indexed = self.run.account.indexed
        indexing_s = indexed.took_s if indexed else 0.0
        self._wait(max(_LEAST_PAUSE_S, 2 * indexing_s), wakes=False)
        due_s = self.arrivals.next_due_s()
        interval_s = self.run.settings.interval_s
        pauses = [interval_s, *([] if due_s is None else [due_s])]
        if self.tables.are_old:
            pauses.append(self.tables.due(idle=True) - time.monotonic())
        self._wait(min(pauses))

    def _wait(self, seconds: float, *, wakes: bool = True) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.requests.reload:
            self._pulse()
            happened = self.waker.sleep(min(left, 1.0))
            if happened and wakes:
                return
            if happened:
                self.waker.wake()
                time.sleep(min(left, _LEAST_PAUSE_S))
