"""The ledger, the one source of truth of an output folder. Start at `Ledger`.

A file is one row under its path; a study is one row under its key. The ledger is also the queue: a study is `pending`
until the transaction that records its result commits, and keeps what an earlier revision said until then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cxrbatch.output.folder.place import HeldOutput
from cxrbatch.output.ledger.arrivals import ArrivalTable
from cxrbatch.output.ledger.changes import Changes
from cxrbatch.output.ledger.index import FileIndex
from cxrbatch.output.ledger.priors import Priors
from cxrbatch.output.ledger.queue import StudyQueue
from cxrbatch.output.ledger.results import StudyResults
from cxrbatch.output.ledger.slices import move_engines
from cxrbatch.output.ledger.store import LedgerStore, storable
from cxrbatch.system.record_json import from_json

LEDGER_FILE = "ledger.sqlite"
INPUT, INPUT_SHA256, ENGINE = "input", "input_sha256", "engine"
# Whether nothing here names a patient: "yes"; CONVERTING where that was asked for and is not done yet; or "".
DEIDENTIFIED, CONVERTING = "deidentified", "converting"
# What is kept of every study beside its report, with spaces between: MAPS where the last run kept its activation maps,
# EMBEDDINGS where it kept its embeddings, or "".
KEEPS, MAPS, EMBEDDINGS = "keeps", "maps", "embeddings"
# The language of its worklist and of its sheets; of a report, how it was printed last.
LOCALE = "locale"
# What keeps a daemon from work, in words; when it last tried again what failed.
TROUBLE, RETRIED = "trouble", "retried"


@dataclass(frozen=True, slots=True)
class _Identity:
    """What tells one engine from another."""

    sha256: str = ""


class Ledger:
    """What is known of every file and study of one output folder.

    `index` is what the walk met, `queue` the studies that wait, `results` what became of them, `arrivals` the files
    that a daemon saw coming: each a view of the one database, `store`. `home` is the output folder as this process
    holds it.
    """

    def __init__(
        self, folder: Path, *, home: HeldOutput | None = None, may_be_empty: Callable[[], bool] = lambda: True
    ) -> None:
        """Open the ledger that lies in `folder`, or start one; it errs as `LedgerStore` does.

        Args:
            folder: where it lies.
            home: the output folder that it is of, by default `folder` itself; once something of it is not where it
                was, nothing is recorded any more.
            may_be_empty: as for `LedgerStore`.
        """
        self.folder, self.home = folder, home or HeldOutput(folder)
        self.store = LedgerStore(folder / LEDGER_FILE, may_be_empty=may_be_empty)
        self.store.guard = self.home.check
        self.queue = StudyQueue(self.store)
        self.index = FileIndex(self.store, self.queue)
        self.results = StudyResults(self.store)
        self.priors = Priors(self.store)
        self.arrivals = ArrivalTable(self.store)
        self.changes = Changes(self.store)
        try:
            move_engines(self.store)
        except BaseException:
            self.store.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def fact(self, key: str) -> str:
        """Return what was remembered about this output folder under `key`, or an empty string."""
        return str(self.store.value("SELECT value FROM meta WHERE key = ?", (key,)) or "")

    @property
    def engine_sha256(self) -> str:
        """The identity of the engine that scored for this output folder last; '' where none did."""
        try:
            return from_json(self.fact(ENGINE) or "{}", _Identity).sha256
        except ValueError:
            return ""

    def remember(self, key: str, value: str, *, durable: bool = False) -> None:
        """Keep a fact about this output folder; what is known already is not written again."""
        if self.store.value("SELECT value FROM meta WHERE key = ?", (key,)) == storable(value):
            return
        with self.store.transaction(durable=durable):
            self.store.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, storable(value)))
