"""The index: a folder in, one ledger row for every file of it out; unchanged files cost one stat each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar, get_args

from cxrbatch.config import Settings
from cxrbatch.errors import Reason, RunError, UsageError
from cxrbatch.intake.discover import walk
from cxrbatch.output.folder import output_errors_explained
from cxrbatch.output.ledger import KnownFile, Ledger
from cxrbatch.output.marker import update_marker
from cxrbatch.progress import RunProgress
from cxrbatch.record_json import to_json
from cxrbatch.records import FileStatus, Header, ImageFile, IndexedFile, Rejection
from cxrbatch.stopping import stop_if_asked
from cxrbatch.workers import WorkerCrashed, WorkerPool, WorkerTimedOut

Item = TypeVar("Item")

# Enough files per task that handing it over costs nothing beside reading them.
FILES_PER_TASK = 64
INDEXED = "files indexed"
INDEX_RULES = "index_rules"
# Raise it when the same file would be indexed otherwise than before: every file is then read again.
INDEX_VERSION = 3


@dataclass(frozen=True, slots=True)
class IndexJob:
    """Some files whose headers a worker reads."""

    root: Path
    files: tuple[ImageFile, ...]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Deferred:
    """A file that cannot be opened now: being written, without permission, or gone again."""

    file: ImageFile
    message: str


# Looks at what the index says of a new or changed file, and may hold it back.
Judge = Callable[[IndexedFile | Deferred], IndexedFile | Deferred]


def _accept(entry: IndexedFile | Deferred) -> IndexedFile | Deferred:
    return entry


@dataclass(frozen=True, slots=True)
class IndexCount:
    """What one walk met.

    `met` files, of which `read` were new or changed and `deferred` cannot be read now; `gone` files that are
    no longer there; `unlistable` folders, which hide what is in them. `total` files were ever met.
    """

    met: int = 0
    read: int = 0
    deferred: int = 0
    gone: int = 0
    unlistable: int = 0
    total: int = 0

    @property
    def is_news(self) -> bool:
        """Tell whether the walk met anything that the one before did not."""
        return bool(self.read or self.gone)


class _Walk:
    """One walk over the input, compared with what the ledger knows."""

    def __init__(self, root: Path, out: Path, known: dict[str, KnownFile], progress: RunProgress) -> None:
        self._root, self._out, self._known, self._progress = root, out, known, progress
        self.met = self.new = self.unlistable = 0
        self.returned: list[str] = []
        self._hidden: list[str] = []

    def changed_files(self, *, reread: bool, reread_refused: bool) -> Iterator[ImageFile]:
        """Yield the files that are new or changed; on demand every file, or every refused one.

        Takes what it meets out of `known`.

        Raises:
            UsageError: the input folder itself cannot be listed.
        """
        for file in self._files():
            stop_if_asked()
            self.met += 1
            if self.met % FILES_PER_TASK == 0:
                self._progress.advance(INDEXED, FILES_PER_TASK)
            known = self._known.pop(file.path, None)
            self.new += known is None
            if reread or known is None or not known.is_same(file) or (reread_refused and known.refused):
                yield file
            elif not known.present:
                self.returned.append(file.path)
        self._progress.advance(INDEXED, self.met % FILES_PER_TASK)

    def gone(self) -> list[str]:
        """Return the files that were there at the last walk and were not met by this one.

        What lies in a folder that cannot be listed now is hidden, not gone.
        """
        hidden = tuple(self._hidden)
        return [path for path, known in self._known.items() if known.present and not path.startswith(hidden)]

    def refuse_emptied(self) -> None:
        """Refuse an input folder without any file where there were some: a share that is not mounted looks like that.

        Raises:
            UsageError: it is so.
        """
        gone = len(self.gone())
        if gone and not self.met and not self.unlistable:
            raise UsageError(
                f"{self._root}: not one file is there; {gone} were when it was last looked at. "
                "Check that it is mounted. Nothing was changed. If it was emptied on purpose, say so: --input-emptied."
            )

    def _files(self) -> Iterator[ImageFile]:
        try:
            yield from walk(self._root, exclude=self._out, on_error=self._note_unlistable)
        except OSError as error:
            raise UsageError(
                f"{self._root}: cannot be listed ({error.strerror}). Check that it is mounted and readable."
            ) from error

    def _note_unlistable(self, error: OSError) -> None:
        self.unlistable += 1
        folder = Path(str(error.filename or self._root))
        root = self._root.resolve()
        inside = folder.is_relative_to(root) and folder != root
        self._hidden.append(f"{folder.relative_to(root).as_posix()}/" if inside else "")


@dataclass(frozen=True, slots=True)
class Index:
    """What is indexed: every file below `root`, leaving out what lies in `out`.

    `judge` sees what was read of each new or changed file before the ledger does. With `reread_refused`, files
    that were refused are read again, too.
    """

    root: Path
    out: Path
    settings: Settings
    judge: Judge = _accept
    reread_refused: bool = False


def index_input(index: Index, ledger: Ledger, workers: WorkerPool, progress: RunProgress) -> IndexCount:
    """Bring the ledger up to date with the input folder.

    Raises:
        UsageError: the input folder cannot be listed, or lost all its files at once.
        RunError: a file was met that has no row afterwards (promise 1: nothing vanishes).
    """
    root, settings = index.root, index.settings
    known = ledger.known_files()
    known_before = len(known)
    rules = _index_rules(settings)
    met = _Walk(root, index.out, known, progress)
    read = deferred = 0
    progress.begin(INDEXED)
    reread = ledger.fact(INDEX_RULES) != rules
    changed = met.changed_files(reread=reread, reread_refused=index.reread_refused)
    for read_now in _read_headers(root, changed, workers, settings):
        found = [index.judge(entry) for entry in read_now]
        indexed = [entry for entry in found if isinstance(entry, IndexedFile)]
        ledger.record_index(_deidentified(indexed) if settings.deidentify else indexed)
        for entry in found:
            if isinstance(entry, Deferred):
                ledger.record_deferred(entry.file, entry.message)
        read += len(indexed)
        deferred += len(found) - len(indexed)
    progress.finish(INDEXED)
    if not settings.input_emptied:
        met.refuse_emptied()
    ledger.remember(INDEX_RULES, rules)
    with output_errors_explained(index.out):
        ledger.home.check()
        update_marker(index.out, index_rules=rules)
    ledger.record_returned(met.returned)
    gone = met.gone()
    ledger.record_gone(gone)
    total = known_before + met.new
    account_for(ledger, total)
    return IndexCount(met.met, read, deferred, len(gone), met.unlistable, total)


def index_files(job: IndexJob) -> list[IndexedFile | Deferred]:
    """Read and screen the headers of some files; runs in a worker."""
    return [_index_or_defer(job, file) for file in job.files]


def _index_or_defer(job: IndexJob, file: ImageFile) -> IndexedFile | Deferred:
    from cxrbatch.intake.discover import index_file

    try:
        return index_file(job.root, file, job.settings)
    except OSError as error:
        return Deferred(file, f"cannot be opened now ({error.strerror}); tried again in the next run")


def _read_headers(
    root: Path, files: Iterator[ImageFile], workers: WorkerPool, settings: Settings
) -> Iterator[list[IndexedFile | Deferred]]:
    jobs = (IndexJob(root, tuple(chunk), settings) for chunk in _chunks(files, FILES_PER_TASK))
    for outcome in workers.run_ahead(index_files, jobs, timeout_s=settings.decode_timeout_s):
        try:
            yield outcome.value()
        except (WorkerTimedOut, WorkerCrashed, MemoryError):
            yield _index_one_by_one(outcome.task, workers)


def _index_one_by_one(job: IndexJob, workers: WorkerPool) -> list[IndexedFile | Deferred]:
    """Find the file that a worker cannot read without dying or hanging, and refuse that one only."""
    singles = (replace(job, files=(file,)) for file in job.files)
    found: list[IndexedFile | Deferred] = []
    for outcome in workers.run_ahead(index_files, singles, timeout_s=job.settings.decode_timeout_s):
        file = outcome.task.files[0]
        try:
            found += outcome.value()
        except WorkerTimedOut as error:
            found.append(_refused(file, Reason.DECODE_TIMEOUT, f"reading the header {error}"))
        except WorkerCrashed as error:
            found.append(
                Deferred(file, f"reading the header: {error}")
                if error.was_killed
                else _refused(file, Reason.DECODER_CRASHED, f"reading the header: {error}")
            )
        except MemoryError:
            found.append(
                _refused(file, Reason.TOO_LARGE, "reading the header needs more memory than a worker may take")
            )
    return found


def _index_rules(settings: Settings) -> str:
    """Return, as text, everything but the file itself that decides what the index says of it."""
    sizes = (settings.max_stored_px, settings.min_stored_px)
    accepted = (settings.accepted_modalities, settings.further_body_parts, settings.accept_view, settings.missing_tags)
    # The pixel check is made later, but what it refused must be looked at again.
    rules = (settings.group_by, settings.deidentify, *sizes, *accepted, settings.pixel_check)
    return to_json((INDEX_VERSION, *rules))


def _refused(file: ImageFile, reason: Reason, message: str) -> IndexedFile:
    return IndexedFile(file, "", Header(), rejection=Rejection(reason, message))


def _deidentified(entries: Iterable[IndexedFile]) -> list[IndexedFile]:
    return [replace(entry, header=entry.header.deidentified()) for entry in entries]


def account_for(ledger: Ledger, total: int) -> None:
    """Check that every file that was ever met has one row with one of the known statuses (promise 1).

    Raises:
        RunError: it is not so.
    """
    counts = ledger.count_files()
    if sum(counts.values()) != total or not counts.keys() <= set(get_args(FileStatus)):
        raise RunError(
            f"{total} files were met but the ledger holds {counts}. Nothing may vanish, so this run stops; please "
            "report it with OUT/cxrbatch.log."
        )


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
