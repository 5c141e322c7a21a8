"""The ledger's schema: earlier ones are migrated whole, newer ones refused, and no query reads a table per row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.errors import Reason, RunError
from cxrbatch.output.ledger import schema as ledger_schema
from cxrbatch.output.ledger.known import KnownFiles
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.ledger.old_studies import reported_before
from cxrbatch.output.ledger.recent import read_recent
from cxrbatch.output.ledger.schema import SCHEMA_VERSION
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import Header, ImageFile, RefusedImage
from cxrbatch.system.record_json import to_json
from tests.output.ledger.test_ledger import ENGINE, finish_all, indexed, printed, start_ledger

# As cxrbatch wrote it before the ledger had migrations.
SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    path BLOB PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    study_key TEXT NOT NULL,
    present INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    refused_by_header INTEGER NOT NULL,
    header TEXT NOT NULL,
    flags TEXT NOT NULL,
    engine TEXT NOT NULL DEFAULT '',
    engine_sha256 TEXT NOT NULL DEFAULT '',
    backend TEXT NOT NULL DEFAULT '',
    precision TEXT NOT NULL DEFAULT '',
    probabilities TEXT NOT NULL DEFAULT '[]',
    scored_at TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX files_by_study ON files (study_key, path);
CREATE INDEX files_by_status ON files (status);
CREATE TABLE studies (
    study_key TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    engine_sha256 TEXT NOT NULL DEFAULT '',
    report_html TEXT NOT NULL DEFAULT '',
    report_pdf TEXT NOT NULL DEFAULT '',
    reported_at TEXT NOT NULL DEFAULT '',
    result TEXT
) WITHOUT ROWID;
CREATE INDEX studies_by_status ON studies (status, study_key);
PRAGMA user_version = 1;
"""


def write_schema_1(folder: Path) -> None:
    """Leave the ledger of a run of schema 1: one study reported, one waiting, one file refused."""
    database = sqlite3.connect(folder / LEDGER_FILE)
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(SCHEMA_1)
    header = to_json(Header(patient_id="P1"))
    file = "INSERT INTO files (path, size_bytes, mtime_ns, study_key, status, reason, refused_by_header, header, flags)"
    for path, key, status, reason in (
        (b"a.dcm", "s1", "scored", ""),
        (b"b.dcm", "s2", "pending", ""),
        (b"c.txt", "", "rejected", "not_an_image"),
    ):
        values = (path, 100, 5, key, status, reason, bool(reason), header, "[]")
        database.execute(f"{file} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    database.execute(
        "INSERT INTO studies (study_key, status, revision, engine_sha256) VALUES ('s1', 'reported', 3, ?)",
        (ENGINE.sha256,),
    )
    database.execute("INSERT INTO studies (study_key, status) VALUES ('s2', 'pending')")
    database.execute("INSERT INTO meta VALUES ('input', '/pacs')")
    database.commit()
    database.close()


def shape(folder: Path) -> list[tuple[Any, ...]]:
    """Return every table's columns and every index of the ledger in `folder`."""
    database = sqlite3.connect(folder / LEDGER_FILE)
    columns = [
        (table, *column)
        for table in ("meta", "files", "studies")
        for column in database.execute(f"PRAGMA table_info({table})")
    ]
    indexes = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql != '' ORDER BY name")
    found = [*columns, *((name, " ".join(sql.split())) for name, sql in indexes)]
    version = database.execute("PRAGMA user_version").fetchone()
    database.close()
    return [*found, version]


def test_a_ledger_of_schema_1_is_migrated_and_keeps_everything(tmp_path: Path) -> None:
    write_schema_1(tmp_path)
    with Ledger(tmp_path) as ledger:
        assert {row.path: row.status for row in ledger.results.file_rows()} == {
            "a.dcm": "scored",
            "b.dcm": "pending",
            "c.txt": "rejected",
        }
        assert [(row.study_key, row.status, row.revision) for row in ledger.results.study_rows()] == [
            ("s1", "reported", 3),
            ("s2", "pending", 0),
        ]
        assert ledger.fact("input") == "/pacs"
        waiting, oldest = ledger.queue.waiting()
        assert waiting == 1
        assert len(oldest) == len("2026-01-01T00:00:00+00:00")
        assert oldest.endswith("+00:00")
        assert finish_all(ledger) == ["s2"]


def test_a_migrated_ledger_is_shaped_like_a_new_one(tmp_path: Path) -> None:
    for name in ("former", "new"):
        (tmp_path / name).mkdir()
    write_schema_1(tmp_path / "former")
    start_ledger(tmp_path / "former")
    start_ledger(tmp_path / "new")
    assert shape(tmp_path / "former") == shape(tmp_path / "new")


def test_a_migration_that_is_cut_short_leaves_the_former_schema_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_schema_1(tmp_path)
    before = shape(tmp_path)
    with monkeypatch.context() as patched:
        broken = ledger_schema.MIGRATIONS[1] + "INSERT INTO nowhere VALUES (1);"
        patched.setitem(ledger_schema.MIGRATIONS, 1, broken)
        with pytest.raises(RunError):
            Ledger(tmp_path)
    assert shape(tmp_path) == before
    with Ledger(tmp_path) as ledger:
        assert ledger.queue.waiting()[0] == 1


def test_a_ledger_of_an_early_schema_7_gets_the_indexes_that_it_lacks(tmp_path: Path) -> None:
    for name in ("former", "new"):
        (tmp_path / name).mkdir()
        start_ledger(tmp_path / name)
    database = sqlite3.connect(tmp_path / "former" / LEDGER_FILE)
    for index in ("studies_by_report", "files_by_walk", "files_unlike_training"):
        database.execute(f"DROP INDEX {index}")
    database.execute("PRAGMA user_version = 7")
    database.close()
    with Ledger(tmp_path / "former"):
        pass
    assert shape(tmp_path / "former") == shape(tmp_path / "new")


def test_every_schema_leads_to_the_next() -> None:
    assert sorted(ledger_schema.MIGRATIONS) == list(range(1, SCHEMA_VERSION))


def test_a_newer_ledger_is_refused_and_not_touched(tmp_path: Path) -> None:
    write_schema_1(tmp_path)
    database = sqlite3.connect(tmp_path / LEDGER_FILE)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    before = (tmp_path / LEDGER_FILE).read_bytes()
    with pytest.raises(RunError, match="newer cxrbatch"):
        Ledger(tmp_path)
    assert (tmp_path / LEDGER_FILE).read_bytes() == before


# --------------------------------------------------------------------------- how long studies wait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The time that the ledger reads; change its only entry."""
    time = ["2026-01-01T00:00:00+00:00"]
    for module in ("queue", "requeue"):
        monkeypatch.setattr(f"cxrbatch.output.ledger.{module}.now_text", lambda: time[0])
    return time


def test_the_queue_tells_how_many_wait_and_since_when(tmp_path: Path, clock: list[str]) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.queue.waiting() == (0, "")
        ledger.index.record([indexed("a.dcm", "s1")])
        clock[0] = "2026-01-02T00:00:00+00:00"
        ledger.index.record([indexed("b.dcm", "s2"), indexed("notes.txt", "", refused=Reason.NOT_AN_IMAGE)])
        assert ledger.queue.waiting() == (2, "2026-01-01T00:00:00+00:00")
        (first, second) = ledger.queue.take(ledger.queue.pending_keys())
        ledger.results.record(printed(first))
        assert ledger.queue.waiting() == (1, "2026-01-02T00:00:00+00:00")
        ledger.results.record(printed(second))
        assert ledger.queue.waiting() == (0, "")


def test_a_study_that_grows_while_it_waits_has_waited_since_its_first_image(tmp_path: Path, clock: list[str]) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.index.record([indexed("a.dcm", "s1")])
        clock[0] = "2026-01-02T00:00:00+00:00"
        ledger.index.record([indexed("b.dcm", "s1")])
        assert ledger.queue.waiting() == (1, "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize("how", ["late image", "failed", "another engine"])
def test_a_study_queued_again_waits_from_then_on(tmp_path: Path, clock: list[str], how: str) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.index.record([indexed("a.dcm", "s1")])
        (task,) = ledger.queue.take(ledger.queue.pending_keys())
        ledger.results.record(printed(task), failure="no space" if how == "failed" else "")
        clock[0] = "2026-01-02T00:00:00+00:00"
        if how == "late image":
            ledger.index.record([indexed("b.dcm", "s1")])
        ledger.queue.requeue(engine_sha256="e2" * 32 if how == "another engine" else ENGINE.sha256)
        assert ledger.queue.waiting() == (1, "2026-01-02T00:00:00+00:00")


# --------------------------------------------------------------------------- what queries read


def per_file_and_study(ledger: Ledger) -> None:
    """Do everything that happens once per file or study."""
    ledger.index.record([indexed("a.dcm"), indexed("b.dcm"), indexed("l.dcm", refused=Reason.NOT_FRONTAL)])
    ledger.index.record([indexed("a.dcm", "s2", mtime_ns=6)])
    ledger.index.record_deferred(ImageFile("locked.dcm", 1, 1), "no permission")
    for task in list(ledger.queue.take(ledger.queue.pending_keys())):
        ledger.results.record(printed(task))
        ledger.results.record_printed(printed(task))
        assert list(ledger.results.study_rows(task.study_key))
    ledger.results.record_unscored("s2", [RefusedImage("a.dcm", "rejected", "blank", "black")])
    ledger.results.record_unscored("s1", [], failure="no such file")


def per_pass(ledger: Ledger) -> None:
    """Do everything that happens once per pass but has little to do with most rows."""
    ledger.index.record_gone(["a.dcm"])
    ledger.index.record_returned(["a.dcm"])
    ledger.queue.requeue(engine_sha256="e2" * 32)
    ledger.results.count_files()
    ledger.results.count_reasons()
    ledger.results.count_studies()
    ledger.results.failures()
    ledger.results.count_unlike_training("e1" * 32)
    KnownFiles(ledger.store)
    ledger.results.keys_with_report()
    list(ledger.results.reported_since("2026-01-01T00:00:00+00:00"))
    reported_before(ledger.store, "2026-01-01T00:00:00+00:00")
    read_recent(ledger.store, "e1" * 32, "2026-01-01T00:00:00+00:00")
    ledger.queue.waiting()
    ledger.fact("input")
    ledger.remember("input", "/pacs")


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Ledger], None]], Iterable[str]]:
    """Return what SQLite plans for every distinct statement that some work on a ledger runs."""

    def of(work: Callable[[Ledger], None]) -> Iterable[str]:
        seen: dict[str, tuple[Any, ...]] = {}
        execute, rows = LedgerStore.execute, LedgerStore.rows

        def noting_execute(store: LedgerStore, statement: str, parameters: tuple[Any, ...] = ()) -> None:
            seen[statement] = parameters
            execute(store, statement, parameters)

        def noting_rows(store: LedgerStore, query: str, parameters: tuple[Any, ...] = ()) -> Any:
            seen[query] = parameters
            return rows(store, query, parameters)

        with Ledger(tmp_path) as ledger, monkeypatch.context() as patched:
            patched.setattr(LedgerStore, "execute", noting_execute)
            patched.setattr(LedgerStore, "rows", noting_rows)
            work(ledger)
        database = sqlite3.connect(tmp_path / LEDGER_FILE)
        planned = [
            f"{step[3]}: {statement}"
            for statement, parameters in seen.items()
            if statement.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}
            for step in database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
        database.close()
        return planned

    return of


def test_what_is_done_per_file_and_study_reads_no_table_and_sorts_nothing(
    plans: Callable[[Callable[[Ledger], None]], Iterable[str]],
) -> None:
    planned = list(plans(per_file_and_study))
    assert len(planned) > 10
    assert [step for step in planned if step.startswith(("SCAN files", "SCAN studies"))] == []
    assert [step for step in planned if "TEMP B-TREE" in step] == []
    # An index on what most rows have in common is a table under another name.
    assert [step for step in planned if "files_by_status" in step.partition(":")[0]] == []


def test_what_is_done_per_pass_reads_indexes_only(
    plans: Callable[[Callable[[Ledger], None]], Iterable[str]],
) -> None:
    planned = list(plans(per_pass))
    assert len(planned) > 10
    scans = [step for step in planned if step.startswith(("SCAN files", "SCAN studies"))]
    assert [step for step in scans if "INDEX" not in step] == []
    # Most files of an archive are scored: a count of some of them that looks each one up reads the table.
    of_all = [step for step in planned if "SELECT path, size_bytes" in step or "distance > 1" in step]
    assert len(of_all) == 2
    assert [step for step in of_all if "COVERING INDEX" not in step] == []
    # Asked once for every study that waits.
    asked = [step for step in planned if step.startswith("SEARCH files") and "EXISTS" in step]
    assert asked
    assert [step for step in asked if "files_by_study (study_key=?" not in step] == []


def test_rows_that_nobody_read_to_the_end_complain_of_nothing_once_the_ledger_is_closed(tmp_path: Path) -> None:
    store = LedgerStore(tmp_path / "ledger.sqlite")
    for number in range(500):
        store.execute("INSERT INTO meta (key, value) VALUES (?, '')", (f"{number:03}",))
    rows = store.rows("SELECT key FROM meta ORDER BY key")
    assert next(rows) == ("000",)
    store.close()
    del rows  # what its end complains of is a warning, and so an error here
