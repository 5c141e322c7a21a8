"""The whole loop, as `make demo-pacs` goes it: Orthanc -> pull -> watch -> send -> Orthanc, with a tiny engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.demo_pacs import demonstrate
from tests.factories.engine import write_tiny_bundle
from tests.factories.orthanc import WHY_NOT, is_here

pytestmark = [
    pytest.mark.skipif(not is_here(), reason=WHY_NOT),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom"),  # what real radiographs hold
]


def test_every_object_is_in_the_archive_as_it_was_written_and_our_own_change_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    loop = demonstrate(tmp_path, write_tiny_bundle(tmp_path), told.append)
    assert not loop.differing
    assert told[-1].startswith("all ")
    assert len(loop.pulled) == len(loop.sources) == 3
    kinds = sorted(path.name for path in loop.written.values())
    assert kinds.count("sr.dcm") == kinds.count("report.dcm") == 3
    assert kinds.count("overlay-1.dcm") >= 1
    assert all(set(found) == set(loop.written) | set(loop.sources) for found in loop.back.values())
    pulled, _, sent, again, _ = loop.told
    assert "new objects 3" in pulled
    assert f"{len(kinds)} stored" in sent
    assert re.search(rf"new objects 0, our own series, not fetched {len(kinds)}\b", again)
    # Whoever sends whole studies sends our objects, too: they are seen, and belong to no study.
    assert [row["revision"] for row in loop.studies] == ["1"] * 3
    assert sum(row["reason"] == "own_output" for row in loop.images) == len(kinds)
    assert sum(row["status"] == "scored" for row in loop.images) == 3
    assert (tmp_path / "overlay.png").stat().st_size > 10_000
