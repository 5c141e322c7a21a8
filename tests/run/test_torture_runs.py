"""The torture list of PROMISES.md, section Files, as whole runs: what comes late, changes, vanishes or comes twice."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless, RLELossless

from cxrbatch.errors import ExitCode
from cxrbatch.run import batch
from cxrbatch.system.workers import Outcome, Task, Value, WorkerPool
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs, png_bytes, write_dicom
from tests.factories.studies import read_rows, run_quietly, write_image

ONE, TWO, THREE = blobs(seed=1), blobs(seed=2), blobs(seed=3)
Rows = dict[str, tuple[str, str]]


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return an input folder in which one image of another study is always good."""
    (tmp_path / "images").mkdir()
    write_dicom(tmp_path / "images" / "good.dcm", pixels=THREE, StudyInstanceUID="9.9")
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def in_this_process(
    _: WorkerPool, function: Callable[[Task], Value], tasks: Iterable[Task], *, timeout_s: float, **__: Any
) -> Iterator[Outcome[Task, Value]]:
    """Stand in for worker processes: quicker, and a test can change what the operating system answers."""
    for task in tasks:
        future: Future[Value] = Future()
        try:
            future.set_result(function(task))
        except Exception as error:  # noqa: BLE001 - as a worker process does
            future.set_exception(error)
        yield Outcome(task, future, timeout_s)


@pytest.fixture(autouse=True)
def _no_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerPool, "run_ahead", in_this_process)


def outcomes(out: Path) -> Rows:
    """Return status and reason of every file but the good one, which must be scored."""
    rows = {row["path"]: (row["status"], row["reason"]) for row in read_rows(out / "images.csv")}
    assert rows.pop("good.dcm") == ("scored", "")
    return rows


def studies(out: Path) -> dict[str, dict[str, str]]:
    """Return the rows of studies.csv by Study Instance UID, without the good one."""
    return {row["study_uid"]: row for row in read_rows(out / "studies.csv") if row["study_uid"] != "9.9"}


def write(path: Path, pixels: Any, sop: str = "1.2.3.1", study: str = "1.2.3", **more: Any) -> Path:
    return write_dicom(path, pixels=pixels, SOPInstanceUID=sop, StudyInstanceUID=study, **more)


# --------------------------------------------------------------------------- twice


@pytest.mark.parametrize("copy", [{}, {"transfer_syntax": RLELossless}, {"transfer_syntax": JPEGLSLossless}])
def test_one_instance_under_two_paths_gives_one_result(
    images: Path, out: Path, engine: str, copy: dict[str, Any]
) -> None:
    write(images / "a.dcm", ONE)
    write(images / "b.dcm", ONE, **copy)
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", ""), "b.dcm": ("duplicate", "")}
    assert studies(out)["1.2.3"]["n_scored"] == "1"


def test_one_instance_with_different_pixels_is_refused_under_both_paths(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    write(images / "b.dcm", TWO)
    write(images / "c.dcm", THREE, sop="1.2.3.2")
    run_quietly(images, out, engine=engine)
    conflict = ("rejected", "conflicting_duplicate")
    assert outcomes(out) == {"a.dcm": conflict, "b.dcm": conflict, "c.dcm": ("scored", "")}


def test_one_instance_shown_in_two_ways_is_scored_twice_and_flagged(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    write(images / "b.dcm", ONE, PhotometricInterpretation="MONOCHROME1")
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", ""), "b.dcm": ("scored", "")}
    flags = {row["path"]: row["flags"] for row in read_rows(out / "images.csv")}
    assert (flags["a.dcm"], flags["b.dcm"]) == ("duplicate_uid", "duplicate_uid")


def test_the_same_pixels_under_two_instances_of_a_study_give_one_result(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    write(images / "b.dcm", ONE, sop="1.2.3.2")
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", ""), "b.dcm": ("duplicate", "")}
    (message,) = {row["message"] for row in read_rows(out / "images.csv") if row["path"] == "b.dcm"}
    assert "the same pixels" in message


def test_the_same_picture_twice_in_a_study_folder_gives_one_result(images: Path, out: Path, engine: str) -> None:
    for name in ("s/a.png", "s/copy of a.png", "t/a.png"):
        write_image(images / name, 20, 60, 120, 240)
    run_quietly(images, out, engine=engine, group_by="folder")
    scored, copy = ("scored", ""), ("duplicate", "")
    assert outcomes(out) == {"s/a.png": scored, "s/copy of a.png": copy, "t/a.png": scored}


def test_the_same_pixels_in_two_studies_are_two_results(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    write(images / "b.dcm", ONE, study="1.2.4")
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", ""), "b.dcm": ("scored", "")}
    assert studies(out)["1.2.3"]["prob_TopLeft"] == studies(out)["1.2.4"]["prob_TopLeft"]


def test_a_copy_that_arrives_late_changes_no_score(images: Path, out: Path, engine: str) -> None:
    write(images / "b.dcm", ONE)
    run_quietly(images, out, engine=engine)
    before = studies(out)["1.2.3"]
    write(images / "a.dcm", ONE)
    run_quietly(images, out, engine=engine)
    assert sorted(outcomes(out).values()) == [("duplicate", ""), ("scored", "")]
    after = studies(out)["1.2.3"]
    assert (before["revision"], after["revision"], after["n_images"]) == ("1", "2", "2")
    assert before["prob_TopLeft"] == after["prob_TopLeft"]


def test_a_conflict_is_settled_once_the_wrong_file_is_removed(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    write(images / "b.dcm", TWO)
    run_quietly(images, out, engine=engine)
    (images / "b.dcm").unlink()
    report = run_quietly(images, out, engine=engine)
    assert outcomes(out)["a.dcm"] == ("scored", "")
    assert report.studies == {"reported": 2}


def test_a_second_patient_who_comes_late_takes_the_report_away(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE, PatientID="P1")
    run_quietly(images, out, engine=engine)
    reported = out / studies(out)["1.2.3"]["report_html"]
    assert reported.is_file()
    write(images / "b.dcm", TWO, sop="1.2.3.2", PatientID="P2")
    run_quietly(images, out, engine=engine)
    conflict = ("rejected", "patient_conflict")
    assert outcomes(out) == {"a.dcm": conflict, "b.dcm": conflict}
    assert studies(out)["1.2.3"]["status"] == "unscored"
    assert not reported.exists()
    (images / "b.dcm").unlink()
    run_quietly(images, out, engine=engine)
    assert outcomes(out)["a.dcm"] == ("scored", "")


# --------------------------------------------------------------------------- late, replaced, half copied


def test_a_late_instance_takes_no_score_from_a_sibling_that_was_tidied_away(
    images: Path, out: Path, engine: str
) -> None:
    write(images / "first.dcm", ONE)
    write(images / "other.dcm", ONE, study="1.2.4", sop="1.2.4.1")
    run_quietly(images, out, engine=engine)
    before = {row["path"]: row for row in read_rows(out / "images.csv")}
    (images / "first.dcm").unlink()
    write(images / "late.dcm", TWO, sop="1.2.3.2")
    run_quietly(images, out, engine=engine)
    after = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert after["first.dcm"] == before["first.dcm"]
    assert (after["late.dcm"]["status"], studies(out)["1.2.3"]["revision"]) == ("scored", "2")


def test_a_late_instance_is_a_new_revision_of_its_study(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    run_quietly(images, out, engine=engine)
    first = studies(out)["1.2.3"]
    write(images / "b.dcm", np.minimum(2 * TWO, 4095).astype(np.uint16), sop="1.2.3.2")
    report = run_quietly(images, out, engine=engine)
    assert report.studies_this_run == 1
    late = studies(out)["1.2.3"]
    assert (first["revision"], late["revision"]) == ("1", "2")
    assert (first["n_scored"], late["n_scored"]) == ("1", "2")
    scored = [row for row in read_rows(out / "images.csv") if row["study_uid"] == "1.2.3"]
    assert float(late["prob_TopLeft"]) == max(float(row["prob_TopLeft"]) for row in scored)
    page = (out / late["report_html"]).read_text()
    assert "image-2-" in page


def test_a_late_lateral_is_a_row_and_keeps_the_score(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    run_quietly(images, out, engine=engine)
    first = studies(out)["1.2.3"]
    write(images / "b.dcm", TWO, sop="1.2.3.2", ViewPosition="LL")
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", ""), "b.dcm": ("rejected", "not_frontal")}
    assert studies(out)["1.2.3"]["prob_TopLeft"] == first["prob_TopLeft"]


def test_a_file_replaced_after_reporting_is_a_new_revision(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    run_quietly(images, out, engine=engine)
    first = studies(out)["1.2.3"]
    write(images / "a.dcm", TWO)
    run_quietly(images, out, engine=engine)
    second = studies(out)["1.2.3"]
    assert (first["revision"], second["revision"]) == ("1", "2")
    assert first["prob_TopLeft"] != second["prob_TopLeft"]


def test_a_file_replaced_by_one_of_another_study_moves(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE)
    run_quietly(images, out, engine=engine)
    old_report = out / studies(out)["1.2.3"]["report_html"]
    write(images / "a.dcm", TWO, study="1.2.4")
    run_quietly(images, out, engine=engine)
    assert list(studies(out)) == ["1.2.4"]
    assert not old_report.exists()


@pytest.mark.parametrize("share", [0.001, 0.4, 0.999])
def test_a_stalled_copy_that_is_resumed_gives_one_result(images: Path, out: Path, engine: str, share: float) -> None:
    whole = write(images / "a.dcm", ONE).read_bytes()
    (images / "a.dcm").write_bytes(whole[: int(share * len(whole))])
    first = run_quietly(images, out, engine=engine)
    assert first.files == {"scored": 1, "rejected": 1}
    (images / "a.dcm").write_bytes(whole)
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", "")}
    assert studies(out)["1.2.3"]["revision"] == "1"


@pytest.mark.parametrize("unfinished", ["a.dcm.part", ".a.dcm", "a.tmp"])
def test_a_file_is_met_once_it_is_renamed_into_place(images: Path, out: Path, engine: str, unfinished: str) -> None:
    write(images / unfinished, ONE)
    assert run_quietly(images, out, engine=engine).files == {"scored": 1}
    (images / unfinished).rename(images / "a.dcm")
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", "")}


def test_a_report_that_failed_is_printed_although_a_sibling_was_tidied_away(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(images / "a.dcm", ONE)
    run_quietly(images, out, engine=engine)
    (images / "a.dcm").unlink()
    write(images / "b.dcm", TWO, sop="1.2.3.2")
    write(images / "other.dcm", ONE, study="1.2.4", sop="1.2.4.1")

    def fail(*_: object, **__: object) -> None:
        raise ValueError("no printer")

    with monkeypatch.context() as patched:
        patched.setattr("cxrbatch.output.report.report.print_study", fail)
        assert run_quietly(images, out, engine=engine).studies["failed"] == 2
    report = run_quietly(images, out, engine=engine)
    assert (report.studies, report.studies_this_run) == ({"reported": 3}, 2)
    assert all(row["report_html"] for row in read_rows(out / "studies.csv"))


def test_a_folder_that_cannot_be_listed_hides_only_what_is_in_it(images: Path, out: Path, engine: str) -> None:
    for name in ("locked", "open"):
        (images / name).mkdir()
        write(images / name / "a.dcm", ONE, study=f"1.2.{len(name)}", sop=f"1.2.{len(name)}.1")
    (images / "open" / "stub.dcm").write_bytes(b"")
    run_quietly(images, out, engine=engine)
    (images / "locked" / ".lock").touch()
    (images / "open" / "a.dcm").unlink()
    known = {os.fsdecode(path): present for path, present in present_files(out)}
    assert known["open/a.dcm"] and known["locked/a.dcm"]
    report = run_quietly(images, out, engine=engine)
    known = {os.fsdecode(path): present for path, present in present_files(out)}
    assert report.folders_unlistable == 1
    assert not known["open/a.dcm"]
    assert known["locked/a.dcm"]


def present_files(out: Path) -> list[tuple[bytes, int]]:
    with closing(sqlite3.connect(out / "ledger.sqlite")) as ledger:
        return ledger.execute("SELECT path, present FROM files").fetchall()


# --------------------------------------------------------------------------- between index and read


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Let something happen to the input between the index and the reading."""
    process = batch.Run.process

    def change_then_process(run: batch.Run, *arguments: Any, **more: Any) -> None:
        change()
        process(run, *arguments, **more)

    monkeypatch.setattr(batch.Run, "process", change_then_process)


def test_what_vanishes_between_index_and_read_is_tried_again_then_given_up(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(images / "a.dcm", ONE)
    with monkeypatch.context() as while_running:
        meanwhile(while_running, (images / "a.dcm").unlink)
        report = run_quietly(images, out, engine=engine)
    assert report.exit_code == ExitCode.SOME_STUDIES_FAILED
    assert outcomes(out) == {"a.dcm": ("failed", "")}
    assert run_quietly(images, out, engine=engine).exit_code == ExitCode.DONE
    assert outcomes(out) == {"a.dcm": ("rejected", "vanished")}
    write(images / "a.dcm", ONE)
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", "")}


def test_one_image_of_a_study_that_vanishes_leaves_the_score_of_the_other(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(images / "a.dcm", ONE)
    write(images / "b.dcm", TWO, sop="1.2.3.2")
    with monkeypatch.context() as while_running:
        meanwhile(while_running, (images / "b.dcm").unlink)
        run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", ""), "b.dcm": ("failed", "")}
    report = run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", ""), "b.dcm": ("rejected", "vanished")}
    assert (report.exit_code, studies(out)["1.2.3"]["status"]) == (ExitCode.DONE, "reported")


@pytest.mark.parametrize("kind", ["other pixels", "other study", "cut", "a folder", "a FIFO", "a link that leads out"])
def test_what_changes_between_index_and_read_is_never_scored_under_its_old_name(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    path = write(images / "a.dcm", ONE)
    content = path.read_bytes()
    outside = write(tmp_path / "outside.dcm", TWO, study="1.2.4")

    changes: dict[str, Callable[[], object]] = {
        "other pixels": lambda: write(path, TWO),
        "other study": lambda: write(path, ONE, study="1.2.4"),
        "cut": lambda: path.write_bytes(content[:-100]),
        "a folder": path.mkdir,
        "a FIFO": lambda: os.mkfifo(path),
        "a link that leads out": lambda: path.symlink_to(outside),
    }

    def change() -> None:
        path.unlink()
        changes[kind]()

    with monkeypatch.context() as while_running:
        meanwhile(while_running, change)
        report = run_quietly(images, out, engine=engine)
    assert report.exit_code == ExitCode.SOME_STUDIES_FAILED
    assert outcomes(out) == {"a.dcm": ("failed", "")}
    run_quietly(images, out, engine=engine)
    after = outcomes(out)["a.dcm"]
    assert after == {
        "other pixels": ("scored", ""),
        "other study": ("scored", ""),
        "cut": ("rejected", "truncated_pixels"),
        "a link that leads out": ("rejected", "unsafe_path"),
    }.get(kind, ("rejected", "vanished"))


# --------------------------------------------------------------------------- cannot be opened now


@pytest.mark.parametrize(
    "trouble",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
    ],
)
def test_what_cannot_be_opened_now_waits_and_is_scored_later(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch, trouble: OSError
) -> None:
    write(images / "a.dcm", ONE)
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == "a.dcm":
            raise trouble
        return opened(path, *arguments, **more)

    with monkeypatch.context() as locked:
        locked.setattr(Path, "open", refuse)
        report = run_quietly(images, out, engine=engine)
    assert (report.files_deferred, report.exit_code) == (1, ExitCode.SOME_STUDIES_FAILED)
    assert outcomes(out) == {"a.dcm": ("pending", "")}
    assert run_quietly(images, out, engine=engine).exit_code == ExitCode.DONE
    assert outcomes(out) == {"a.dcm": ("scored", "")}


def test_mode_000_waits_and_is_scored_once_it_is_readable(images: Path, out: Path, engine: str) -> None:
    write(images / "a.dcm", ONE).chmod(0)
    if os.access(images / "a.dcm", os.R_OK):
        pytest.skip("root may read everything")
    assert run_quietly(images, out, engine=engine).exit_code == ExitCode.SOME_STUDIES_FAILED
    assert outcomes(out) == {"a.dcm": ("pending", "")}
    (images / "a.dcm").chmod(0o640)
    run_quietly(images, out, engine=engine)
    assert outcomes(out) == {"a.dcm": ("scored", "")}


# --------------------------------------------------------------------------- beside good ones

BAD: dict[str, Callable[[Path], object]] = {
    "zero bytes": lambda path: path.touch(),
    "cut PNG": lambda path: path.write_bytes(png_bytes(blobs(bits=8))[:-200]),
    "HTML": lambda path: path.write_bytes(b"<html>" * 50),
    "hand": lambda path: write(path, TWO, BodyPartExamined="HAND"),
    "black": lambda path: write(path, np.zeros((320, 256), np.uint16)),
    "own output": lambda path: write(path, TWO, Modality="SR", Manufacturer="cxrbatch"),
    "FIFO": os.mkfifo,
    "DICOMDIR": lambda path: write(path.with_name("DICOMDIR"), TWO),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_never_spreads(images: Path, out: Path, engine: str, tmp_path: Path, kind: str) -> None:
    run_quietly(images, tmp_path / "clean", engine=engine)
    BAD[kind](images / "bad")
    report = run_quietly(images, out, engine=engine)
    met = 0 if kind in ("FIFO", "DICOMDIR") else 1
    assert (report.files.get("rejected", 0), report.exit_code) == (met, ExitCode.DONE)
    (clean,), (mixed,) = (
        [
            {k: v for k, v in row.items() if k != "scored_at"}
            for row in read_rows(o / "images.csv")
            if row["path"] == "good.dcm"
        ]
        for o in (tmp_path / "clean", out)
    )
    assert clean == mixed
