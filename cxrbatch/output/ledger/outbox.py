"""Urgent studies that somebody is to be told of, kept in the ledger so that nobody is told twice, or never.

A row of `meta` for each study: for which revision, and how far that is. It is written in the transaction that records
the study, so a kill loses none; it says `trying` while a message is on its way, and what a killed process was trying
may have been delivered, so it is not tried again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import StudyResult
from cxrbatch.system.record_json import from_json, to_json

ANNOUNCES = "announces"
"""The fact that says whether the last run told anybody of urgent studies."""

ATTEMPTS = 5
"""So often a message is tried before it is given up."""

_PREFIX = "notify/"
_BETWEEN = (_PREFIX, _PREFIX + "~")


@dataclass(frozen=True, slots=True)
class Announcement:
    """How far it is with telling of one study."""

    revision: int
    state: Literal["pending", "trying", "sent", "given up"] = "pending"
    attempts: int = 0


class Outbox:
    """The announcements of an open ledger."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store

    def announce(self, result: StudyResult) -> None:
        """Note, inside the transaction that records it, that somebody is to be told of an urgent study.

        A revision of which somebody was told, or will be, is no news.
        """
        if not self._store.value("SELECT value FROM meta WHERE key = ? AND value != ''", (ANNOUNCES,)):
            return
        if result.priority != "urgent":
            return
        known = self._store.value("SELECT value FROM meta WHERE key = ?", (_PREFIX + result.study_key,))
        if known is None or self._store.parse(known, Announcement).revision < result.revision:
            self._put(result.study_key, Announcement(result.revision))

    def pending(self, limit: int) -> list[tuple[str, Announcement]]:
        """Return the studies that nobody was told of yet, with their keys."""
        query = "SELECT key, value FROM meta WHERE key >= ? AND key < ? AND value LIKE '%\"pending\"%' LIMIT ?"
        return [
            (key.removeprefix(_PREFIX), self._store.parse(value, Announcement))
            for key, value in self._store.rows(query, (*_BETWEEN, limit))
        ]

    def note(self, announcements: Iterable[tuple[str, Announcement]]) -> None:
        """Note how far it is with these studies; from here on not even a power cut undoes it."""
        with self._store.transaction(durable=True):
            for study_key, announcement in announcements:
                self._put(study_key, announcement)

    def _put(self, study_key: str, announcement: Announcement) -> None:
        self._store.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_PREFIX + study_key, to_json(announcement))
        )


def forget_announcements(store: LedgerStore, study_key: str = "") -> None:
    """Forget, inside a transaction, of which studies somebody was told: of this one, or of all."""
    if study_key:
        store.execute("DELETE FROM meta WHERE key = ?", (_PREFIX + study_key,))
    else:
        store.execute("DELETE FROM meta WHERE key >= ? AND key < ?", _BETWEEN)


def as_told(text: str) -> list[str]:
    """Read what was last told of, a list in JSON; an empty one where nothing was."""
    try:
        return from_json(text or "[]", list[str])
    except ValueError:
        return []
