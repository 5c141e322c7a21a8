"""Studies queued again after a change of engine: slice by slice, and gone on with after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxrbatch.output.ledger import requeue
from cxrbatch.output.ledger.ledger import Ledger
from tests.output.ledger.test_ledger import ENGINE, finish_all, indexed

OTHER = "e2" * 32


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with seven studies, one of which lost a file; slices are of two."""
    monkeypatch.setattr(requeue, "SLICE", 2)
    with Ledger(tmp_path) as ledger:
        ledger.index.record([indexed(f"{number}.dcm", f"s{number}") for number in range(7)])
        ledger.index.record([indexed("lost.dcm", "s3")])
        finish_all(ledger)
        ledger.index.record_gone(["lost.dcm"])
    return tmp_path


def statuses(ledger: Ledger) -> dict[str, str]:
    return {row.study_key: row.status for row in ledger.results.study_rows()}


def test_another_engine_queues_all_that_is_there_and_tells_of_each_slice(scored: Path) -> None:
    with Ledger(scored) as ledger:
        told: list[int] = []
        ledger.queue.requeue(engine_sha256=OTHER, told=told.append)
        assert told == [2, 2, 2]
        assert statuses(ledger) == {f"s{n}": "reported" if n == 3 else "pending" for n in range(7)}
        waiting = {row.path for row in ledger.results.file_rows() if row.status == "pending"}
        assert waiting == {f"{number}.dcm" for number in (0, 1, 2, 4, 5, 6)}


def test_the_same_engine_queues_nothing(scored: Path) -> None:
    with Ledger(scored) as ledger:
        told: list[int] = []
        ledger.queue.requeue(engine_sha256=ENGINE.sha256, told=told.append)
        assert told == []


def test_studies_of_several_engines_and_of_none_are_found(scored: Path) -> None:
    with Ledger(scored) as ledger:
        for number, engine in enumerate(("", "00", OTHER, "ff")):
            ledger.store.execute("UPDATE studies SET engine_sha256 = ? WHERE study_key = ?", (engine, f"s{number}"))
        ledger.store.execute("UPDATE files SET present = 1")
        ledger.queue.requeue(engine_sha256=OTHER)
        assert statuses(ledger) == {f"s{n}": "reported" if n == 2 else "pending" for n in range(7)}


def test_whoever_stops_between_slices_leaves_each_study_whole(scored: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with Ledger(scored) as ledger, pytest.raises(KeyboardInterrupt):
        ledger.queue.requeue(engine_sha256=OTHER, told=stop)
    with Ledger(scored) as ledger:
        assert sorted(statuses(ledger).values()) == ["pending"] * 2 + ["reported"] * 5
        assert ledger.queue.waiting()[0] == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from cxrbatch.output.ledger import requeue
from cxrbatch.output.ledger.ledger import Ledger
requeue.SLICE, real, seen = 2, requeue._queue, []
def dying(store, keys, change):
    seen.append(keys)
    real(store, keys, change)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
requeue._queue = dying
Ledger(Path(sys.argv[1])).queue.requeue(engine_sha256="e2" * 32)
"""


def test_a_killed_requeue_is_gone_on_with(scored: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(scored)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with Ledger(scored) as ledger:
        # The first slice is there, whole; the second was not committed.
        assert ledger.queue.pending_keys() == ["s0", "s1"]
        told: list[int] = []
        ledger.queue.requeue(engine_sha256=OTHER, told=told.append)
        assert told == [2, 2]
        assert ledger.queue.pending_keys() == ["s0", "s1", "s2", "s4", "s5", "s6"]


def test_no_slice_reads_more_than_its_studies(scored: Path) -> None:
    with Ledger(scored) as ledger:
        plans = {
            query: " ".join(str(step[3]) for step in ledger.store.rows(f"EXPLAIN QUERY PLAN {query}", parameters))
            for query, parameters in (
                (requeue._FAILED, ("", 2)),
                (requeue._OF_ENGINE, (OTHER, "", 2)),
                (requeue._UNDRAWN, (OTHER, "", 2)),
                (requeue._WITHOUT["maps"], (OTHER, "", 2)),
                (requeue._NEXT_ENGINE, ("",)),
            )
        }
        assert [plan for plan in plans.values() if "TEMP B-TREE" in plan or "SCAN" in plan] == []
        assert "study_key>?" in plans[requeue._OF_ENGINE]
