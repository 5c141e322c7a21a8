"""The output folder: a path in, its ledger out, held by one process and cleared of what a killed one left."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cxrbatch import durable
from cxrbatch.errors import OutputLocked, OutputNotWritable
from cxrbatch.faults import reach
from cxrbatch.logbook import LogLimits, log_event, logging_to
from cxrbatch.output.ledger import Ledger
from cxrbatch.output.report import REPORTS
from cxrbatch.output.state import claim_state, find_state, refuse_foreign

LOCK_FILE = ".cxrbatch.lock"
UNFINISHED = "unfinished"
_ASKING_TAKES_S = 0.1
STUDY_KEY = re.compile("[0-9a-f]{16}")


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
    with held_output(out, log_limits, state=state) as folder, open_ledger(folder, out) as ledger:
        with output_errors_explained(out):
            refuse_foreign(out, folder, ledger)
        if ledger.fact(UNFINISHED):
            ledger.check()
            with output_errors_explained(out):
                removed = durable.remove_temporaries(out)
            log_event("the last run was killed; resuming", temporary_files_removed=removed)
        # From here on, and not before, files are written that a killed run would leave half done.
        ledger.remember(UNFINISHED, "yes")
        with output_errors_explained(out):
            claim_state(out, folder, ledger)
        yield ledger
        ledger.remember(UNFINISHED, "")


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


def remove_orphaned_reports(out: Path, keys: set[str]) -> int:
    """Remove the report folders of studies that no longer have a result; return how many.

    A study that was refused after all, or whose files now belong to another one, must not leave a report behind.
    """
    orphans = [folder for folder in report_folders(out) if folder.name not in keys]
    for orphan in orphans:
        reach("orphan-remove")
        shutil.rmtree(orphan)
        reach("orphan-removed")
    return len(orphans)


def report_folders(out: Path) -> Iterator[Path]:
    """Yield the folders of `out` that hold reports, in no order."""
    with suppress(FileNotFoundError), os.scandir(out / REPORTS) as entries:
        for entry in entries:
            if STUDY_KEY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


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
