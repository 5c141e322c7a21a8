"""Bringing shards together: what they finished goes through the same recorder as in a run. Start at `merge_shards`.

A study that was recorded does not wait any more, so whoever merges twice, or is killed and merges again, records
nothing twice. Reports lie where they belong already. Once every study is there, OUT is as a run would have left it.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import NoReturn

from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, OutputLocked, UsageError
from cxrbatch.output.folder.fence import raise_fence
from cxrbatch.output.folder.lock import locked
from cxrbatch.output.folder.opening import open_output, output_errors_explained
from cxrbatch.output.folder.settle import Settling
from cxrbatch.output.folder.sharded import shard_folder
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.report.intent import begin_printing, being_printed, end_printing
from cxrbatch.output.report.report_files import is_drawn, remove_earlier_reports, report_folder, tidy_report
from cxrbatch.output.run_json import RunReport
from cxrbatch.run.batch import Run
from cxrbatch.run.elsewhere import RecordedSlot
from cxrbatch.run.notify import check_receiver, open_notifier
from cxrbatch.run.own_pages import pages_by
from cxrbatch.run.processes import open_workers
from cxrbatch.run.record import Indexed, Recorder, RunAccount
from cxrbatch.run.shards.journal import Entry, count_done, read_journal
from cxrbatch.run.shards.plan import ShardEngine, ShardPlan, how_to_redo, read_engine, read_plan, remove_shards
from cxrbatch.run.source import Order
from cxrbatch.system.logbook import log_event, log_limits
from cxrbatch.system.progress import RunProgress

MERGED = "studies merged"


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge made of the shards: the report of the run, and how many studies each unfinished one still has."""

    report: RunReport
    left: dict[int, int]

    @property
    def exit_code(self) -> ExitCode:
        """3 where a shard is not finished, or something of it failed."""
        return ExitCode.SOME_STUDIES_FAILED if self.left else self.report.exit_code


def merge_shards(out: Path, here: Settings, progress: RunProgress, *, give_up: bool = False) -> Merged | None:
    """Record what the shards of an output folder finished, and write its tables; None where nothing is dealt out.

    Args:
        out: the output folder.
        here: where its ledger lies, how many workers print, whom to tell of urgent studies.
        progress: told how far it is.
        give_up: end the shards as they are: what they did not finish waits for a run, or for other shards.

    Raises:
        UsageError: shards were scored by different engines, or nobody has begun with any.
        OutputLocked: somebody holds OUT, or, where they are to end, a shard.
    """
    plan = read_plan(out)
    if plan is None:
        return None
    own = ("workers", "notify", "sheet_pdf", "log_max_mb", "log_backups")
    settings = replace(plan.settings, **{name: getattr(here, name) for name in own})
    settings = replace(settings, state=here.state or settings.state)
    check_receiver(settings)
    with ExitStack() as stack:
        workers = stack.enter_context(open_workers(settings))
        stack.enter_context(pages_by(settings, progress.say, workers))
        ledger = stack.enter_context(open_output(out, log_limits(settings), state=settings.state, sharded=True))
        stack.callback(workers.end)
        if give_up:
            stack.enter_context(_all_held(out, plan))
        agreed = _agreed(out, plan)
        slot = RecordedSlot(settings, agreed.engine, agreed.reference)
        account = RunAccount(started_at=plan.made_at, indexed=Indexed(plan.index, 0.0))
        order, notifier = Order(plan.source, out, settings), open_notifier(settings, ledger)
        run = Run(order, ledger, slot, workers, progress, notifier, _nobody, account)
        return _merge(run, plan, give_up=give_up)


def _nobody(_: object) -> NoReturn:
    raise AssertionError("a merge processes nothing")


def _merge(run: Run, plan: ShardPlan, *, give_up: bool) -> Merged:
    log_event("merge begun", shards=len(plan.counts))
    run.remember_engine()
    run.notifier.begin()
    try:
        # Before they are read: what is done meanwhile is for the next merge.
        left = {number: count for number, count in _left(run.out, plan) if count}
        run.print_unprinted()
        _record(run, plan)
        if give_up:
            _settle_unfinished(run.out, run.ledger, plan)
        run.print_overtaken()
        is_over = give_up or not left
        with ExitStack() as stack:
            if is_over and not give_up:
                stack.enter_context(_all_held(run.out, plan))
            report = run.write_tables(finished=is_over)
            if is_over:
                with output_errors_explained(run.out):
                    remove_shards(run.out)
    except BaseException as error:
        log_event("merge stopped", level=logging.ERROR, error=type(error).__name__)
        with suppress(OSError):
            run.let_go()
        run.write_what_there_is()
        raise
    log_event("merged", studies=run.account.studies_done, shards_left=len(left))
    return Merged(report, {} if give_up else left)


def _record(run: Run, plan: ShardPlan) -> None:
    recorder = Recorder(run.out, run.ledger)
    run.progress.begin(MERGED, sum(plan.counts))
    for entry in _entries(run.out, plan):
        run.progress.advance(MERGED)
        key = entry.study.study_key
        if run.ledger.store.value("SELECT status FROM studies WHERE study_key = ?", (key,)) != "pending":
            continue
        with output_errors_explained(run.out):
            _make_way(run.out, entry)
        run.account.count(recorder.record(entry.study))
        run.notifier.urgent()
    run.progress.finish(MERGED)


def _make_way(out: Path, entry: Entry) -> None:
    """Remove what a finished study has replaced, before it is recorded: who is killed in between begins with it again.

    A run notes beforehand on the disk that it will, and removes afterwards; here the journal is that note, and nobody
    waits for the disk twice. One whose worker died in printing is for the recorder to look at, which goes by the note.
    """
    printed, intent = entry.study.printed, entry.intent
    if printed is None or intent is None:
        return
    if not is_drawn(printed.result) or printed.failure:
        begin_printing(out, entry.study.study_key, intent)
        return
    tidy_report(out, printed)
    if not intent.keeps_earlier:
        remove_earlier_reports(report_folder(out, entry.study.study_key))


def _entries(out: Path, plan: ShardPlan) -> Iterator[Entry]:
    for number in range(len(plan.counts)):
        yield from read_journal(shard_folder(out, number))


def _left(out: Path, plan: ShardPlan) -> Iterator[tuple[int, int]]:
    for number, count in enumerate(plan.counts):
        yield number, count - count_done(shard_folder(out, number))


def _settle_unfinished(out: Path, ledger: Ledger, plan: ShardPlan) -> None:
    """Take over, or undo, what ended workers had in hand."""
    for number in range(len(plan.counts)):
        folder = shard_folder(out, number)
        for study_key, intent in being_printed(folder).items():
            with output_errors_explained(out):
                begin_printing(out, study_key, intent)
                Settling(out, ledger).settle_study(study_key)
                end_printing(folder, study_key)


@contextmanager
def _all_held(out: Path, plan: ShardPlan) -> Iterator[None]:
    """Hold every shard, and keep out who still writes for one.

    Raises:
        OutputLocked: somebody is at work on one.
    """
    # Each lock is an open file, and there may be more shards than a process usually has.
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, files + len(plan.counts))), most))
    with ExitStack() as stack:
        for number in range(len(plan.counts)):
            folder = shard_folder(out, number)
            with output_errors_explained(folder):
                try:
                    stack.enter_context(locked(folder))
                except OutputLocked as error:
                    raise OutputLocked(
                        f"shard {number}: somebody works on it still. Wait, then merge again."
                    ) from error
                raise_fence(folder)
        yield


def _agreed(out: Path, plan: ShardPlan) -> ShardEngine:
    """Return what scored the shards.

    Raises:
        UsageError: it is not the same for all, or nobody has begun.
    """
    found = {number: each for number in range(len(plan.counts)) if (each := read_engine(out, number)) is not None}
    if not found:
        raise UsageError(
            f"{out}: nobody has worked on any of its {len(plan.counts)} shards yet: "
            f"`cxrbatch work {quote(str(out))} --shard 0`."
        )
    first, engine = next(iter(found.items()))
    for number, other in found.items():
        if differences := other.differences(engine):
            raise UsageError(
                f"{out}: shard {number} was scored otherwise than shard {first}: {'; '.join(differences)}. Nothing was "
                f"merged. {how_to_redo(shard_folder(out, number))}"
            )
    return engine
