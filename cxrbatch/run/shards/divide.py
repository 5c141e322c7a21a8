"""Dealing out the studies of an output folder: indexed once, then a list of tasks for each shard. See `shard_input`."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import RunError
from cxrbatch.output.folder.opening import open_output, output_errors_explained
from cxrbatch.output.folder.sharded import SHARDS
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import now_text
from cxrbatch.run.deidentified_output import settle_names
from cxrbatch.run.index import INDEX_RULES, Index, IndexCount, index_input
from cxrbatch.run.kept import remember_kept, requeue_unkept
from cxrbatch.run.print import check_printing
from cxrbatch.run.processes import open_workers
from cxrbatch.run.record import open_place
from cxrbatch.run.shards.plan import ShardPlan, write_plan, write_tasks
from cxrbatch.run.source import Order, check_folders, claim_input
from cxrbatch.run.witness import names_in
from cxrbatch.system.logbook import log_event, log_limits
from cxrbatch.system.progress import RunProgress

DEALT = "studies dealt out"


def shard_input(root: Path, out: Path, settings: Settings, of: int, progress: RunProgress) -> ShardPlan | None:
    """Index everything below `root`, and deal out the studies that wait; return None where none does.

    Study keys are hashes, so that dealing them out one after the other, in their order, mixes patients, days and
    devices, and no shard has more than one study more than another. Until all is merged nobody else may work in OUT.

    Args:
        root: the input folder, or a single file, by a path that every machine has.
        out: the output folder, likewise.
        settings: what is asked for; whoever works on a shard says only which engine, and how it runs.
        of: how many shards.
        progress: told how far it is.

    Raises:
        RunError: it cannot be; its subclasses tell why and carry the exit code.
    """
    check_printing(settings)
    source = check_folders(root, out, settings.state)
    with ExitStack() as stack:
        workers = stack.enter_context(open_workers(settings, prints=False))
        ledger = stack.enter_context(open_output(out, log_limits(settings), state=settings.state))
        stack.callback(workers.end)
        claim_input(ledger, root, out)
        order = Order(source, out, settings, settle_names(out, ledger, settings, workers))
        count = index_input(Index(order, reread_refused=settings.retry == "rejected"), ledger, workers, progress)
        with output_errors_explained(out):
            ledger.home.marker.update(index_rules=ledger.fact(INDEX_RULES))
            _requeue(ledger, settings)
            return _deal_out(ledger, order, count, of, progress)


def _requeue(ledger: Ledger, settings: Settings) -> None:
    """Queue again what the next run with the same engine would: which one it will be is not known here."""
    engine_sha256 = ledger.engine_sha256
    keeps = requeue_unkept(ledger, settings, engine_sha256)
    ledger.queue.requeue(engine_sha256=engine_sha256, draws=settings.pictures)
    remember_kept(ledger, keeps)
    if settings.retry == "rejected":
        ledger.queue.requeue_unprinted()


def _deal_out(ledger: Ledger, order: Order, count: IndexCount, of: int, progress: RunProgress) -> ShardPlan | None:
    out, settings = order.out, order.settings
    keys = ledger.queue.pending_keys(newest_first=settings.newest_first)
    hands = [keys[number::of] for number in range(of)]
    with suppress(FileNotFoundError):  # what one left that was killed before it had a plan, and logs of earlier ones
        shutil.rmtree(out / SHARDS)
    if not keys:
        return None
    open_place(out, ledger)
    progress.begin(DEALT, len(keys))
    for number, hand in enumerate(hands):
        if write_tasks(out, number, ledger.queue.take(hand, with_priors=settings.priors)) != len(hand):
            raise RunError(f"{out}: shard {number} did not get all its studies; please report it.")
        progress.advance(DEALT, len(hand))
    progress.finish(DEALT)
    plan = ShardPlan(
        folder=str(order.source.folder.resolve()),
        only=order.source.only,
        # An address that is told of studies may hold a secret, which is for the merge alone to know.
        settings=replace(_from_anywhere(settings), notify="", deidentify_existing=False),
        counts=tuple(map(len, hands)),
        made_at=now_text(),
        scored_by=ledger.engine_sha256 if ledger.results.count_studies().get("reported") else "",
        index=count,
        seen=names_in(order.source),
    )
    write_plan(out, plan)
    log_event("dealt out", shards=len(hands), studies=len(keys))
    return plan


def _from_anywhere(settings: Settings) -> Settings:
    """Return settings whose paths mean the same for whoever works or merges in another folder; names stay names."""
    engine, templates, state = map(_absolute, (settings.engine, settings.templates, settings.state))
    return replace(settings, engine=engine, templates=templates, state=state)


def _absolute(named: str) -> str:
    return str(Path(named).resolve()) if named and Path(named).is_dir() else named
