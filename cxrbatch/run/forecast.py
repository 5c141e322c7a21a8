"""What a run would do, without doing it (`run --dry-run`): start at `foresee_run`.

The real index runs on a copy of the ledger, which is thrown away; so nothing is said here that a run would decide
otherwise. Headers are read, no pixels: what only they tell, such as a blank image, the run itself finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cxrbatch.config import Settings
from cxrbatch.output.folder.state import find_state
from cxrbatch.output.ledger.index import KnownFile
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.ledger.view import copy_ledger
from cxrbatch.records import EngineDescription
from cxrbatch.run.deidentification import KEY_FILE, Pseudonyms, open_pseudonyms
from cxrbatch.run.deidentified_output import check_names
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.index import Index, IndexCount, index_input
from cxrbatch.run.kept import check_kept, requeue_unkept
from cxrbatch.run.own_pages import pages_by
from cxrbatch.run.print import check_printing
from cxrbatch.run.processes import open_workers
from cxrbatch.run.source import Order, Source, check_folders, refuse_other_input
from cxrbatch.system.progress import RunProgress


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the next run would do.

    `files`: how many are new, changed, unchanged and gone. `refused`: new and changed ones, by reason, as far as their
    headers tell. `studies` would be scored, from `images`. `indexed` is what the walk met.
    """

    engine: EngineDescription
    files: dict[str, int]
    refused: dict[str, int]
    studies: int
    images: int
    indexed: IndexCount


def foresee_run(root: Path, out: Path, settings: Settings, progress: RunProgress, *, since_ns: int = 0) -> Forecast:
    """Return what `run_batch` would do with the same arguments; nothing is changed, also where a run holds `out`.

    Raises:
        RunError: the run could not begin; its subclasses tell why.
    """
    check_printing(settings)
    source = check_folders(root, out, settings.state)
    templates = pages_by(settings, progress.say)
    with templates, EngineSlot(settings) as engine, _copied_ledger(out, settings) as ledger:
        refuse_other_input(ledger, root)
        engine.stay_with(ledger.engine_sha256)
        before = ledger.index.known_files()
        indexed = _index(source, out, settings, ledger, progress)
        check_kept(settings, engine.description)
        requeue_unkept(ledger, settings, engine.description.sha256)
        ledger.queue.requeue(engine_sha256=engine.description.sha256, draws=settings.pictures)
        if settings.retry == "rejected":
            ledger.queue.requeue_unprinted()
        keys = ledger.queue.pending_keys(newest_first=settings.newest_first, since_ns=since_ns)
        keys = keys[: settings.limit or None]
        news = _news(before, ledger.index.known_files())
        refused = Counter(
            row.reason
            for row in ledger.results.file_rows()
            if row.status == "rejected" and news[row.path] in {"new", "changed"}
        )
        chosen = set(keys)
        images = sum(row.status == "pending" and row.study_key in chosen for row in ledger.results.file_rows())
        return Forecast(engine.description, _counted(news), dict(refused), len(keys), images, indexed)


@contextmanager
def _copied_ledger(out: Path, settings: Settings) -> Iterator[Ledger]:
    """Open a copy of the ledger of `out`, or a new one where there is none yet."""
    original = find_state(out, settings.state) / LEDGER_FILE
    with TemporaryDirectory(prefix="cxrbatch-") as scratch:
        if original.is_file():
            copy_ledger(original, Path(scratch) / LEDGER_FILE)
        with Ledger(Path(scratch)) as ledger:
            yield ledger


def _index(source: Source, out: Path, settings: Settings, ledger: Ledger, progress: RunProgress) -> IndexCount:
    reread = settings.retry == "rejected"
    pseudonyms = _pseudonyms(out, ledger, settings)
    index = Index(Order(source, out, settings, pseudonyms), reread_refused=reread)
    with open_workers(settings, prints=False) as workers:
        return index_input(index, ledger, workers, progress)


def _pseudonyms(out: Path, ledger: Ledger, settings: Settings) -> Pseudonyms | None:
    """Return the pseudonyms that `out` has; None where it has none yet, or none are asked for."""
    holds_names = check_names(out, ledger, settings)
    if not settings.deidentify or holds_names or not (out / KEY_FILE).exists():
        return None
    return open_pseudonyms(out)


def _news(before: dict[str, KnownFile], after: dict[str, KnownFile]) -> dict[str, str]:
    """Say of each file what is new about it; "" of one that was gone before."""
    return {path: _what_is_new(before.get(path), now) for path, now in after.items()}


def _what_is_new(before: KnownFile | None, now: KnownFile) -> str:
    if before is None:
        return "new"
    if not now.present:
        return "gone" if before.present else ""
    same = (before.size_bytes, before.mtime_ns) == (now.size_bytes, now.mtime_ns)
    return "unchanged" if same else "changed"


def _counted(news: dict[str, str]) -> dict[str, int]:
    counts = Counter(news.values())
    return {what: counts[what] for what in ("new", "changed", "unchanged", "gone")}
