"""Which studies have an earlier one of the same patient in this ledger, told without naming anybody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class _Seen:
    """The patients' earliest days, and each study's patient and day; who that is is a number of 64 bits."""

    earliest: dict[int, str] = field(default_factory=dict)
    studies: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, study_key: str, who: str, day: str) -> None:
        patient = int.from_bytes(hashlib.blake2b(who.encode(), digest_size=8).digest(), "big")
        self.studies.setdefault(study_key, (patient, day))
        self.earliest[patient] = min(day, self.earliest.get(patient, day))


def keys_with_prior(store: LedgerStore) -> set[str]:
    """Return the keys of all studies of whose patient there is one of an earlier day.

    A patient is who has the same ID, issuer and date of birth: what stands for "unknown" in a clinic is not one person.
    A study without a date counts as made when it came.
    """
    seen = _Seen()
    for study_key, who, date, arrived_at in store.rows(_QUERY):
        is_date = len(date) == 8 and date.isascii() and date.isdigit()
        seen.add(study_key, who, date if is_date else str(arrived_at)[:10].replace("-", ""))
    return {key for key, (patient, day) in seen.studies.items() if day > seen.earliest[patient]}
