"""Studies in the orders of the worklist, read from indexes: by arrival, a part at a time, and what to read first."""

from __future__ import annotations

from collections.abc import Iterator

from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.standing import READING_ORDER
from cxrbatch.records import StudyRow

Place = tuple[str, str]
"""Where a study stands by arrival: when its first file was met, and its key."""

_IN_READING_ORDER = (
    "SELECT study_key FROM studies WHERE priority = ? "
    "ORDER BY (status != 'failed'), strength DESC, (arrived_at = ''), arrived_at, study_key LIMIT ?"
)


def studies_between(ledger: Ledger, first: Place, before: Place | None) -> Iterator[StudyRow]:
    """Yield the studies from one place by arrival on, up to another one that is not among them; None: to the end."""
    which = "INDEXED BY studies_by_arrival WHERE (arrived_at, study_key) >= (?, ?)"
    end, until = ("", ()) if before is None else (" AND (arrived_at, study_key) < (?, ?)", before)
    return ledger.results.select_studies(f"{which}{end} ORDER BY arrived_at, study_key", (*first, *until))


def first_to_read(ledger: Ledger, limit: int) -> Iterator[StudyRow]:
    """Yield so many studies, what is to be read first first."""
    left = limit
    for priority in READING_ORDER:
        keys = [key for (key,) in ledger.store.rows(_IN_READING_ORDER, (priority, left))]
        left -= len(keys)
        for key in keys:
            yield from ledger.results.study_rows(key)
        if not left:
            return
