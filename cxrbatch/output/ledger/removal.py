"""Report folders that are to go, as the ledger orders it: in the same transaction as the rows go, and until it is done.

A report folder of which the ledger has no row may be one that was finished just before a crash. Only an order tells
that from one that was meant to go.
"""

from __future__ import annotations

from cxrbatch.output.ledger.store import LedgerStore

_ORDER = "remove/"


def order_removal(store: LedgerStore, study_key: str) -> None:
    """Order, inside a transaction, that the study's report folder goes."""
    store.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, '')", (_ORDER + study_key,))


def ordered_removals(store: LedgerStore) -> list[str]:
    """Return the keys of the studies whose report folders are to go."""
    rows = store.rows("SELECT key FROM meta WHERE key >= ? AND key < ? ORDER BY key", (_ORDER, _ORDER + "~"))
    return [key.removeprefix(_ORDER) for (key,) in rows]


def removals_done(store: LedgerStore, study_keys: list[str]) -> None:
    """Forget the orders: the folders are gone."""
    if not study_keys:
        return
    with store.transaction():
        for study_key in study_keys:
            store.execute("DELETE FROM meta WHERE key = ?", (_ORDER + study_key,))
