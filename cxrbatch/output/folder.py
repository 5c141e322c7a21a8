"""The output folder: a path in, its ledger out, held by one process and cleared of what a killed one left."""

from __future__ import annotations

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

LOCK_FILE = ".cxrbatch.lock"
UNFINISHED = "unfinished"
_ASKING_TAKES_S = 0.1
STUDY_KEY = re.compile("[0-9a-f]{16}")


@contextmanager
def open_output(out: Path, log_limits: LogLimits | None = None) -> Iterator[Ledger]:
    """Hold the output folder: its lock, its log and its ledger, with what a killed run left cleared away.

    Raises:
        OutputNotWritable: the folder cannot be made or written.
        OutputLocked: another run holds it.
    """
    with output_errors_explained(out):
        durable.make_folder(out)
    with ExitStack() as stack:
        stack.enter_context(_locked(out))
        with output_errors_explained(out):
            stack.enter_context(logging_to(out, log_limits))
        ledger = stack.enter_context(Ledger(out))
        if ledger.fact(UNFINISHED):
            with output_errors_explained(out):
                removed = durable.remove_temporaries(out)
            log_event("the last run was killed; resuming", temporary_files_removed=removed)
        ledger.remember(UNFINISHED, "yes")
        yield ledger
        ledger.remember(UNFINISHED, "")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold an advisory lock that the kernel drops with the process, so none is ever stale."""
    with output_errors_explained(out):
        descriptor = os.open(out / LOCK_FILE, os.O_RDWR | os.O_CREAT, durable.FILE_MODE)
    try:
        _lock(descriptor)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise OutputLocked(
            f"{out}: another cxrbatch (process {holder}) is working on this folder. Wait for it, or end it."
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
    reports = out / REPORTS
    folders = [entry for entry in reports.iterdir() if entry.is_dir()] if reports.is_dir() else []
    orphans = [folder for folder in folders if STUDY_KEY.fullmatch(folder.name) and folder.name not in keys]
    for orphan in orphans:
        reach("orphan-remove")
        shutil.rmtree(orphan)
        reach("orphan-removed")
    return len(orphans)


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
