"""Opening an output folder: held by one process, cleared of what a killed one left. Start at `open_output`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from cxrbatch.config import RUNS
from cxrbatch.errors import OutputNotWritable
from cxrbatch.output.folder.lock import LOCK_FILE, locked
from cxrbatch.output.folder.place import HeldOutput
from cxrbatch.output.folder.settle import Settling
from cxrbatch.output.folder.sharded import refuse_sharded
from cxrbatch.output.folder.state import (
    UNFINISHED,
    begin_session,
    choose_state,
    claim_output,
    claim_state,
    is_foreign_ledger,
    refuse_foreign,
)
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.report.intent import tidy_intents
from cxrbatch.output.report.report_files import REPORTS, report_folders
from cxrbatch.system import durable
from cxrbatch.system.logbook import LogLimits, log_event, logging_to

# What the fact UNFINISHED says instead of a session while every report is looked at, or was left by earlier versions.
_OF_ANOTHER_LEDGER, _OF_AN_EARLIER_VERSION = "another ledger", "yes"


@contextmanager
def held_output(
    out: Path, log_limits: LogLimits | None = None, *, state: str = "", may_be_missing: bool = False
) -> Iterator[HeldOutput]:
    """Hold the lock and the log of an output folder, and yield where its ledger lies, without opening that.

    The marker is read twice, and once only where this is the first run: before the lock, to find that; and under it,
    since whoever held it until then, or was the first to begin, may have written it meanwhile. What comes after goes
    by what was read or written last (`HeldOutput.marker`).

    Arguments and errors are those of `open_output` and `find_state`.
    """
    with ExitStack() as stack:
        home = stack.enter_context(HeldOutput(out))
        with output_errors_explained(out):
            home.state = choose_state(out, home.marker.known, state, may_be_missing=may_be_missing)
        with output_errors_explained(home.state):
            durable.make_folder(home.state)
            stack.enter_context(locked(home.state))
        with output_errors_explained(out):
            if may_be_missing:
                home.marker.reread()
            else:
                claim_output(home)
            home.raise_fence()
            stack.enter_context(logging_to(out, log_limits))
        yield home


@contextmanager
def open_output(
    out: Path, log_limits: LogLimits | None = None, *, state: str = "", sharded: bool = False
) -> Iterator[Ledger]:
    """Hold the output folder: its lock, its log and its ledger, with what a killed run left cleared away.

    Args:
        out: the output folder.
        log_limits: how large its log may become.
        state: the folder for its ledger and its lock; by default the one that `out` names, or `out` itself.
        sharded: whether its studies may be dealt out in shards.

    Raises:
        UsageError: the ledger lies elsewhere, is missing, or is that of another output folder; shards are at work.
        OutputNotWritable: the folder cannot be made or written.
        OutputLocked: another run holds it.
        LedgerDamaged: its ledger cannot be read; after a run that was killed, all of it is looked at.
    """
    with output_errors_explained(out):
        durable.make_folder(out)
    with ExitStack() as stack:
        home = stack.enter_context(held_output(out, log_limits, state=state))
        if not sharded:
            refuse_sharded(out)
        ledger = stack.enter_context(open_ledger(home))
        with output_errors_explained(out):
            _remember_place(home)
            refuse_foreign(ledger)
            settling = Settling(out, ledger, is_foreign_ledger(ledger))
            _resume(settling)
        yield ledger
        with output_errors_explained(out):
            settling.settle(everything=False)
            tidy_intents(out)
            home.check()
        ledger.remember(UNFINISHED, "")


def _remember_place(home: HeldOutput) -> None:
    """Let the ledger notice from here on when anything that it belongs to is moved, removed or replaced."""
    reports = home.out / REPORTS
    home.add(home.out, home.state / LOCK_FILE, home.state / LEDGER_FILE, *([reports] if reports.is_dir() else []))


def _resume(settling: Settling) -> None:
    """Clear away and set right what the last process left, if it was killed, and begin a session of one's own."""
    out, ledger, unfinished = settling.out, settling.ledger, settling.ledger.fact(UNFINISHED)
    session = secrets.token_hex(8)
    is_foreign = settling.is_foreign or unfinished == _OF_ANOTHER_LEDGER
    everything = is_foreign or unfinished == _OF_AN_EARLIER_VERSION
    if unfinished:
        ledger.store.check()
    # From here on, and not before, files are written that a killed run would leave half done.
    if is_foreign:
        ledger.remember(UNFINISHED, _OF_ANOTHER_LEDGER, durable=True)
    elif not everything:
        ledger.remember(UNFINISHED, session, durable=True)
    removed = durable.remove_temporaries(out, below=everything) + durable.remove_temporaries(out / RUNS, below=False)
    settling = replace(settling, is_foreign=is_foreign, is_earlier=unfinished == _OF_AN_EARLIER_VERSION)
    settled = settling.settle(everything=everything)
    if unfinished or everything:
        log_event(
            "the last run was killed; resuming",
            temporary_files_removed=removed,
            results_taken_over=settled.adopted,
            reports_undone=settled.undone,
        )
    claim_state(ledger)
    begin_session(ledger, session)


def open_ledger(home: HeldOutput) -> Ledger:
    """Open the ledger of a held output folder; an empty one is damaged where there are reports."""
    return Ledger(home.state, home=home, may_be_empty=lambda: not any(report_folders(home.out)))


@contextmanager
def output_errors_explained(out: Path, home: HeldOutput | None = None) -> Iterator[None]:
    """Turn an OSError about the output folder into an error that says what to check.

    With `home`: where the folder was moved, removed or unmounted while it was held, that is what is said.
    """
    try:
        yield
    except OSError as error:
        if home is not None:
            home.check()
        raise OutputNotWritable(
            f"{out}: cannot be written ({error.strerror}). Check free space, quota and permissions, "
            "or choose another output folder."
        ) from error
