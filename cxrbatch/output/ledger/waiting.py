"""What a ledger says of studies that wait, for whoever asks why; read only, also of an earlier schema."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from cxrbatch.output.ledger.arrivals import MEMORY, ArrivalMemory
from cxrbatch.system.record_json import from_json

TROUBLE = "trouble"
RETRIED = "retried"

_STUDIES = """
SELECT studies.study_key, count(files.path), count(arrivals.path), coalesce(sum(arrivals.cut_short), 0),
    min(arrivals.first_met), max(arrivals.same_since)
FROM studies
LEFT JOIN files ON files.study_key = studies.study_key AND files.present AND +files.status = 'pending'
LEFT JOIN arrivals ON arrivals.path = files.path
WHERE studies.status = 'pending' GROUP BY studies.study_key
"""
_WITHOUT_ARRIVALS = """
SELECT study_key, 0, 0, 0, NULL, NULL FROM studies WHERE status = 'pending' ORDER BY study_key
"""
# Files of which nobody can tell yet to which study they belong, if they are images at all.
_WITHOUT_STUDY = """
SELECT count(*), min(first_met), max(same_since) FROM arrivals JOIN files ON files.path = arrivals.path
WHERE held_back AND files.present AND files.study_key = ''
"""


@dataclass(frozen=True, slots=True)
class WaitingStudy:
    """A study that waits: its files that wait, how many of these were seen arriving, how many end too early.

    `first_met` and `same_since` are of the file met first, and of the one that changed last, on the clock of the
    memory's `seen`; None where no file was seen arriving. Without a key: files that belong to no study yet.
    """

    study_key: str
    n_files: int = 0
    n_arriving: int = 0
    n_cut_short: int = 0
    first_met: float | None = None
    same_since: float | None = None


@dataclass(frozen=True, slots=True)
class WaitingFacts:
    """The studies that wait, by key; how the daemon waits; when it last retried (JSON); what keeps it from work."""

    studies: tuple[WaitingStudy, ...] = ()
    memory: ArrivalMemory | None = None
    retried: str = ""
    trouble: str = ""


def read_waiting(database: sqlite3.Connection) -> WaitingFacts:
    """Read what there is to say of studies that wait."""
    facts = dict(database.execute("SELECT key, value FROM meta WHERE key IN (?, ?, ?)", (MEMORY, RETRIED, TROUBLE)))
    has_arrivals = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'arrivals'").fetchone()
    studies = [WaitingStudy(*row) for row in database.execute(_STUDIES if has_arrivals else _WITHOUT_ARRIVALS)]
    if has_arrivals:
        n_files, first_met, same_since = database.execute(_WITHOUT_STUDY).fetchone()
        if n_files:
            studies.append(WaitingStudy("", n_files, n_files, 0, first_met, same_since))
    return WaitingFacts(tuple(studies), _memory(facts.get(MEMORY, "")), facts.get(RETRIED, ""), facts.get(TROUBLE, ""))


def _memory(text: str) -> ArrivalMemory | None:
    try:
        return from_json(text, ArrivalMemory) if text else None
    except ValueError:
        return None
