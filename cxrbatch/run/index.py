"""The index: one ledger row for every file of the input; unchanged files cost one stat each."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, get_args

from cxrbatch.config import Settings
from cxrbatch.errors import Reason, RunError, UsageError, error_name
from cxrbatch.intake.discover import describe_file, walk
from cxrbatch.output.ledger.attempts import may_pass
from cxrbatch.output.ledger.index import KnownFile
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import FileStatus, Header, ImageFile, IndexedFile, Rejection
from cxrbatch.run.deidentification import Pseudonyms
from cxrbatch.system.logbook import log_event
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.system.stopping import stop_if_asked
from cxrbatch.system.workers import WorkerCrashed, WorkerPool, WorkerTimedOut

Item = TypeVar("Item")

# Enough files per task that handing it over costs nothing beside reading them.
FILES_PER_TASK = 64
INDEXED = "files indexed"
INDEX_RULES = "index_rules"
# Raise it when the same file would be indexed otherwise than before: every file is then read again.
INDEX_VERSION = 4
# Since then pictures have study keys of their own kind.
_PICTURE_KEYS_SINCE = 4


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


# Looks at what the index says of a new or changed file, and may hold it back.
Judge = Callable[[IndexedFile | Deferred], IndexedFile | Deferred]


def _accept(entry: IndexedFile | Deferred) -> IndexedFile | Deferred:
    return entry


@dataclass(frozen=True, slots=True)
class IndexCount:
    """What one walk met.

    `met` files, of which `read` were new or changed and `deferred` cannot be read now; `gone` files that are
    no longer there; `unlistable` folders, which hide what is in them; `hidden` folders, left out since they hold
    results of cxrbatch. `total` files were ever met.
    """

    met: int = 0
    read: int = 0
    deferred: int = 0
    gone: int = 0
    unlistable: int = 0
    total: int = 0
    hidden: int = 0

    @property
    def is_news(self) -> bool:
        """Tell whether the walk met anything that the one before did not."""
        return bool(self.read or self.gone)


@dataclass(slots=True)
class Postponed:
    """Files whose headers could not be read, for whoever looks at the input every few seconds: not tried each time.

    What counts as a run there is one try in `retry_s`. A file that changed is tried at once.
    """

    retry_s: float
    clock: Callable[[], float] = time.monotonic
    _tried: dict[str, tuple[ImageFile, float]] = field(default_factory=dict)

    def note(self, file: ImageFile) -> None:
        """Note that this file was tried now."""
        self._tried[file.path] = (file, self.clock())

    def holds(self, file: ImageFile) -> bool:
        """Tell whether the file was tried too short a time ago."""
        tried, at = self._tried.get(file.path, (None, 0.0))
        if tried == file and self.clock() - at < self.retry_s:
            return True
        self._tried.pop(file.path, None)
        return False


class _Walk:
    """One walk over the input, compared with what the ledger knows."""

    def __init__(self, index: Index, known: dict[str, KnownFile], progress: RunProgress) -> None:
        self._root, self._out, self._known, self._progress = index.root, index.out, known, progress
        self._only = index.only
        self._postponed = index.postponed
        self.met = self.new = self.unlistable = self.postponed = self.hidden = 0
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
            if known is not None and self._postponed is not None and self._postponed.holds(file):
                self.postponed += 1
            elif reread or known is None or not known.is_same(file) or (reread_refused and known.refused):
                yield file
            elif not known.present:
                self.returned.append(file.path)
        self._progress.advance(INDEXED, self.met % FILES_PER_TASK)

    def gone(self) -> list[str]:
        """Return the files that were there at the last walk and were not met by this one.

        What lies in a folder that cannot be listed now, or that was left out, is hidden, not gone.
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
            if self._only:
                yield from describe_file(self._root / self._only)
                return
            yield from walk(self._root, exclude=self._out, on_error=self._note_unlistable, on_hidden=self._note_hidden)
        except OSError as error:
            raise UsageError(
                f"{self._root}: cannot be listed ({error.strerror}). Check that it is mounted and readable."
            ) from error

    def _note_unlistable(self, error: OSError) -> None:
        self.unlistable += 1
        self._hide(Path(str(error.filename or self._root)))

    def _note_hidden(self, folder: Path) -> None:
        self.hidden += 1
        self._hide(folder)

    def _hide(self, folder: Path) -> None:
        root = self._root.resolve()
        inside = folder.is_relative_to(root) and folder != root
        self._hidden.append(f"{folder.relative_to(root).as_posix()}/" if inside else "")


@dataclass(frozen=True, slots=True)
class Index:
    """What is indexed: every file below `root`, leaving out what lies in `out`; or `only` the one of that name.

    `judge` sees what was read of each new or changed file before the ledger does. With `reread_refused`, files
    that were refused are read again, too. With `pseudonyms`, the ledger is told of nobody's identity. `postponed`:
    files that are not tried each time, where the same process looks again and again.
    """

    root: Path
    out: Path
    settings: Settings
    judge: Judge = _accept
    reread_refused: bool = False
    pseudonyms: Pseudonyms | None = None
    postponed: Postponed | None = None
    only: str = ""

    def kept(self, entry: IndexedFile) -> IndexedFile:
        """Return what the ledger may know of a file."""
        return self.pseudonyms.entry(entry) if self.pseudonyms else entry


class _FormerKeys:
    """The study keys that pictures had in an earlier version: kept where a report could not be made again."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self._root, self._ledger = root, ledger
        self._is_whole: dict[str, bool] = {}

    def kept(self, entry: IndexedFile) -> IndexedFile:
        """Return the entry of an unchanged picture under its former key, where another of its study is gone."""
        if entry.header.study_instance_uid or not entry.study_key:
            return entry
        key = self._ledger.index.study_of_unchanged(entry.file)
        if key and key not in self._is_whole:
            self._is_whole[key] = all(os.path.lexists(self._root / path) for path in self._ledger.index.paths_of(key))
        return entry if self._is_whole.get(key, True) else replace(entry, study_key=key)


def index_input(index: Index, ledger: Ledger, workers: WorkerPool, progress: RunProgress) -> IndexCount:
    """Bring the ledger up to date with the input folder.

    Raises:
        UsageError: the input folder cannot be listed, or lost all its files at once.
        RunError: a file was met that has no row afterwards (promise 1: nothing vanishes).
    """
    settings = index.settings
    known = ledger.index.known_files()
    known_before = len(known)
    rules = index_rules(settings, index.pseudonyms)
    met = _Walk(index, known, progress)
    read = deferred = 0
    progress.begin(INDEXED)
    former_rules = ledger.fact(INDEX_RULES)
    reread = former_rules != rules
    former_keys = _FormerKeys(index.root, ledger) if _version_of(former_rules) < _PICTURE_KEYS_SINCE else None
    changed = met.changed_files(reread=reread, reread_refused=index.reread_refused)
    for read_now in _read_headers(index.root, changed, workers, settings):
        n_deferred = _record(index, ledger, [index.judge(entry) for entry in read_now], former_keys)
        read += len(read_now) - n_deferred
        deferred += n_deferred
    progress.finish(INDEXED)
    if not settings.input_emptied:
        met.refuse_emptied()
    ledger.remember(INDEX_RULES, rules)
    ledger.index.record_returned(met.returned)
    gone = met.gone()
    ledger.index.record_gone(gone)
    total = known_before + met.new
    account_for(ledger, total)
    return IndexCount(met.met, read, deferred + met.postponed, len(gone), met.unlistable, total, met.hidden)


def _record(index: Index, ledger: Ledger, found: list[IndexedFile | Deferred], former_keys: _FormerKeys | None) -> int:
    """Record what became of some files; return how many are looked at again."""
    indexed = [index.kept(entry) for entry in found if isinstance(entry, IndexedFile)]
    deferred = [entry for entry in found if isinstance(entry, Deferred)]
    if former_keys is not None:
        indexed = [former_keys.kept(entry) for entry in indexed]
    deferred += _record_indexed(ledger, indexed)
    return sum(_defer(index, ledger, entry) for entry in deferred)


def _record_indexed(ledger: Ledger, indexed: list[IndexedFile]) -> list[Deferred]:
    """Record what was read; return what cannot be: one file takes no other along."""
    try:
        ledger.index.record(indexed)
    except RunError:
        raise
    except Exception as error:  # noqa: BLE001  # what a header holds may not fit a ledger
        if len(indexed) == 1:
            return [_deferred(indexed[0].file, error)]
        return [deferred for entry in indexed for deferred in _record_indexed(ledger, [entry])]
    return []


def _defer(index: Index, ledger: Ledger, entry: Deferred) -> bool:
    """Record a file that could not be read; return whether it is looked at again."""
    if entry.reason is None:
        ledger.index.record_deferred(entry.file, entry.message)
        return True
    log_event("a header was not read", level=logging.ERROR, error=entry.message)
    is_refused = ledger.index.record_failed(entry.file, entry.reason, entry.message)
    if index.postponed is not None and not is_refused:
        index.postponed.note(entry.file)
    return not is_refused


def index_files(job: IndexJob) -> list[IndexedFile | Deferred]:
    """Read and screen the headers of some files; runs in a worker."""
    return [_index_or_defer(job, file) for file in job.files]


def _index_or_defer(job: IndexJob, file: ImageFile) -> IndexedFile | Deferred:
    from cxrbatch.intake.discover import index_file

    try:
        return index_file(job.root, file, job.settings)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever one file does, the others go on
        return _deferred(file, error)


def _deferred(file: ImageFile, error: Exception) -> Deferred:
    """Say why a file's header could not be read this time."""
    if isinstance(error, OSError) and may_pass(error):
        return Deferred(file, f"cannot be opened now ({error.strerror}); tried again in the next run")
    name = error_name(error)
    if may_pass(error):
        return Deferred(file, f"cannot be read now ({name}); tried again in the next run")
    return Deferred(file, f"unexpected {name} while reading the header; please report it", Reason.UNEXPECTED_ERROR)


def _read_headers(
    root: Path, files: Iterator[ImageFile], workers: WorkerPool, settings: Settings
) -> Iterator[list[IndexedFile | Deferred]]:
    jobs = (IndexJob(root, tuple(chunk), settings) for chunk in _chunks(files, FILES_PER_TASK))
    for outcome in workers.run_ahead(index_files, jobs, timeout_s=settings.decode_timeout_s):
        try:
            yield outcome.value()
        except RunError:
            raise
        except Exception:  # noqa: BLE001  # found out one by one
            yield _index_one_by_one(outcome.task, workers)


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
        return _deferred(file, error)
    return _refused(file, reason, message) if is_verdict else Deferred(file, message, reason)


def index_rules(settings: Settings, pseudonyms: Pseudonyms | None = None) -> str:
    """Return, as text, everything but the file itself that decides what the index says of it."""
    sizes = (settings.max_stored_px, settings.min_stored_px)
    accepted = (settings.accepted_modalities, settings.further_body_parts, settings.accept_view, settings.missing_tags)
    # The pixel check is made later, but what it refused must be looked at again.
    names = pseudonyms.fingerprint if pseudonyms else False
    return to_json((INDEX_VERSION, settings.group_by, names, *sizes, *accepted, settings.pixel_check))


def _version_of(rules: str) -> int:
    """Return the version of the index that rules are of; the present one where there are none yet."""
    try:
        return int(from_json(rules, list[Any])[0]) if rules else INDEX_VERSION
    except (ValueError, LookupError, TypeError):
        return 0


def _refused(file: ImageFile, reason: Reason, message: str) -> IndexedFile:
    return IndexedFile(file, "", Header(), rejection=Rejection(reason, message))


def account_for(ledger: Ledger, total: int) -> None:
    """Check that every file that was ever met has one row with one of the known statuses (promise 1).

    Raises:
        RunError: it is not so.
    """
    counts = ledger.results.count_files()
    if sum(counts.values()) != total or not counts.keys() <= set(get_args(FileStatus)):
        raise RunError(
            f"{total} files were met but the ledger holds {counts}. Nothing may vanish, so this run stops; please "
            "report it with OUT/cxrbatch.log."
        )


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
