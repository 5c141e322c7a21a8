"""What the second part of `make soak` does at length, a few times: runs whose workers are killed end as others do."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.soak_workers import Plan, soak


@pytest.mark.slow
@pytest.mark.hostile("9.6 killed worker")
@pytest.mark.parametrize("workers", [1, 2])
def test_runs_whose_workers_are_killed_end_as_others_do(tmp_path: Path, workers: int) -> None:
    record = soak(tmp_path, workers, Plan(kills=10, studies=12, seed=workers, pdf=False, pause_s=0.4))
    assert record.kills == 10
    assert record.is_clean, record
    # Undisturbed machines need less than a second; tests share theirs.
    assert max(record.standstills_s) < 30
