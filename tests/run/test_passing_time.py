"""What tests compare outputs by sees no difference between runs of different times, in any language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.errors import ExitCode
from cxrbatch.locales import locales
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.outputs import snapshot
from tests.factories.varied import LABELS, write_varied_input


@pytest.fixture(scope="module")
def runs() -> Iterator[FaultedRuns]:
    with FaultedRuns() as runs:
        yield runs


@pytest.mark.parametrize("locale", locales())
def test_runs_of_different_times_leave_the_same_but_times(tmp_path: Path, runs: FaultedRuns, locale: str) -> None:
    images = write_varied_input(tmp_path / "images")
    (images / "failed.png").unlink()
    engine = str(write_tiny_bundle(tmp_path / "engines", labels=LABELS, ensemble=True))
    # Minute, hour, day, month and year are others.
    for name, days in (("now", 0.0), ("later", 400.301)):
        ended = runs.run(images, tmp_path / name, engine, "--locale", locale, clock_days=days)
        assert ended.exit_code == ExitCode.DONE, ended.said
    now, later = (next((tmp_path / name).glob("reports/*/report.html")) for name in ("now", "later"))
    assert now.read_text() != later.read_text()
    assert snapshot(tmp_path / "now") == snapshot(tmp_path / "later")
