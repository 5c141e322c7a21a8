"""What goes into ledgers and what they hold, past their own code; and those of earlier versions, made of this one's."""

from __future__ import annotations

import json
import sqlite3

from cxrbatch.errors import Reason
from cxrbatch.records import Header, ImageFile, IndexedFile, Rejection, StudyResult
from cxrbatch.system.record_json import from_json

_COMES_AFTER_6 = {
    "index": (
        *("studies_by_reading", "studies_by_report", "files_by_scoring", "files_by_walk"),
        "files_unlike_training",
    ),
    "table": ("shards", "folders", "changed_files", "changed_studies"),
}


def as_schema_6(database: sqlite3.Connection) -> None:
    """Turn a ledger into what schema 6 knew: every result with its engine, and nothing that came later."""
    triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        database.execute(f"DROP TRIGGER {name}")
    engines = {number: json.loads(record) for number, record in database.execute("SELECT id, record FROM engines")}
    for key, text in database.execute("SELECT study_key, result FROM studies WHERE result IS NOT NULL").fetchall():
        result = json.loads(text)
        result["engine"] = engines[result["engine"]]
        whole = json.dumps(result, separators=(",", ":"))
        database.execute("UPDATE studies SET result = ? WHERE study_key = ?", (whole, key))
    for kind, names in _COMES_AFTER_6.items():
        for name in names:
            database.execute(f"DROP {kind} {name}")
    database.execute("DROP TABLE engines")
    for column in ("priority", "strength"):
        database.execute(f"ALTER TABLE studies DROP COLUMN {column}")
    database.execute("CREATE INDEX studies_with_result ON studies (study_key) WHERE result IS NOT NULL")
    for _, statement in triggers:
        if "changed_" not in statement:
            database.execute(statement)
    database.execute("PRAGMA user_version = 6")
    database.commit()


def indexed_file(path: str, size: int = 1, *, key: str = "study", reason: Reason | None = None) -> IndexedFile:
    """Return a file of a study as the index found it, or as it refused it."""
    rejection = Rejection(reason, "as it was read") if reason else None
    return IndexedFile(ImageFile(path, size, size), key, Header(), rejection=rejection)


def stored_result(database: sqlite3.Connection, text: str) -> StudyResult:
    """Return the result that a cell of `studies` holds."""
    result = json.loads(text)
    if isinstance(result["engine"], int):
        ((record,),) = database.execute("SELECT record FROM engines WHERE id = ?", (result["engine"],))
        result["engine"] = json.loads(record)
    return from_json(json.dumps(result), StudyResult)
