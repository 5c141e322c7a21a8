"""Studies that an engine scored lately, as their first scored image tells: what drift is measured on."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from cxrbatch.intake.patient import age_years
from cxrbatch.output.drift import StudyFacts
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import Header

RECENT_DAYS = 30
LONGEST_RUN_HOURS = 24
"""A daemon works for months: of what it did, the last day counts as its run."""


MOST_IMAGES = 200_000
"""Of more images than this a share of the studies stands for all, so that memory stays bounded."""

_KEYS = 16**16
# Named: of all files that were ever scored, only those of these days are looked at.
_SCORED = "FROM files INDEXED BY files_by_scoring WHERE status = 'scored' AND engine_sha256 = ? AND scored_at >= ?"


def run_since(started_at: str) -> str:
    """Return from when on studies count as those of the run that began then (UTC, as `now_text`)."""
    day_ago = datetime.now(timezone.utc) - timedelta(hours=LONGEST_RUN_HOURS)
    return max(started_at, day_ago.isoformat(timespec="seconds"))


def read_recent(store: LedgerStore, engine_sha256: str, since: str) -> tuple[list[StudyFacts], list[StudyFacts]]:
    """Return the studies that this engine scored from `since` on, and those of the 30 days before.

    Images of one study are alike, and would count as if they were many: its first one speaks for it.
    """
    begin = (datetime.fromisoformat(since) - timedelta(days=RECENT_DAYS)).isoformat(timespec="seconds")
    now: list[StudyFacts] = []
    recent: list[StudyFacts] = []
    seen: set[str] = set()
    rows = store.rows(
        "SELECT study_key, probabilities, grey, header, scored_at FROM files "
        f"WHERE path IN (SELECT path {_SCORED} AND study_key <= ?) ORDER BY path",
        (engine_sha256, begin, _last_key(store, engine_sha256, begin)),
    )
    for study_key, probabilities, grey, encoded, scored_at in rows:
        if study_key in seen:
            continue
        seen.add(study_key)
        header = store.parse(encoded, Header)
        scores = store.parse(probabilities, tuple[float, ...])
        facts = StudyFacts(scores, grey, header.view, age_years(header), header.scanner)
        (now if scored_at >= since else recent).append(facts)
    return now, recent


def _last_key(store: LedgerStore, engine_sha256: str, begin: str) -> str:
    """Return the last study key that is looked at: keys are digests, so those up to one are as good as drawn."""
    images = int(store.value(f"SELECT count(*) {_SCORED}", (engine_sha256, begin)) or 0)
    return f"{min(_KEYS - 1, _KEYS * MOST_IMAGES // max(1, images)):016x}"
