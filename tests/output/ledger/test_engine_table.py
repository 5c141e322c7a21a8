"""Each engine stands in the ledger once, and every result says all that it said before."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.errors import RunError
from cxrbatch.output.ledger import slices
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.ledger.schema import SCHEMA_VERSION
from cxrbatch.output.ledger.schema_growth import WITH_ENGINES
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import StudyRow
from cxrbatch.system.record_json import to_json
from tests.factories.ledgers import as_schema_6
from tests.output.ledger.test_ledger import ENGINE, finish_all, indexed

OTHER = replace(ENGINE, sha256="e2" * 32, notice="caf\udce9 \x7f")


def score(folder: Path, studies: int) -> list[StudyRow]:
    """Score studies with two engines, in turn, and return their rows."""
    with Ledger(folder) as ledger:
        for number in range(studies):
            ledger.index.record([indexed(f"{number}.dcm", f"s{number}")])
            finish_all(ledger, (ENGINE, OTHER)[number % 2])
        ledger.priors.settled(ledger.priors.due())
        return list(ledger.results.study_rows())


def engines_of(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / LEDGER_FILE)) as database:
        return [record for (record,) in database.execute("SELECT record FROM engines ORDER BY id")]


def inline_engines(folder: Path) -> int:
    """Return how many results hold their engine themselves."""
    query = "SELECT count(*) FROM studies WHERE json_type(result, '$.engine') = 'object'"
    with closing(sqlite3.connect(folder / LEDGER_FILE)) as database:
        return int(database.execute(query).fetchone()[0])


def test_results_of_two_engines_are_told_apart_and_hold_neither(tmp_path: Path) -> None:
    rows = score(tmp_path, 4)
    assert [row.result.engine for row in rows if row.result] == [ENGINE, OTHER, ENGINE, OTHER]
    assert engines_of(tmp_path) == [to_json(ENGINE), to_json(OTHER)]
    assert inline_engines(tmp_path) == 0


def test_an_engine_whose_transaction_is_rolled_back_gets_its_row_the_next_time(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.index.record([indexed("a.dcm", "s1")])
        ledger.store.guard = lambda: (_ for _ in ()).throw(OSError("gone")) if ledger.store._db.in_transaction else None
        with pytest.raises(OSError, match="gone"):
            finish_all(ledger)
        ledger.store.guard = lambda: None
        finish_all(ledger)
        (row,) = ledger.results.study_rows()
        assert row.result is not None
        assert row.result.engine == ENGINE


def test_a_result_without_its_engine_is_damage(tmp_path: Path) -> None:
    score(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as database:
        database.execute("DELETE FROM engines")
        database.commit()
    with Ledger(tmp_path) as ledger, pytest.raises(RunError, match="damaged"):
        list(ledger.results.study_rows())


# --------------------------------------------------------------------------- ledgers of schema 6


@pytest.fixture
def earlier(tmp_path: Path) -> tuple[Path, list[StudyRow]]:
    """A ledger of schema 6 with five studies, and what this version said of them."""
    rows = score(tmp_path, 5)
    with closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as database:
        as_schema_6(database)
    return tmp_path, rows


def test_a_ledger_of_schema_6_says_the_same_and_no_report_is_printed_again(
    earlier: tuple[Path, list[StudyRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = earlier
    monkeypatch.setattr(slices, "SLICE", 2)
    with Ledger(folder) as ledger:
        assert list(ledger.results.study_rows()) == rows
        assert ledger.priors.due() == []
        assert ledger.fact(WITH_ENGINES) == ""
        standings = list(ledger.store.rows("SELECT DISTINCT priority, strength FROM studies"))
        assert standings == [("urgent", 0.75)]
        # What changes from now on is noted again.
        ledger.index.record([indexed("6.dcm", "s6")])
        finish_all(ledger)
        assert ledger.priors.due() == ["P1"]
    assert inline_engines(folder) == 0
    assert engines_of(folder) == [to_json(ENGINE), to_json(OTHER)]


KILLED = """
import os, signal, sys
from pathlib import Path
from cxrbatch.output.ledger import slices
from cxrbatch.output.ledger.ledger import Ledger
slices.SLICE, real, seen = 2, slices.standing, []
def dying(result):
    seen.append(result)
    if len(seen) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(result)
slices.standing = dying
Ledger(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("nth", "left"), [(1, 5), (4, 3), (5, 1)])
def test_a_killed_migration_is_gone_on_with(earlier: tuple[Path, list[StudyRow]], nth: int, left: int) -> None:
    folder, rows = earlier
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(nth)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert inline_engines(folder) == left
    store = LedgerStore(folder / LEDGER_FILE)
    assert slices.move_engines(store) == left
    assert slices.move_engines(store) == 0
    # The trigger that one slice leaves out is there again.
    assert store.value("SELECT count(*) FROM sqlite_master WHERE name = 'study_changed'") == 1
    assert store.value("PRAGMA user_version") == SCHEMA_VERSION
    store.close()
    with Ledger(folder) as ledger:
        assert list(ledger.results.study_rows()) == rows


def test_a_damaged_result_stops_the_migration_and_says_so(earlier: tuple[Path, list[StudyRow]]) -> None:
    folder, _ = earlier
    with closing(sqlite3.connect(folder / LEDGER_FILE)) as database:
        database.execute("UPDATE studies SET result = '{\"x\": 1}' WHERE study_key = 's3'")
        database.commit()
    with pytest.raises(RunError, match="damaged"):
        Ledger(folder)
