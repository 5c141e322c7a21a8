"""Opening an output folder: held by one process, cleared of what a killed one left. Start at `open_output`."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cxrbatch.errors import OutputLocked, OutputNotWritable
from cxrbatch.output.folder.place import HeldPlace
from cxrbatch.output.folder.settle import Settling
from cxrbatch.output.folder.state import (
    UNFINISHED,
    begin_session,
    claim_output,
    claim_state,
    find_state,
    is_foreign_ledger,
    refuse_foreign,
)
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.report.intent import tidy_intents
from cxrbatch.output.report.report import REPORTS, report_folders
from cxrbatch.system import durable
from cxrbatch.system.faults import reach
from cxrbatch.system.logbook import LogLimits, log_event, logging_to

LOCK_FILE = ".cxrbatch.lock"
# What the fact UNFINISHED says instead of a session while every report is looked at, or was left by earlier versions.
_OF_ANOTHER_LEDGER, _OF_AN_EARLIER_VERSION = "another ledger", "yes"
_ASKING_TAKES_S = 0.1


@contextmanager
def held_output(
    out: Path, log_limits: LogLimits | None = None, *, state: str = "", may_be_missing: bool = False
) -> Iterator[Path]:
    """Hold the lock and the log of an output folder, and yield where its ledger lies, without opening that.

    Arguments and errors are those of `open_output` and `find_state`.
    """
    with output_errors_explained(out):
        folder = find_state(out, state, may_be_missing=may_be_missing)
    with output_errors_explained(folder):
        durable.make_folder(folder)
    with ExitStack() as stack:
        stack.enter_context(_locked(folder))
        if not may_be_missing:
            with output_errors_explained(out):
                claim_output(out, folder)
        with output_errors_explained(out):
            stack.enter_context(logging_to(out, log_limits))
        yield folder


@contextmanager
def open_output(out: Path, log_limits: LogLimits | None = None, *, state: str = "") -> Iterator[Ledger]:
    """Hold the output folder: its lock, its log and its ledger, with what a killed run left cleared away.

    Args:
        out: the output folder.
        log_limits: how large its log may become.
        state: the folder for its ledger and its lock; by default the one that `out` names, or `out` itself.

    Raises:
        UsageError: the ledger lies elsewhere, is missing, or is that of another output folder.
        OutputNotWritable: the folder cannot be made or written.
        OutputLocked: another run holds it.
        LedgerDamaged: its ledger cannot be read; after a run that was killed, all of it is looked at.
    """
    with output_errors_explained(out):
        durable.make_folder(out)
    with ExitStack() as stack:
        folder = stack.enter_context(held_output(out, log_limits, state=state))
        ledger = stack.enter_context(open_ledger(folder, out))
        stack.enter_context(_kept_home(out, folder, ledger))
        with output_errors_explained(out):
            refuse_foreign(out, folder, ledger)
            settling = Settling(out, ledger, is_foreign_ledger(out, ledger))
            _resume(settling, folder)
        yield ledger
        with output_errors_explained(out):
            settling.settle(everything=False)
            tidy_intents(out)
            ledger.home.check()
        ledger.remember(UNFINISHED, "")


@contextmanager
def _kept_home(out: Path, folder: Path, ledger: Ledger) -> Iterator[None]:
    """Let the ledger notice when anything that it belongs to is moved, removed or replaced."""
    with HeldPlace(out) as home:
        reports = out / REPORTS
        with output_errors_explained(out):
            home.add(out, folder / LOCK_FILE, folder / LEDGER_FILE, *([reports] if reports.is_dir() else []))
        ledger.stay_in(home)
        yield


def _resume(settling: Settling, folder: Path) -> None:
    """Clear away and set right what the last process left, if it was killed, and begin a session of one's own."""
    out, ledger, unfinished = settling.out, settling.ledger, settling.ledger.fact(UNFINISHED)
    session = secrets.token_hex(8)
    is_foreign = settling.is_foreign or unfinished == _OF_ANOTHER_LEDGER
    everything = is_foreign or unfinished == _OF_AN_EARLIER_VERSION
    if unfinished:
        ledger.check()
    # From here on, and not before, files are written that a killed run would leave half done.
    if is_foreign:
        ledger.remember(UNFINISHED, _OF_ANOTHER_LEDGER, durable=True)
    elif not everything:
        ledger.remember(UNFINISHED, session, durable=True)
    removed = durable.remove_temporaries(out, below=everything)
    settling = replace(settling, is_foreign=is_foreign, is_earlier=unfinished == _OF_AN_EARLIER_VERSION)
    settled = settling.settle(everything=everything)
    if unfinished or everything:
        log_event(
            "the last run was killed; resuming",
            temporary_files_removed=removed,
            results_taken_over=settled.adopted,
            reports_undone=settled.undone,
        )
    claim_state(out, folder, ledger)
    begin_session(out, ledger, session)


def open_ledger(folder: Path, out: Path) -> Ledger:
    """Open the ledger that lies in `folder`; an empty one is damaged where `out` has reports."""
    return Ledger(folder, may_be_empty=lambda: not any(report_folders(out)))


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold an advisory lock that the kernel drops with the process, so none is ever stale."""
    with output_errors_explained(out):
        descriptor = os.open(out / LOCK_FILE, os.O_RDWR | os.O_CREAT, durable.FILE_MODE)
    try:
        _lock(descriptor)
    except OSError as error:
        holder = ""
        # On SMB a lock keeps others from reading, too.
        with suppress(OSError):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise OutputNotWritable(
                f"{out}: its file system has no locks ({error.strerror}). Put ledger and lock on a local disk with "
                "--state DIR."
            ) from error
        raise OutputLocked(
            f"{out}: another cxrbatch (process {holder or 'unknown'}) is working on this folder. "
            "Wait for it, or end it."
        ) from None
    try:
        with output_errors_explained(out):
            os.fchmod(descriptor, durable.FILE_MODE)
            os.ftruncate(descriptor, 0)
            reach("lock-write")
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            reach("lock-written")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock the file, at the second attempt where somebody only asked whether it is locked (`holder`)."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    time.sleep(_ASKING_TAKES_S)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def output_errors_explained(out: Path) -> Iterator[None]:
    """Turn an OSError about the output folder into an error that says what to check."""
    try:
        yield
    except OSError as error:
        raise OutputNotWritable(
            f"{out}: cannot be written ({error.strerror}). Check free space, quota and permissions, "
            "or choose another output folder."
        ) from error
