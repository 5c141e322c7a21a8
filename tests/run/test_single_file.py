"""A single file as INPUT: that one and no other, found again by the next run."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from cxrbatch.errors import UsageError
from cxrbatch.run.source import Source, check_folders
from cxrbatch.upkeep.prune import prune_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import fingerprint, read_rows, run_quietly, write_image


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image among others."""
    write_image(tmp_path / "images" / "other.png", 10, 10, 200, 10)
    write_image(tmp_path / "images" / "below" / "third.png", 10, 10, 10, 200)
    return write_image(tmp_path / "images" / "image.png", 20, 60, 120, 240)


def test_only_that_file_is_scored_and_nothing_of_it_is_done_twice(image: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    report = run_quietly(image, out, engine=engine)
    assert (report.files, report.studies) == ({"scored": 1}, {"reported": 1})
    assert [row["path"] for row in read_rows(out / "images.csv")] == ["image.png"]
    before = fingerprint(out / "reports")
    assert run_quietly(image, out, engine=engine).studies_this_run == 0
    assert fingerprint(out / "reports") == before


def test_a_file_that_was_replaced_gets_a_second_revision(image: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(image, out, engine=engine)
    (first,) = read_rows(out / "studies.csv")
    write_image(image, 240, 60, 120, 20)
    os.utime(image, ns=(0, 1_700_000_000_000_000_000))
    assert run_quietly(image, out, engine=engine).studies_this_run == 1
    (second,) = read_rows(out / "studies.csv")
    assert (first["revision"], second["revision"]) == ("1", "2")
    assert float(second["prob_TopLeft"]) > 0.5 > float(first["prob_TopLeft"])


def test_out_belongs_to_that_file(image: Path, tmp_path: Path, engine: str) -> None:
    run_quietly(image, tmp_path / "out", engine=engine)
    for other in (image.with_name("other.png"), image.parent):
        with pytest.raises(UsageError, match="holds the results of"):
            run_quietly(other, tmp_path / "out", engine=engine)
    run_quietly(image.parent, tmp_path / "all", engine=engine)
    with pytest.raises(UsageError, match="holds the results of"):
        run_quietly(image, tmp_path / "all", engine=engine)


def test_a_link_stands_for_the_file_that_it_leads_to(image: Path, tmp_path: Path, engine: str) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.png"
    link.symlink_to(image)
    assert run_quietly(link, tmp_path / "out", engine=engine).files == {"scored": 1}
    assert run_quietly(image, tmp_path / "out", engine=engine).studies_this_run == 0


def test_a_file_that_the_walk_would_pass_over_is_read_where_it_is_named(
    image: Path, tmp_path: Path, engine: str
) -> None:
    hidden = image.rename(image.with_name(".image.png.part"))
    assert run_quietly(hidden, tmp_path / "out", engine=engine).files == {"scored": 1}


def test_what_is_no_image_is_refused_with_its_reason(tmp_path: Path, engine: str) -> None:
    (tmp_path / "notes.txt").write_text("x" * 300)
    assert run_quietly(tmp_path / "notes.txt", tmp_path / "out", engine=engine).reasons == {"not_an_image": 1}


def test_a_file_that_is_gone_is_taken_for_a_share_that_is_not_mounted(image: Path, tmp_path: Path, engine: str) -> None:
    run_quietly(image, tmp_path / "out", engine=engine)
    source = check_folders(image, tmp_path / "out")
    image.unlink()
    assert source == Source(image.parent, "image.png")
    with pytest.raises(UsageError, match="Check that it is mounted"):
        run_quietly(image, tmp_path / "out", engine=engine)


def test_results_go_neither_where_the_file_lies_nor_above(image: Path, tmp_path: Path) -> None:
    for out in (image.parent, tmp_path):
        with pytest.raises(UsageError, match="cannot go where"):
            check_folders(image, out)
    with pytest.raises(UsageError, match="ledger cannot lie"):
        check_folders(image, tmp_path / "out", str(image.parent))
    check_folders(image, image.parent / "out", str(image.parent / "state"))


def test_what_is_neither_folder_nor_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a folder nor a file"):
        check_folders(tmp_path / "pipe", tmp_path / "out")


def test_prune_keeps_what_is_there_and_takes_what_is_gone(image: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(image, out, engine=engine)
    kept = prune_output(out, timedelta(seconds=-1), remove=True)
    assert (len(kept.old), len(kept.kept)) == (0, 1)
    run_quietly(image.parent, tmp_path / "all", engine=engine)
    image.unlink()
    with pytest.raises(UsageError, match="nobody knows what is gone"):
        prune_output(out, timedelta(seconds=-1), remove=True)
