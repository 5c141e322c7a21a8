"""The stage that reads the headers of new and changed files, and says what becomes of those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from cxrbatch.config import Settings
from cxrbatch.errors import Reason, RunError, error_name
from cxrbatch.output.ledger.attempts import may_pass
from cxrbatch.records import Header, ImageFile, IndexedFile, Rejection
from cxrbatch.run.overlap import each_overlapping
from cxrbatch.system.workers import WorkerCrashed, WorkerPool, WorkerTimedOut

Item = TypeVar("Item")

# Enough files per task that handing it over costs nothing beside reading them.
FILES_PER_TASK = 64


@dataclass(frozen=True, slots=True)
class IndexJob:
    """Some files whose headers a worker reads."""

    root: Path
    files: tuple[ImageFile, ...]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Deferred:
    """A file that cannot be opened now: being written, without permission, or gone again.

    With a `reason` it is refused for that when it comes back in run after run.
    """

    file: ImageFile
    message: str
    reason: Reason | None = None


def read_headers(
    root: Path, files: Iterator[ImageFile], workers: WorkerPool, settings: Settings
) -> Iterator[list[IndexedFile | Deferred]]:
    """Read headers in worker processes; what one file does to its worker is no other file's loss."""
    jobs = (IndexJob(root, tuple(chunk), settings) for chunk in _chunks(files, FILES_PER_TASK))
    # Each of the files will be read as a whole, too: processes for that start meanwhile.
    timeout_s, n_files = settings.decode_timeout_s, lambda job: len(job.files)
    for outcome in workers.run_ahead(index_files, jobs, timeout_s=timeout_s, keeps_busy=n_files):
        try:
            yield outcome.value()
        except RunError:
            raise
        except Exception:  # noqa: BLE001  # found out one by one
            yield _index_one_by_one(outcome.task, workers)


def index_files(job: IndexJob) -> list[IndexedFile | Deferred]:
    """Read and screen the headers of some files; runs in a worker."""
    return each_overlapping(partial(_index_or_defer, job), job.files, job.settings.walk_threads)


def _index_or_defer(job: IndexJob, file: ImageFile) -> IndexedFile | Deferred:
    from cxrbatch.intake.discover import index_file

    try:
        return index_file(job.root, file, job.settings)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever one file does, the others go on
        return deferred_for(file, error)


def deferred_for(file: ImageFile, error: Exception) -> Deferred:
    """Say why a file's header could not be read this time."""
    if isinstance(error, OSError) and may_pass(error):
        return Deferred(file, f"cannot be opened now ({error.strerror}); tried again in the next run")
    name = error_name(error)
    if may_pass(error):
        return Deferred(file, f"cannot be read now ({name}); tried again in the next run")
    return Deferred(file, f"unexpected {name} while reading the header; please report it", Reason.UNEXPECTED_ERROR)


def _index_one_by_one(job: IndexJob, workers: WorkerPool) -> list[IndexedFile | Deferred]:
    """Find the file that a worker cannot read without dying or hanging, and refuse that one only."""
    singles = (replace(job, files=(file,)) for file in job.files)
    found: list[IndexedFile | Deferred] = []
    for outcome in workers.run_ahead(index_files, singles, timeout_s=job.settings.decode_timeout_s):
        file = outcome.task.files[0]
        try:
            found += outcome.value()
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001  # one file
            found.append(_unreadable(file, error))
    return found


def _unreadable(file: ImageFile, error: Exception) -> IndexedFile | Deferred:
    """Say what becomes of a file that its worker did not survive, or took too long for."""
    if isinstance(error, WorkerTimedOut):
        message = f"reading the header {error}"
        reason, is_verdict = Reason.DECODE_TIMEOUT, not error.waiting
    elif isinstance(error, WorkerCrashed):
        message = f"reading the header: {error}"
        reason, is_verdict = Reason.DECODER_CRASHED, not error.was_killed
    elif isinstance(error, MemoryError):
        return _refused(file, Reason.TOO_LARGE, "reading the header needs more memory than a worker may take")
    else:
        return deferred_for(file, error)
    return _refused(file, reason, message) if is_verdict else Deferred(file, message, reason)


def _refused(file: ImageFile, reason: Reason, message: str) -> IndexedFile:
    return IndexedFile(file, "", Header(), rejection=Rejection(reason, message))


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
