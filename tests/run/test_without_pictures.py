"""A run without pictures: the same rows, nothing drawn or carried for it, and pictures whenever they are asked for."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.intake.discover import describe_file, index_file
from cxrbatch.output.report.intent import result_mark
from cxrbatch.output.report.report_files import RESULT_JSON
from cxrbatch.records import InputSpec, StudyResult
from cxrbatch.run.read import ReadJob, read_image
from cxrbatch.system.record_json import from_json, to_json
from cxrbatch.upkeep.repair import repair_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.judged import disagreements
from tests.factories.outputs import read_results
from tests.factories.studies import fingerprint, read_rows, run_quietly, write_image

BARE: dict[str, Any] = {"html": False, "pdf": False, "pictures": False}
BARE_OPTIONS = ("--no-html", "--no-pdf", "--no-pictures")
TIMES = {"scored_at", "reported_at"}
LINKS = {"report_html", "report_pdf"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, one of which is refused; scored with pictures and reports, and without."""
    base = tmp_path_factory.mktemp("base")
    write_image(base / "images" / "a.png", 20, 60, 120, 240)
    write_image(base / "images" / "b.png", 200, 10, 10, 10)
    write_image(base / "images" / "c.png", 90, 90, 90, 90)
    write_tiny_bundle(base / "engines")
    run_quietly(base / "images", base / "full", engine=str(base / "engines/tiny"))
    run_quietly(base / "images", base / "bare", engine=str(base / "engines/tiny"), **BARE)
    return base


@pytest.fixture
def engine(base: Path) -> str:
    return str(base / "engines/tiny")


@pytest.fixture
def images(base: Path) -> Path:
    return base / "images"


@pytest.fixture
def out(base: Path, tmp_path: Path) -> Path:
    """A copy of what the run without pictures left."""
    return Path(shutil.copytree(base / "bare", tmp_path / "out"))


def rows(out: Path, table: str, *, without: set[str] = TIMES) -> list[dict[str, str]]:
    return [{name: cell for name, cell in row.items() if name not in without} for row in read_rows(out / table)]


def test_the_tables_are_those_of_a_run_with_pictures(base: Path) -> None:
    bare, full = base / "bare", base / "full"
    assert rows(bare, "images.csv") == rows(full, "images.csv")
    assert [row["status"] for row in rows(bare, "images.csv")] == ["scored", "scored", "rejected"]
    assert rows(bare, "studies.csv", without=TIMES | LINKS) == rows(full, "studies.csv", without=TIMES | LINKS)
    assert {row["report_html"] for row in rows(bare, "studies.csv")} == {""}


def test_a_report_folder_holds_the_result_and_nothing_is_linked_that_is_not_there(base: Path) -> None:
    bare = base / "bare"
    assert {path.name for path in bare.glob("reports/*/*")} == {RESULT_JSON}
    assert disagreements(bare) == []
    page, full_page = (base / "bare/index.html").read_text(), (base / "full/index.html").read_text()
    assert "thumb-1" in full_page
    assert "reports/" not in page
    for result, full in zip(read_results(bare), read_results(base / "full"), strict=True):
        assert (result.pictures, full.pictures) == (False, True)
        drawn = replace(full.images[0], image_file="", thumbnail_file="", heatmaps=())
        assert result.images == (drawn,), "beside the pictures' names and places, all that is told is the same"


def test_what_only_drawing_needs_is_not_carried_between_processes(images: Path) -> None:
    (file,) = describe_file(images / "a.png")
    sizes = {}
    for pictures in (True, False):
        settings = Settings(pixel_check=False, pictures=pictures)
        job = ReadJob("key", index_file(images, file, settings), images / "a.png", InputSpec(size_px=32), settings)
        read = read_image(job)
        sizes[pictures] = len(pickle.dumps(read))
        assert read.image.pixels.shape == (1, 32, 32)
    assert sizes[True] - sizes[False] >= 128 * 128, "the display image"


def test_nothing_is_loaded_that_draws(images: Path, engine: str, tmp_path: Path) -> None:
    from tests.run.test_imports import heavy_modules_after

    code = """
from cxrbatch.run.warm_up import warm_up
warm_up(pdf=False, pictures=False)
import cxrbatch.run.print
assert not [name for name in sys.modules if name in ("jinja2", "cxrbatch.output.report.report",
            "cxrbatch.output.report.pictures", "cxrbatch.output.report.heatmap")]
"""
    assert "cv2" in heavy_modules_after(code), "which reading needs"


@pytest.mark.parametrize("wanted", [{"html": True, "pdf": False}, {"html": False, "pdf": True}, {}])
def test_reports_without_pictures_are_refused_before_anything_is_made(
    wanted: dict[str, bool], images: Path, engine: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="leave out --no-pictures") as refused:
        run_quietly(images, tmp_path / "out", engine=engine, pictures=False, **wanted)
    asked = {"html": True, "pdf": False} | wanted  # run_quietly prints no PDF unless told to
    assert [f"--no-{name}" in str(refused.value) for name in ("html", "pdf")] == [asked["html"], asked["pdf"]]
    assert not (tmp_path / "out").exists()


def test_that_is_a_usage_error_of_the_command(
    images: Path, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--dry-run",)):
        command = ["run", str(images), "-o", str(tmp_path / "out"), "-e", engine, "--no-pictures", "--no-pdf", *more]
        assert run_command_line(command) == ExitCode.USAGE
        assert "Add --no-html, or leave out --no-pictures" in " ".join(capsys.readouterr().err.split())


def test_report_says_which_studies_have_no_pictures_and_changes_nothing(
    out: Path, images: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(out / "reports")
    assert run_command_line(["report", str(out), "--no-pdf", "--workers", "1"]) == ExitCode.SOME_STUDIES_FAILED
    said = capsys.readouterr().err
    for row in rows(out, "studies.csv"):
        told = f"study {row['study_key']}: it was scored without pictures (--no-pictures)" in " ".join(said.split())
        assert told == (row["status"] == "reported")
    assert fingerprint(out / "reports") == before
    again = run_quietly(images, out, engine=engine, **BARE)
    assert again.studies_this_run == 0, "no study counts as failed"


def test_a_later_run_with_pictures_draws_and_prints_what_has_none(
    base: Path, out: Path, images: Path, engine: str
) -> None:
    table = rows(out, "images.csv")
    report = run_quietly(images, out, engine=engine)
    assert (report.studies_this_run, report.exit_code) == (2, ExitCode.DONE)
    assert disagreements(out) == []
    assert rows(out, "images.csv") == table
    assert rows(out, "studies.csv") == rows(base / "full", "studies.csv"), "of the same revision, with its report"
    assert [result.images for result in read_results(out)] == [result.images for result in read_results(base / "full")]
    for settings in ({}, BARE):
        assert run_quietly(images, out, engine=engine, **settings).studies_this_run == 0
    assert list(out.glob("reports/*/image-1-*.jpg")), "a later run without them takes none away"


def test_a_study_whose_image_is_gone_stays_as_it_was(base: Path, tmp_path: Path, engine: str) -> None:
    images, out = Path(shutil.copytree(base / "images", tmp_path / "images")), tmp_path / "out"
    run_quietly(images, out, engine=engine, **BARE)
    (images / "a.png").unlink()
    assert run_quietly(images, out, engine=engine).studies_this_run == 1
    assert disagreements(out) == []
    studies = {row["study_key"]: row for row in rows(out, "studies.csv") if row["status"] == "reported"}
    assert sorted((row["revision"], bool(row["report_html"])) for row in studies.values()) == [
        ("1", False),
        ("1", True),
    ]


def test_a_dry_run_foretells_what_is_drawn(
    out: Path, images: Path, engine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    before = fingerprint(out)
    command = ["run", str(images), "-o", str(out), "-e", engine, "--dry-run"]
    said = []
    for more in ((), BARE_OPTIONS):
        assert run_command_line([*command, *more]) == ExitCode.DONE
        said.append(" ".join(capsys.readouterr().out.split()))
    assert fingerprint(out) == before
    assert "2 studies" in said[0]
    assert "2 studies" not in said[1]


def test_a_changed_study_loses_its_pictures_but_no_earlier_report(base: Path, tmp_path: Path, engine: str) -> None:
    images, out = Path(shutil.copytree(base / "images", tmp_path / "images")), tmp_path / "out"
    run_quietly(images, out, engine=engine, pdf=True)
    write_image(images / "a.png", 10, 200, 40, 90)
    assert run_quietly(images, out, engine=engine, **BARE).studies_this_run == 1
    assert disagreements(out) == []
    (changed,) = [result for result in read_results(out) if not result.pictures]
    folder = out / "reports" / changed.study_key
    assert {path.name for path in folder.iterdir()} == {RESULT_JSON, "report-r1.pdf"}
    assert changed.revision == 2


def test_a_lost_ledger_is_restored_from_results_without_pictures(out: Path, images: Path, engine: str) -> None:
    table = rows(out, "studies.csv")
    (out / "ledger.sqlite").unlink()
    (out / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    repair = repair_output(out)
    assert (repair.studies, repair.retried) == (2, 0)
    assert run_quietly(images, out, engine=engine, **BARE).images_scored_this_run == 0
    reported = [row for row in table if row["status"] == "reported"]
    assert [row for row in rows(out, "studies.csv") if row["status"] == "reported"] == reported
    assert run_quietly(images, out, engine=engine).images_scored_this_run == 2, "and are known to have none"


def test_names_are_taken_out_of_results_without_pictures(out: Path, images: Path, engine: str) -> None:
    report = run_quietly(images, out, engine=engine, deidentify_existing=True, **BARE)
    assert report.exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert run_quietly(images, out, engine=engine, deidentify=True).studies_this_run == 2
    assert disagreements(out) == []
    assert all(result.deidentified and result.pictures for result in read_results(out))


def test_the_mark_of_a_report_is_that_of_versions_that_did_not_know_of_pictures(base: Path) -> None:
    (result, *_) = read_results(base / "full")
    said = json.loads(to_json(replace(result, scored_at="", files=())))
    assert said.pop("pictures") is True
    assert said.pop("keeps_maps") is False
    assert said.pop("keeps_embeddings") is False
    for image in said["images"]:
        assert [image["header"].pop(name) for name in ("patient_orientation", "scanner", "source")] == ["", "", None]
        assert [image.pop(name) for name in ("maps_file", "embedding_file", "geometry")] == ["", "", None]
        assert {heatmap.pop("place") for heatmap in image["heatmaps"]} == {""}
    digest = hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()
    assert result_mark(result) == f"{digest[:32]} {result.scored_at}"
    earlier = to_json(result).replace(',"pictures":true', "")
    assert from_json(earlier, StudyResult) == result


# --------------------------------------------------------------------------- killed


@pytest.fixture(scope="module")
def runs() -> Iterator[FaultedRuns]:
    with FaultedRuns() as runs:
        yield runs


KILLS = ("report-write", "intent-written", "files-renamed:1", "report-written", "ledger-committed:3", "tidied")
CHANGES = ((BARE_OPTIONS, BARE_OPTIONS), (BARE_OPTIONS, ()), ((), BARE_OPTIONS))
EVERY = bool(os.environ.get("CXRBATCH_EVERY_FAULT"))


@pytest.mark.parametrize(
    ("point", "first", "then"),
    [
        (point, *change)
        for number, point in enumerate(KILLS)
        for position, change in enumerate(CHANGES)
        if EVERY or (number + position) % 3 == 0
    ],
)
def test_killed_in_writing_a_result_and_resumed(
    runs: FaultedRuns,
    base: Path,
    tmp_path: Path,
    engine: str,
    point: str,
    first: tuple[str, ...],
    then: tuple[str, ...],
) -> None:
    images, out = base / "images", tmp_path / "out"
    killed = runs.run(images, out, engine, *first, fault=f"{point}=kill")
    assert killed.exit_code == -signal.SIGKILL, killed.said
    for _ in range(2):
        ended = runs.run(images, out, engine, *then)
        assert ended.exit_code == ExitCode.DONE, ended.said
        assert disagreements(out) == []
    assert rows(out, "images.csv") == rows(base / "full", "images.csv")
    assert then or all(result.pictures for result in read_results(out))
    assert not ended.reached["report-write"], "the second time there is nothing to do"


@pytest.mark.parametrize("point", KILLS if EVERY else KILLS[1::3])
def test_killed_in_drawing_what_had_no_pictures(
    runs: FaultedRuns, base: Path, tmp_path: Path, engine: str, point: str
) -> None:
    images, out = base / "images", tmp_path / "out"
    assert runs.run(images, out, engine, *BARE_OPTIONS).exit_code == ExitCode.DONE
    killed = runs.run(images, out, engine, fault=f"{point}=kill")
    assert killed.exit_code == -signal.SIGKILL, killed.said
    assert runs.run(images, out, engine, *BARE_OPTIONS).exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert runs.run(images, out, engine).exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert rows(out, "studies.csv") == rows(base / "full", "studies.csv")


@pytest.mark.parametrize("point", ["report-write", "intent-written", "files-rename:2"])
@pytest.mark.parametrize("before", [(), BARE_OPTIONS], ids=["drawn", "bare"])
def test_a_result_that_could_not_be_written_leaves_the_earlier_one(
    runs: FaultedRuns, base: Path, tmp_path: Path, engine: str, point: str, before: tuple[str, ...]
) -> None:
    images, out = Path(shutil.copytree(base / "images", tmp_path / "images")), tmp_path / "out"
    assert runs.run(images, out, engine, *before).exit_code == ExitCode.DONE
    write_image(images / "a.png", 10, 200, 40, 90)
    failed = runs.run(images, out, engine, *BARE_OPTIONS, fault=f"{point}=eio")
    assert failed.exit_code == ExitCode.SOME_STUDIES_FAILED, failed.said
    assert disagreements(out) == []
    assert {result.revision for result in read_results(out)} <= {1, 2}
    assert runs.run(images, out, engine, *BARE_OPTIONS).exit_code == ExitCode.DONE
    assert disagreements(out) == []
    assert sorted(row["revision"] for row in rows(out, "studies.csv") if row["status"] == "reported") == ["1", "2"]
