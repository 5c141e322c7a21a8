"""Modification times that no clock should show: they are stored, compared and sorted like any other."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from rich.console import Console

from cxrbatch.config import Settings
from cxrbatch.intake.discover import walk
from cxrbatch.model.data.pixel_cache import _stamp_files
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger.known import FormerFile, KnownFiles
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import ImageFile, storable_ns
from cxrbatch.run.batch import run_batch
from cxrbatch.system.progress import RunProgress
from cxrbatch.upkeep.repair import repair_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import read_rows, run_quietly, write_image

hostile = pytest.mark.hostile("9.8 times that SQLite cannot hold")

YEAR_NS = 31_556_952 * 10**9
ODD_NS = {
    "-1 ns": -1,
    "1969": -YEAR_NS // 2,
    "1601": -369 * YEAR_NS,
    "the year 1": -1969 * YEAR_NS,
    "0": 0,
    "2262, the last ns": 2**63 - 1,
    "2262, one more": 2**63,
    "2446": 476 * YEAR_NS,
    "30828, as far as Windows counts": 28_858 * YEAR_NS,
    "as far as Linux counts": (2**63 - 1) * 10**9,
}


@pytest.fixture
def roomy() -> Iterator[Path]:
    """Yield a folder of a file system that holds any time, where the machine has one."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def set_time(path: Path, time_ns: int) -> None:
    try:
        os.utime(path, ns=(time_ns, time_ns))
    except OverflowError:
        pytest.skip("this machine counts seconds in less than 64 bits")
    if path.stat().st_mtime_ns != time_ns:
        pytest.skip("no file system here holds such a time")


@hostile
@pytest.mark.parametrize("time_ns", ODD_NS.values(), ids=ODD_NS)
def test_an_image_of_any_time_is_scored_once(roomy: Path, time_ns: int) -> None:
    engine = str(write_tiny_bundle(roomy / "engines"))
    image = write_image(roomy / "images" / "odd.png", 20, 60, 120, 240)
    (roomy / "images" / "odd.txt").write_text("no image")
    for path in (image, roomy / "images" / "odd.txt"):
        set_time(path, time_ns)
    first = run_quietly(roomy / "images", roomy / "out", engine=engine)
    again = run_quietly(roomy / "images", roomy / "out", engine=engine)
    assert (first.files, first.studies_this_run) == ({"scored": 1, "rejected": 1}, 1)
    assert (again.files, again.studies_this_run) == (first.files, 0)
    with open_output(roomy / "out") as ledger:
        assert KnownFiles(ledger.store).meet(list(walk(roomy / "images"))) == []


@hostile
def test_an_image_replaced_in_another_odd_year_is_scored_again(roomy: Path) -> None:
    engine = str(write_tiny_bundle(roomy / "engines"))
    image = write_image(roomy / "images" / "odd.png", 20, 60, 120, 240)
    revisions = []
    for time_ns in (331 * YEAR_NS, 332 * YEAR_NS, -369 * YEAR_NS, -370 * YEAR_NS):
        set_time(image, time_ns)
        run_quietly(roomy / "images", roomy / "out", engine=engine)
        revisions += [row["revision"] for row in read_rows(roomy / "out" / "studies.csv")]
    assert revisions == ["1", "2", "3", "4"]


@hostile
def test_a_damaged_ledger_is_made_anew_and_nothing_is_scored_again(roomy: Path) -> None:
    engine = str(write_tiny_bundle(roomy / "engines"))
    for name, time_ns in ODD_NS.items():
        set_time(write_image(roomy / "images" / f"{name}.png", 20, 60, 120, 240), time_ns)
    run_quietly(roomy / "images", roomy / "out", engine=engine)
    for report in (roomy / "out" / "reports").rglob("report.html"):
        set_time(report, 9000 * YEAR_NS)
    (roomy / "out" / "ledger.sqlite").write_bytes(b"no ledger")
    assert repair_output(roomy / "out").studies == len(ODD_NS)
    assert run_quietly(roomy / "images", roomy / "out", engine=engine).studies_this_run == 0


@hostile
def test_the_newest_first_is_also_the_one_of_the_farthest_year(roomy: Path) -> None:
    engine = str(write_tiny_bundle(roomy / "engines"))
    for name, time_ns in (("1601.png", -369 * YEAR_NS), ("2446.png", 476 * YEAR_NS), ("2026.png", 56 * YEAR_NS)):
        set_time(write_image(roomy / "images" / name, 20, 60, 120, 240), time_ns)
    settings = Settings(workers=1, pdf=False, pixel_check=False, engine=engine, newest_first=True, limit=2)
    with RunProgress(Console(quiet=True)) as progress:
        run_batch(roomy / "images", roomy / "out", settings, progress)
    statuses = {row["path"]: row["status"] for row in read_rows(roomy / "out" / "images.csv")}
    assert statuses == {"1601.png": "pending", "2026.png": "scored", "2446.png": "scored"}
    results = (roomy / "out" / "reports").rglob("result.json")
    assert all(abs(json.loads(path.read_text())["files"][0]["mtime_ns"]) < 2**63 for path in results)


@hostile
def test_a_file_yet_to_be_read_is_not_taken_for_one_that_was_read_before_1970(tmp_path: Path) -> None:
    file = ImageFile("a.png", 10, storable_ns(-1))
    with Ledger(tmp_path) as ledger:
        ledger.index.record_deferred(file, "cannot be opened now")
        assert KnownFiles(ledger.store).meet([file]) == [(file, FormerFile(is_same=False, refused=False))]


@hostile
def test_prepared_pixels_are_kept_for_files_of_any_time(roomy: Path) -> None:
    images = [write_image(roomy / f"{number}.png", 20, 60, 120, 240) for number in range(len(ODD_NS))]
    for image, time_ns in zip(images, ODD_NS.values(), strict=True):
        set_time(image, time_ns)
    assert len({tuple(stamp) for stamp in _stamp_files(images).tolist()}) == len(images)


any_ns = st.integers(-(2**94), 2**94)


@given(any_ns)
def test_what_is_stored_fits_and_is_never_the_mark_of_an_unread_file(time_ns: int) -> None:
    assert -(2**63) <= storable_ns(time_ns) < 2**63
    assert storable_ns(time_ns) != -1
    assert storable_ns(storable_ns(time_ns)) == storable_ns(time_ns)


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_times_of_this_age_keep_their_order(one: int, other: int) -> None:
    assert (storable_ns(one) <= storable_ns(other)) or one > other
