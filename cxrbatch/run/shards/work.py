"""Working on one shard, on a machine of its own: start at `work_on_shard`. No network, and no database.

Reports go to where they belong at once, OUT/reports; what became of each study is one line of the shard's journal. The
studies are read, scored and printed by the same `LocalProcessor` as in a run.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from shlex import quote

from cxrbatch.config import MARKER_FILE, Settings
from cxrbatch.errors import UsageError
from cxrbatch.output.folder.lock import LOCK_FILE, locked
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.folder.place import HeldOutput
from cxrbatch.output.folder.sharded import shard_folder
from cxrbatch.output.report.report_files import REPORTS
from cxrbatch.run.batch import SCORED
from cxrbatch.run.deidentification import open_pseudonyms
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.kept import check_kept
from cxrbatch.run.own_pages import pages_by
from cxrbatch.run.processes import open_workers
from cxrbatch.run.processor import LocalProcessor, Workplace
from cxrbatch.run.shards.journal import Journal
from cxrbatch.run.shards.plan import (
    ShardEngine,
    ShardPlan,
    how_to_redo,
    read_engine,
    read_plan,
    read_tasks,
    write_engine,
)
from cxrbatch.run.source import Order
from cxrbatch.run.stages import StageClock
from cxrbatch.run.witness import not_seen
from cxrbatch.system.logbook import log_event, log_limits, logging_to
from cxrbatch.system.progress import RunProgress

# Studies of a shard that are looked for, where nothing else of INPUT is there.
_LOOKED_AT = 16


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What was done of a shard: studies of all times, of this time, and those that failed this time."""

    number: int
    studies: int
    this_time: int = 0
    failed: int = 0


def work_on_shard(out: Path, number: int, machine: Settings, progress: RunProgress) -> ShardDone | None:
    """Process the studies of one shard that are not done yet; None where all of OUT is merged, or nothing waited.

    Args:
        out: the output folder that `shard_input` dealt out.
        number: which shard, from 0.
        machine: which engine, and how it runs here; all else is as the shards were dealt out.
        progress: told how far it is.

    Raises:
        RunError: it cannot be; its subclasses tell why and carry the exit code.
    """
    plan = read_plan(out)
    if plan is None:
        if (out / MARKER_FILE).is_file():
            return None
        raise UsageError(
            f"{out}: nothing is dealt out there. `cxrbatch shard INPUT -o {quote(str(out))} --of N` does so."
        )
    plan.require_shard(number)
    settings = settings_here(plan, machine)
    folder = shard_folder(out, number)
    with ExitStack() as stack:
        home = stack.enter_context(held_shard(out, number, settings))
        if read_plan(out) is None:
            return None  # merged at this moment
        journal = stack.enter_context(Journal(folder, home.place))
        journal.tidy()
        left = plan.counts[number] - len(journal.done)
        if not left:
            return ShardDone(number, len(journal.done))
        _see_input(plan, out, number)
        workers = stack.enter_context(open_workers(settings))
        stack.enter_context(pages_by(settings, progress.say, workers))
        engine = stack.enter_context(EngineSlot(settings))
        check_kept(settings, engine.description)
        _agree(out, number, plan, ShardEngine(engine.description, reference=engine.bundle.manifest.reference))
        stack.callback(journal.tidy)
        stack.callback(workers.end)
        pseudonyms = open_pseudonyms(out) if settings.deidentify else None
        order = Order(plan.source, out, settings, pseudonyms)
        told = partial(progress.advance, SCORED)
        at = Workplace(order, home.place, engine, workers, StageClock(), told)
        log_event("shard begun", shard=number, studies=left, machine=platform.node())
        progress.begin(SCORED, left)
        done = _process(at, journal, number, plan)
        progress.finish(SCORED)
        log_event("shard done", shard=number, studies=done.this_time, failed=done.failed)
        return done


def _see_input(plan: ShardPlan, out: Path, number: int) -> None:
    if refusal := not_seen(plan.source.folder, plan.seen, islice(read_tasks(out, number), _LOOKED_AT)):
        raise UsageError(f"{refusal} For that, nothing of shard {number} failed: what is left of it waits.")


def _process(at: Workplace, journal: Journal, number: int, plan: ShardPlan) -> ShardDone:
    this_time = failed = 0
    tasks = read_tasks(at.order.out, number, without=frozenset(journal.done))
    for study in LocalProcessor(at).process(tasks):
        if study.unread:
            _see_input(plan, at.order.out, number)
        journal.append(study)
        this_time += 1
        failed += bool(study.unread or study.unprinted)
        what = "study failed" if study.unread or study.unprinted else "study done"
        log_event(what, study_key=study.study_key)
    return ShardDone(number, len(journal.done), this_time, failed)


def settings_here(plan: ShardPlan, machine: Settings) -> Settings:
    """Return the settings of the shards, with what is this machine's own affair."""
    return replace(
        plan.settings,
        engine=machine.engine or plan.settings.engine,
        backend=machine.backend if machine.backend != "auto" else plan.settings.backend,
        precision=machine.precision if machine.precision != "auto" else plan.settings.precision,
        batch_size=machine.batch_size,
        threads=machine.threads,
        workers=machine.workers,
    )


@contextmanager
def held_shard(out: Path, number: int, settings: Settings) -> Iterator[HeldOutput]:
    """Hold a shard: its lock, its fence, its log.

    Raises:
        OutputLocked: somebody else works on it.
        OutputNotWritable: it cannot be written, or the report folder is missing.
    """
    folder = shard_folder(out, number)
    with ExitStack() as stack, output_errors_explained(folder):
        home = stack.enter_context(HeldOutput(out))
        stack.enter_context(locked(folder))
        home.raise_fence(folder)
        home.add(out, out / REPORTS, folder, folder / LOCK_FILE)
        stack.enter_context(logging_to(folder, log_limits(settings)))
        yield home


def _agree(out: Path, number: int, plan: ShardPlan, mine: ShardEngine) -> None:
    """See that this shard, and the first of the others that was begun, are scored by the same engine.

    Raises:
        UsageError: they are not; or OUT was scored by another one, and would be scored anew by a run.
    """
    if plan.scored_by not in {"", mine.engine.sha256}:
        raise UsageError(
            f"{out}: was scored by another engine ({plan.scored_by[:12]}) than this one ({mine.engine.sha256[:12]}). "
            "Work with that one; a run with the new one, without shards, scores everything anew."
        )
    others = (each for each in (number, *range(len(plan.counts))) if (read_engine(out, each) is not None))
    first = next(others, None)
    theirs = None if first is None else read_engine(out, first)
    if first is not None and theirs is not None and (differences := mine.differences(theirs)):
        raise UsageError(
            f"{out}: shard {first} is scored otherwise than this one would be: {'; '.join(differences)}. All shards "
            f"need the same engine, version, backend and precision. {how_to_redo(shard_folder(out, first))}"
        )
    if read_engine(out, number) is None:
        write_engine(out, number, mine)
