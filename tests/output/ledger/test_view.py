"""Looking into a ledger: right while others write it, and without a trace."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cxrbatch.errors import RunError, UsageError
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.ledger.view import view_ledger
from cxrbatch.records import Header, ImageFile, IndexedFile

Trace = dict[str, tuple[int, int, int]]


def files_of(folder: Path) -> Trace:
    """Return inode, size and mtime of every file; not of -shm, in which every reader leaves its mark while it reads."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if not path.name.endswith("-shm")
    }


def index(ledger: Ledger, *numbers: int) -> None:
    ledger.index.record([IndexedFile(ImageFile(f"{n}.png", 1, 1), f"{n:016x}", Header()) for n in numbers])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder with two waiting studies, that nobody works on."""
    with Ledger(tmp_path) as ledger:
        ledger.remember("input", "/pacs/incoming")
        index(ledger, 1, 2)
    return tmp_path


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """An output folder whose run was killed: two waiting studies are in the -wal file only."""
    script = (
        "import os; from pathlib import Path; from cxrbatch.output.ledger.ledger import Ledger; "
        "from tests.output.ledger.test_view import index; "
        f"ledger = Ledger(Path({str(tmp_path)!r})); index(ledger, 1, 2); os.kill(os.getpid(), {signal.SIGKILL.value})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert (tmp_path / f"{LEDGER_FILE}-wal").stat().st_size > 0
    return tmp_path


def test_a_ledger_that_nobody_has_open_is_read_without_a_trace(out: Path) -> None:
    before = files_of(out)
    facts = view_ledger(out / LEDGER_FILE)
    assert (facts.studies, facts.files, facts.input) == ({"pending": 2}, {"pending": 2}, "/pacs/incoming")
    assert files_of(out) == before
    assert sorted(path.name for path in out.iterdir()) == [LEDGER_FILE]


def test_a_ledger_is_read_while_it_is_being_written_and_what_is_not_committed_is_not_seen(out: Path) -> None:
    with Ledger(out) as ledger:
        index(ledger, 3)
        before = files_of(out)
        assert view_ledger(out / LEDGER_FILE).studies == {"pending": 3}
        with ledger.store.transaction():
            ledger.store.execute("DELETE FROM studies")
            assert view_ledger(out / LEDGER_FILE).studies == {"pending": 3}
        assert view_ledger(out / LEDGER_FILE).studies == {}
        assert files_of(out).keys() == before.keys()
    assert sorted(path.name for path in out.iterdir()) == [LEDGER_FILE]


def test_the_writer_is_not_held_up(out: Path) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(view_ledger(out / LEDGER_FILE).studies["pending"])

    watcher = threading.Thread(target=look)
    with Ledger(out) as ledger:
        watcher.start()
        for number in range(3, 60):
            index(ledger, number)
        while not seen:
            pass
        stop.set()
        watcher.join()
    assert seen == sorted(seen)
    assert view_ledger(out / LEDGER_FILE).studies == {"pending": 59}


def test_what_a_killed_run_left_is_read_without_a_trace(killed: Path) -> None:
    before = files_of(killed)
    assert view_ledger(killed / LEDGER_FILE).studies == {"pending": 2}
    assert files_of(killed) == before
    with Ledger(killed) as ledger:
        assert ledger.results.count_studies() == {"pending": 2}


def test_a_ledger_in_rollback_mode_is_read_too(out: Path) -> None:
    with closing(sqlite3.connect(out / LEDGER_FILE)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    before = files_of(out)
    assert view_ledger(out / LEDGER_FILE).studies == {"pending": 2}
    assert files_of(out) == before


def test_since_when_the_oldest_study_waits_is_told_where_the_ledger_knows(out: Path) -> None:
    with closing(sqlite3.connect(out / LEDGER_FILE, isolation_level=None)) as database:
        columns = {name for _, name, *_ in database.execute("PRAGMA table_info(studies)")}
        if "queued_at" not in columns:
            assert view_ledger(out / LEDGER_FILE).oldest_queued_at == ""
            database.execute("ALTER TABLE studies ADD COLUMN queued_at TEXT NOT NULL DEFAULT ''")
        database.execute("UPDATE studies SET queued_at = '2026-01-0' || substr(study_key, 16) || 'T00:00:00+00:00'")
    assert view_ledger(out / LEDGER_FILE).oldest_queued_at == "2026-01-01T00:00:00+00:00"


# --------------------------------------------------------------------------- what cannot be read


def test_no_ledger_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no ledger\.sqlite there. Name the output folder of a run"):
        view_ledger(tmp_path / LEDGER_FILE)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"no database, but long enough" * 100])
def test_a_damaged_ledger_is_told_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LEDGER_FILE).write_bytes(content)
    with pytest.raises(RunError, match="the ledger is damaged"):
        view_ledger(tmp_path / LEDGER_FILE)
    assert (tmp_path / LEDGER_FILE).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_FILE]


def test_a_ledger_with_a_torn_page_is_damaged(out: Path) -> None:
    content = bytearray((out / LEDGER_FILE).read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (out / LEDGER_FILE).write_bytes(content)
    with pytest.raises(RunError, match="the ledger is damaged"):
        view_ledger(out / LEDGER_FILE)


def test_a_newer_ledger_is_refused(out: Path) -> None:
    with closing(sqlite3.connect(out / LEDGER_FILE)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match=r"written by a newer cxrbatch \(ledger schema 99"):
        view_ledger(out / LEDGER_FILE)


def test_a_copy_without_the_memory_of_its_writer_is_refused_and_not_touched(killed: Path) -> None:
    (killed / f"{LEDGER_FILE}-shm").unlink()
    before = sorted(path.name for path in killed.iterdir())
    with pytest.raises(RunError, match="the next run puts the ledger in order"):
        view_ledger(killed / LEDGER_FILE)
    assert sorted(path.name for path in killed.iterdir()) == before
