"""The index: one ledger row for every file of the input; unchanged files cost one stat each. Start at `index_input`."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from cxrbatch.config import Settings
from cxrbatch.errors import RunError
from cxrbatch.output.ledger.folder_table import FolderTable
from cxrbatch.output.ledger.known import KnownFiles
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import FileStatus, ImageFile, IndexedFile
from cxrbatch.run.deidentification import Pseudonyms
from cxrbatch.run.headers import Deferred, deferred_for, read_headers
from cxrbatch.run.source import Order, Postponed, Walk
from cxrbatch.system.logbook import log_event
from cxrbatch.system.progress import RunProgress
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.system.workers import WorkerPool

INDEXED = "files indexed"
INDEX_RULES = "index_rules"
# Raise it when the same file would be indexed otherwise than before: every file is then read again.
INDEX_VERSION = 4
# Since then pictures have study keys of their own kind.
_PICTURE_KEYS_SINCE = 4


# Beside what is known of so many files, an engine is not opened too: each takes its memory when the other has gone.
_MANY_FILES = 1_000_000


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


@dataclass(frozen=True, slots=True)
class Index:
    """How the files of an order are indexed.

    `judge` sees what was read of each new or changed file before the ledger does. With `reread_refused`, files
    that were refused are read again, too. With pseudonyms, the ledger is told of nobody's identity. `postponed`:
    files that are not tried each time, where the same process looks again and again. `on_news` is called
    before each new or changed file is read, unless a million files are known.
    """

    order: Order
    judge: Judge = _accept
    reread_refused: bool = False
    postponed: Postponed | None = None
    on_news: Callable[[], object] = lambda: None

    @property
    def root(self) -> Path:
        """The folder that the paths of files begin at."""
        return self.order.source.folder

    def kept(self, entry: IndexedFile) -> IndexedFile:
        """Return what the ledger may know of a file."""
        return self.order.pseudonyms.entry(entry) if self.order.pseudonyms else entry


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
    order = index.order
    trusts = order.settings.trust_folder_mtime
    known = KnownFiles(ledger.store, by_folder=trusts)
    rules, former_rules = index_rules(order.settings, order.pseudonyms), ledger.fact(INDEX_RULES)
    former_keys = _FormerKeys(index.root, ledger) if _version_of(former_rules) < _PICTURE_KEYS_SINCE else None
    progress.begin(INDEXED)
    on_met = partial(progress.advance, INDEXED)
    # Where every file is to be read anew, none is passed over with its folder.
    quiet = trusts and former_rules == rules and not index.reread_refused
    folders = FolderTable(ledger.store, known, trusts=quiet) if trusts else None
    met = Walk(order, known, folders=folders, postponed=index.postponed, on_met=on_met)
    read = deferred = 0
    changed = met.changed_files(reread=former_rules != rules, reread_refused=index.reread_refused)
    if len(known) < _MANY_FILES:
        changed = _announced(changed, index.on_news)
    for read_now in read_headers(index.root, changed, workers, order.settings):
        n_deferred = _record(index, ledger, [index.judge(entry) for entry in read_now], former_keys)
        read += len(read_now) - n_deferred
        deferred += n_deferred
    progress.finish(INDEXED)
    if not order.settings.input_emptied:
        met.refuse_emptied()
    ledger.remember(INDEX_RULES, rules)
    ledger.index.record_returned(met.returned)
    gone = met.gone()
    ledger.index.record_gone(gone)
    if folders is not None:
        folders.settle()
    total = len(known) + met.new
    account_for(ledger, total)
    if total >= _MANY_FILES:
        gc.collect()  # now, for the engine takes its memory next
    return IndexCount(met.met, read, deferred + met.postponed, len(gone), met.unlistable, total, met.hidden)


def _announced(files: Iterator[ImageFile], on_news: Callable[[], object]) -> Iterator[ImageFile]:
    for file in files:
        on_news()
        yield file


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
            return [deferred_for(indexed[0].file, error)]
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
