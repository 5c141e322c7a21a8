"""Results as the ledger keeps them: the engine once for all, in a table of its own, and its number in each result.

What describes an engine is half of a result's text, and the same in a million of them. In the report folder each
`result.json` says all of it: that is what other programs read, and what the ledger can be made anew from.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import MISSING, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from cxrbatch.records import EngineDescription, StudyResult
from cxrbatch.system.record_json import from_json, to_json

if TYPE_CHECKING:
    from cxrbatch.output.ledger.store import LedgerStore


def _as_stored() -> type[Any]:
    """Return the record of what is stored: a result whose engine is a number, or, as in earlier versions, all of it."""
    hints = get_type_hints(StudyResult) | {"engine": int | EngineDescription}
    kept = []
    for each in fields(StudyResult):
        given = field() if each.default is MISSING else field(default=each.default)
        kept.append((each.name, hints[each.name], given))
    return make_dataclass("StoredResult", kept, frozen=True)


_STORED = _as_stored()
_NAMES = [each.name for each in fields(StudyResult)]


def _restored(text: str, engine_of: Callable[[int], EngineDescription]) -> StudyResult:
    stored = from_json(text, _STORED)
    engine = stored.engine if isinstance(stored.engine, EngineDescription) else engine_of(stored.engine)
    values: dict[str, Any] = {name: getattr(stored, name) for name in _NAMES}
    return StudyResult(**(values | {"engine": engine}))


def read_result_of(database: sqlite3.Connection, text: str) -> StudyResult:
    """Return the result of which `text` was made, from a ledger that others have open and this program only reads.

    Raises:
        ValueError: it is none.
        LookupError: its engine is not in the table.
    """

    def engine_of(number: int) -> EngineDescription:
        row = database.execute("SELECT record FROM engines WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise LookupError(f"no engine {number}")
        return from_json(row[0], EngineDescription)

    return _restored(text, engine_of)


class EngineTable:
    """The table `engines` of an open ledger, and the results whose engines are there."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._known: dict[int, EngineDescription] = {}

    def text(self, result: StudyResult) -> str:
        """Return, inside a transaction, what the ledger keeps of a result; a new engine gets its row."""
        values = {name: getattr(result, name) for name in _NAMES}
        return to_json(values | {"engine": self._number(result.engine)})

    def result(self, text: str) -> StudyResult:
        """Return the result of which `text` was made.

        Raises:
            ValueError: it is none.
            LookupError: its engine is not in the table.
        """
        return _restored(text, self._engine)

    def forget(self) -> None:
        """Forget what was read: a transaction was rolled back, perhaps with a row of the table."""
        self._known.clear()

    def _number(self, engine: EngineDescription) -> int:
        for number, known in self._known.items():
            if known is engine or known == engine:
                return number
        record = to_json(engine)
        self._store.execute("INSERT OR IGNORE INTO engines (record) VALUES (?)", (record,))
        number = int(self._store.value("SELECT id FROM engines WHERE record = ?", (record,)))
        self._known[number] = engine
        return number

    def _engine(self, number: int) -> EngineDescription:
        if number not in self._known:
            record = self._store.value("SELECT record FROM engines WHERE id = ?", (number,))
            if record is None:
                raise LookupError(f"no engine {number}")
            self._known[number] = from_json(record, EngineDescription)
        return self._known[number]
