"""Queueing again what another engine scored, what failed, and what lacks what is to be kept: a slice at a time.

A slice is one transaction of a few thousand studies. Whoever is killed between two leaves some studies queued and the
others as they were, which the next run finds as this one did. Start at `requeue`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cxrbatch.output.ledger.schema import BY_STUDY
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import now_text

SLICE = 2000
"""Studies of one transaction."""

WAITING = "status = 'pending', reason = '', message = ''"
"""What is set of a file that waits; what it was scored before stays in the ledger until the next result."""

# A study that failed is to be done again under the same revision, and counts one less until then.
REVISION_OF_RESULT = "revision = max(revision, coalesce(json_extract(result, '$.revision'), 0))"
_ALL_THERE = (
    "NOT EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key AND NOT present "
    "AND NOT refused_by_header)"
)
# Every query ends with the key behind which it goes on, and how many it is to return.
_BY_KEY = "AND study_key > ? ORDER BY study_key LIMIT ?"
_FAILED = f"SELECT study_key FROM studies WHERE status = 'failed' {_BY_KEY}"
_UNDRAWN = (
    "SELECT study_key FROM studies WHERE json_extract(result, '$.pictures') = 0 AND +status = 'reported' "
    f"AND +engine_sha256 = ? AND {_ALL_THERE} {_BY_KEY}"
)
_WITHOUT = {
    kept: "SELECT study_key FROM studies WHERE status = 'reported' AND +engine_sha256 = ? "
    f"AND NOT coalesce(json_extract(result, '$.keeps_{kept}'), 0) AND {_ALL_THERE} {_BY_KEY}"
    for kept in ("maps", "embeddings")
}
# One engine after the other, for there are few: then each is one range of an index.
_NEXT_ENGINE = "SELECT min(engine_sha256) FROM studies WHERE status = 'reported' AND engine_sha256 > ?"
_OF_ENGINE = (
    "SELECT study_key FROM studies INDEXED BY studies_by_engine WHERE status = 'reported' AND engine_sha256 = ? "
    f"AND {_ALL_THERE} {_BY_KEY}"
)
_AGAIN = "status = 'pending', queued_at = ?"
_AGAIN_AS_SAME_REVISION = f"{_AGAIN}, revision = max(revision - 1, 0)"

Told = Callable[[int], object]
"""Told, after each slice, how many more studies wait."""


def _untold(_: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Which studies are to be done again.

    All that other engines than this scored; with `retry_failed`, what failed; with `draws`, what this one scored
    without pictures.
    """

    engine_sha256: str
    retry_failed: bool = True
    draws: bool = True


def requeue(store: LedgerStore, wish: Requeue, told: Told = _untold) -> None:
    """Queue studies again, as far as all of each is still there."""
    if wish.draws:
        # Its scores are the same: it stays the same revision.
        _in_slices(store, _UNDRAWN, (wish.engine_sha256,), _AGAIN_AS_SAME_REVISION, told)
    if wish.retry_failed:
        _in_slices(store, _FAILED, (), _AGAIN, told)
    for engine_sha256 in _engines(store):
        if engine_sha256 != wish.engine_sha256:
            _in_slices(store, _OF_ENGINE, (engine_sha256,), _AGAIN, told)


def requeue_without(
    store: LedgerStore, kept: Literal["maps", "embeddings"], engine_sha256: str, told: Told = _untold
) -> None:
    """Queue what this engine scored and kept none of these of, under the same revision; looks at every result."""
    _in_slices(store, _WITHOUT[kept], (engine_sha256,), _AGAIN_AS_SAME_REVISION, told)


def _engines(store: LedgerStore) -> Iterator[str]:
    """Yield the engines of which there are reports."""
    engine_sha256 = "" if store.value("SELECT 1 FROM studies WHERE status = 'reported' LIMIT 1") else None
    empty = store.value("SELECT 1 FROM studies WHERE status = 'reported' AND engine_sha256 = '' LIMIT 1")
    if empty:
        yield ""
    while engine_sha256 is not None:
        engine_sha256 = store.value(_NEXT_ENGINE, (engine_sha256,))
        if engine_sha256 is not None:
            yield str(engine_sha256)


def _in_slices(store: LedgerStore, query: str, parameters: tuple[str, ...], change: str, told: Told) -> None:
    after = ""
    while True:
        keys = [key for (key,) in store.rows(query, (*parameters, after, SLICE))]
        if not keys:
            return
        with store.transaction():
            _queue(store, keys, change)
        told(len(keys))
        after = keys[-1]


def _queue(store: LedgerStore, keys: Iterable[str], change: str) -> None:
    now = now_text()
    for key in keys:
        store.execute(f"UPDATE studies SET {change} WHERE study_key = ?", (now, key))
        store.execute(
            f"UPDATE files SET {WAITING} WHERE present AND NOT refused_by_header AND {BY_STUDY} != 'pending' "
            "AND study_key = ?",
            (key,),
        )
