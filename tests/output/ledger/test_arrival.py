"""When a study came, which the worklist is sorted by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.output.ledger import queue as ledger_queue
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import Header, ImageFile, IndexedFile


def index(ledger: Ledger, key: str, **header: str) -> None:
    file = ImageFile(f"{key}-{len(header)}.dcm", 1, 1)
    ledger.index.record([IndexedFile(file, key, replace(Header(), **header))])  # type: ignore[arg-type]  # text only


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The time that the ledger reads; change its only entry."""
    times = ["2026-01-01T00:00:00+00:00"]
    monkeypatch.setattr(ledger_queue, "now_text", lambda: times[0])
    return times


def test_a_study_came_when_its_first_file_was_met(tmp_path: Path, clock: list[str]) -> None:
    with Ledger(tmp_path) as ledger:
        index(ledger, "b", study_date="1")
        clock[0] = "2026-01-02T00:00:00+00:00"
        index(ledger, "a", study_date="1")
        index(ledger, "b", study_date="1", modality="DX")
        rows = [(row.study_key, row.n_images, row.arrived_at[:10]) for row in ledger.results.study_rows_by_arrival()]
        assert rows == [("b", 2, "2026-01-01"), ("a", 1, "2026-01-02")]
