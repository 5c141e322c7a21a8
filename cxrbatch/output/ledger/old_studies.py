"""Studies that were reported some time ago: what `prune` goes by."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cxrbatch.output.ledger.store import LedgerStore


@dataclass(frozen=True, slots=True)
class OldStudy:
    """A study reported some time ago, its files, and whether the last walk met any of them."""

    study_key: str
    reported_at: str
    is_present: bool
    paths: tuple[str, ...]


def reported_before(store: LedgerStore, moment: str) -> list[OldStudy]:
    """Return the finished studies whose report is from before `moment` (UTC, as `now_text`), oldest first."""
    studies = store.rows(
        "SELECT study_key, reported_at FROM studies INDEXED BY studies_by_report "
        "WHERE status = 'reported' AND reported_at < ? AND reported_at != '' ORDER BY reported_at, study_key",
        (moment,),
    )
    return [_with_files(store, study_key, reported_at) for study_key, reported_at in studies]


def _with_files(store: LedgerStore, study_key: str, reported_at: str) -> OldStudy:
    files = list(store.rows("SELECT path, present FROM files WHERE study_key = ?", (study_key,)))
    paths = tuple(os.fsdecode(path) for path, _ in files)
    return OldStudy(study_key, reported_at, any(present for _, present in files), paths)
