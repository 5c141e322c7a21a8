"""Which studies have an earlier one of the same patient in this ledger, told without naming anybody.

Whose study is of what day stands in the table `visits`, who that is as a number of 64 bits; it is written when the
worklist is. A patient is who has the same ID, issuer and date of birth: what stands for "unknown" in a clinic is not
one person. The first image of a study that names its patient speaks for it; one without a date counts as made when it
came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cxrbatch.output.ledger.store import LedgerStore

# Several paths in one call: SQLite reads a header once. A de-identified header has hashes in the place of names.
_WHO = (
    "json_extract(header, '$.patient_id', '$.patient_id_issuer', '$.patient_birth_date', "
    "'$.identity.patient_id', '$.identity.issuer', '$.identity.birth_date')"
)
_HAS_ID = (
    "coalesce(json_extract(header, '$.patient_id'), '') || coalesce(json_extract(header, '$.identity.patient_id'), '')"
)
_QUERY = (
    f"SELECT files.study_key, {_WHO}, coalesce(json_extract(header, '$.study_date'), ''), arrived_at "
    f"FROM files JOIN studies ON studies.study_key = files.study_key WHERE {_HAS_ID} != ''"
)
_OF_STUDY = f"{_QUERY} AND files.study_key = ? ORDER BY path LIMIT 1"
_EARLIEST = "SELECT min(day) FROM visits WHERE patient = ?"


@dataclass(frozen=True, slots=True)
class WithPrior:
    """The keys of the studies of whose patient there is one of an earlier day, as `visits` has them."""

    store: LedgerStore

    def __contains__(self, study_key: object) -> bool:
        query = (
            "SELECT 1 FROM visits AS own WHERE own.study_key = ? AND EXISTS "
            "(SELECT 1 FROM visits AS other WHERE other.patient = own.patient AND other.day < own.day)"
        )
        return self.store.value(query, (study_key,)) is not None


def write_visits(store: LedgerStore) -> None:
    """Write the table anew, in one transaction."""
    with store.transaction():
        store.execute("DELETE FROM visits")
        for visit in _visits(store, _QUERY, ()):
            # Of several images the first; files come by path.
            store.execute("INSERT OR IGNORE INTO visits VALUES (?, ?, ?)", visit)


def update_visits(store: LedgerStore, study_keys: Collection[str]) -> set[str]:
    """Bring the rows of some studies up to date.

    Returns:
        The keys of others that may have a prior study now, or none any more.
    """
    others: set[str] = set()
    with store.transaction():
        for key in study_keys:
            new = next(_visits(store, _OF_STUDY, (key,)), None)
            former = next(store.rows("SELECT study_key, patient, day FROM visits WHERE study_key = ?", (key,)), None)
            if new == former:
                continue
            patients = {visit[1] for visit in (new, former) if visit is not None}
            earliest = {patient: store.value(_EARLIEST, (patient,)) for patient in patients}
            store.execute("DELETE FROM visits WHERE study_key = ?", (key,))
            if new is not None:
                store.execute("INSERT INTO visits VALUES (?, ?, ?)", new)
            for patient, day in earliest.items():
                if store.value(_EARLIEST, (patient,)) != day:
                    rows = store.rows("SELECT study_key FROM visits WHERE patient = ?", (patient,))
                    others.update(other for (other,) in rows)
    return others - set(study_keys)


def forget_visits(store: LedgerStore) -> None:
    """Forget, inside a transaction, whose studies these are: patients get other names, and all is derived anew."""
    store.execute("DELETE FROM visits")


def _visits(store: LedgerStore, query: str, parameters: tuple[str, ...]) -> Iterator[tuple[str, int, str]]:
    for study_key, who, date, arrived_at in store.rows(query, parameters):
        is_date = len(date) == 8 and date.isascii() and date.isdigit()
        digest = hashlib.blake2b(who.encode(), digest_size=8).digest()
        patient = int.from_bytes(digest, "big", signed=True)
        yield study_key, patient, date if is_date else str(arrived_at)[:10].replace("-", "")
