"""Work over all studies of a ledger, a slice at a time: each in one transaction, and what was done stays done.

A ledger of an earlier version is brought to this one's form so (`move_engines`): a million results are rewritten, with
the memory and the journal of a few thousand. A process that is killed meanwhile is gone on with by the next one that
opens the ledger, where it was.
"""

from __future__ import annotations

from cxrbatch.output.ledger.schema import STUDY_CHANGED
from cxrbatch.output.ledger.schema_growth import WITH_ENGINES
from cxrbatch.output.ledger.standing import standing
from cxrbatch.output.ledger.store import LedgerStore

SLICE = 2000
"""Studies of one transaction."""

_NEXT = "SELECT study_key, result FROM studies WHERE study_key > ? AND result IS NOT NULL ORDER BY study_key LIMIT ?"


def move_engines(store: LedgerStore) -> int:
    """Take the engines out of the results of earlier versions, and give each study its standing; return how many.

    Raises:
        RunError: a result is damaged.
    """
    moved, after = 0, store.value("SELECT value FROM meta WHERE key = ?", (WITH_ENGINES,))
    while after is not None:
        after, count = _move_slice(store, str(after))
        moved += count
    return moved


def _move_slice(store: LedgerStore, after: str) -> tuple[str | None, int]:
    """Rewrite the results behind a key; return up to which that was done, None where there are no more."""
    with store.transaction():
        rows = list(store.rows(_NEXT, (after, SLICE)))
        # What a report says does not change: no report of an earlier study is to be printed again.
        store.execute("DROP TRIGGER study_changed")
        for key, text in rows:
            result = store.parse_result(text)
            store.execute(
                "UPDATE studies SET result = ?, priority = ?, strength = ? WHERE study_key = ?",
                (store.engines.text(result), *standing(result), key),
            )
        store.execute(STUDY_CHANGED)
        if len(rows) < SLICE:
            store.execute("DELETE FROM meta WHERE key = ?", (WITH_ENGINES,))
            return None, len(rows)
        store.execute("UPDATE meta SET value = ? WHERE key = ?", (rows[-1][0], WITH_ENGINES))
        return str(rows[-1][0]), len(rows)
