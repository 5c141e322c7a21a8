"""Whole runs, through real worker processes and a real (tiny) engine: what is promised of them."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.manifest import EngineFile
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError, ExitCode, OutputLocked, OutputNotWritable, UsageError
from cxrbatch.intake.discover import walk
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.marks import Marks
from cxrbatch.output.sent import SentObjects
from cxrbatch.output.sent_facts import SENT_FILE
from cxrbatch.records import ImageFile, Label
from cxrbatch.run import batch, engine_slot
from cxrbatch.system.durable import TEMPORARY_PREFIX
from cxrbatch.system.progress import RunProgress
from cxrbatch.upkeep.reprint import reprint_reports
from tests.factories.engine import tiny_probabilities, write_tiny_bundle
from tests.factories.intake import blobs, write_dicom
from tests.factories.output import plain
from tests.factories.studies import fingerprint, read_rows, run_quietly, write_image

GOOD = {"a.png": (20, 60, 120, 240), "b.png": (200, 10, 10, 10), "deep/er/c.png": (90, 90, 160, 90)}


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "engines"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name, quadrants in GOOD.items():
        write_image(folder / name, *quadrants)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def expected_probabilities(path: Path, engine: str) -> list[float]:
    prepared = prepare(read_radiograph(path, Settings()), load_bundle(Path(engine)).input)
    return [float(probability) for probability in tiny_probabilities(prepared.pixels[np.newaxis])[0]]


def without_times(table: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if not k.endswith("_at")} for row in read_rows(table)]


# --------------------------------------------------------------------------- what a run leaves


def test_every_image_is_scored_with_exactly_what_the_engine_says(images: Path, out: Path, engine: str) -> None:
    report = run_quietly(images, out, engine=engine)
    assert report.files == {"scored": 3}
    assert report.exit_code == ExitCode.DONE
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert sorted(rows) == sorted(GOOD)
    for name, row in rows.items():
        scored = [float(row[f"prob_{label}"]) for label in ("TopLeft", "TopRight", "BottomLeft", "BottomRight")]
        assert scored == pytest.approx(expected_probabilities(images / name, engine), abs=2e-6)


def test_every_study_has_its_report_pictures_and_result(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine, pdf=True)
    for row in read_rows(out / "studies.csv"):
        folder = out / "reports" / row["study_key"]
        names = {path.name for path in folder.iterdir()}
        assert {plain(name) for name in names} >= {"report.html", "report.pdf", "result.json", "image-1.jpg"}
        assert any(name.startswith("heatmap-1-") for name in names)
        assert (out / row["report_pdf"]).read_bytes().startswith(b"%PDF-")
        assert row["study_key"] in (out / "index.html").read_text()
    run = json.loads((out / "run.json").read_text())
    assert run["finished"] is True
    assert run["files"] == {"scored": 3}
    assert run["stage_s"].keys() >= {"index", "read", "preprocess", "infer", "tables"}


def test_inputs_are_never_modified(images: Path, out: Path, engine: str) -> None:
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    before = fingerprint(images)
    run_quietly(images, out, engine=engine)
    assert fingerprint(images) == before


def test_a_bad_file_has_a_row_and_changes_nothing_for_the_others(
    images: Path, tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.run.score.now_text", lambda: "2026-01-01T00:00:00+00:00")
    run_quietly(images, tmp_path / "clean", engine=engine)
    (images / "b-truncated.png").write_bytes((images / "b.png").read_bytes()[:60])
    (images / "notes.txt").write_text("not an image")
    (images / "empty.dcm").touch()
    report = run_quietly(images, tmp_path / "mixed", engine=engine)
    assert report.files == {"scored": 3, "rejected": 3}
    assert report.exit_code == ExitCode.DONE
    rows = {row["path"]: row for row in without_times(tmp_path / "mixed" / "images.csv")}
    assert rows["notes.txt"]["reason"] == rows["empty.dcm"]["reason"] == "not_an_image"
    assert rows["b-truncated.png"]["status"] == "rejected"
    for row in without_times(tmp_path / "clean" / "images.csv"):
        assert rows[row["path"]] == row
        report_name = f"reports/{row['study_key']}/report.html"
        assert (tmp_path / "mixed" / report_name).read_bytes() == (tmp_path / "clean" / report_name).read_bytes()


def test_an_output_folder_inside_the_input_is_not_read_as_input(images: Path, engine: str) -> None:
    out = images / "results"
    run_quietly(images, out, engine=engine)
    report = run_quietly(images, out, engine=engine)
    assert report.files == {"scored": 3}


def test_a_folder_can_be_one_study(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine, group_by="folder")
    rows = {row["n_images"]: row for row in read_rows(out / "studies.csv")}
    assert sorted(rows) == ["1", "2"]
    scored = [row for row in read_rows(out / "images.csv") if row["study_key"] == rows["2"]["study_key"]]
    assert float(rows["2"]["prob_TopLeft"]) == max(float(row["prob_TopLeft"]) for row in scored)


def test_a_score_that_is_no_number_never_reaches_a_table(images: Path, out: Path, tmp_path: Path) -> None:
    write_image(images / "poison.png", 77, 10, 10, 10)
    engine = str(write_tiny_bundle(tmp_path / "engines", name="poisonous", poison_value=77))
    report = run_quietly(images, out, engine=engine)
    assert report.files == {"scored": 3, "failed": 1}
    assert report.exit_code == ExitCode.SOME_STUDIES_FAILED
    row = next(row for row in read_rows(out / "images.csv") if row["path"] == "poison.png")
    assert (row["status"], row["prob_TopLeft"]) == ("failed", "")
    assert "no number" in row["message"]


def test_what_a_lower_precision_cannot_score_is_scored_in_fp32(images: Path, out: Path, tmp_path: Path) -> None:
    write_image(images / "poison.png", 77, 10, 10, 10)
    engine = write_tiny_bundle(tmp_path / "engines", name="both")
    poisoned = write_tiny_bundle(tmp_path / "others", name="poisoned", poison_value=77)
    shutil.copy(poisoned / "model.onnx", engine / "model.int8.onnx")
    manifest = load_bundle(engine).manifest
    int8 = EngineFile("model.int8.onnx", sha256_of_file(engine / "model.int8.onnx"), "int8")
    save_bundle(engine, replace(manifest, files=manifest.files | {"onnx_int8": int8}))
    for scored_now in (4, 0):
        report = run_quietly(images, out, engine=str(engine), precision="int8")
        assert (report.files, report.images_scored_this_run) == ({"scored": 4}, scored_now)
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    expected = 1 / (1 + math.exp(-8 * (77 / 255 - 0.5)))
    assert float(rows["poison.png"]["prob_TopLeft"]) == pytest.approx(expected, abs=1e-4)
    assert [path for path, row in rows.items() if "rescored_fp32" in row["flags"]] == ["poison.png"]


def test_a_deidentified_run_names_no_patient_anywhere_but_in_the_input_paths(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    identity = {"PatientName": "Canary^Zoe", "PatientID": "CANARY-1", "AccessionNumber": "CANARY-2"}
    for number in range(2):
        write_dicom(images / f"{number}.dcm", pixels=blobs(seed=number), StudyInstanceUID="1.2.3", **identity)
    run_quietly(images, out, engine=engine, deidentify=True)
    assert [row["status"] for row in read_rows(out / "images.csv")] == ["scored", "scored"]
    for path in out.rglob("*"):
        assert path.is_dir() or b"canary" not in path.read_bytes().lower(), path
    (report,) = out.glob("reports/*/report.html")
    assert "0.dcm" not in report.read_text()


def test_identity_stays_in_its_declared_places(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "Canary^Zoe", tmp_path / "out"
    images.mkdir()
    write_dicom(images / "Canary.dcm", pixels=blobs(), PatientName="Canary^Zoe", PatientID="CANARY-1")
    (images / "Canary-broken.dcm").write_bytes((images / "Canary.dcm").read_bytes()[:2000])
    run_quietly(images, out, engine=engine)
    declared = {"images.csv", "studies.csv", "report.html", "result.json", "ledger.sqlite", "ledger.sqlite-wal"}
    named = {path.name for path in out.rglob("*") if path.is_file() and b"canary" in path.read_bytes().lower()}
    assert named <= declared
    assert "images.csv" in named
    assert not [path for path in out.rglob("*") if "canary" in path.name.lower()]


def test_an_identified_output_is_made_anew_when_deidentified(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_dicom(images / "0.dcm", pixels=blobs(), PatientName="Canary^Zoe", PatientID="CANARY-1")
    run_quietly(images, out, engine=engine)
    Marks(out).note(read_rows(out / "studies.csv")[0]["study_key"], "Canary was phoned")
    with SentObjects(out, "PACS@host:104"):
        pass
    run_quietly(images, out, engine=engine, deidentify_existing=True)
    assert not (out / SENT_FILE).exists()  # its study keys were plain
    for path in out.rglob("*"):
        assert path.is_dir() or b"canary" not in path.read_bytes().lower(), path


@pytest.mark.parametrize("deidentify", [False, True])
def test_one_study_uid_with_two_patients_is_refused(tmp_path: Path, engine: str, deidentify: bool) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(2):
        write_dicom(
            images / f"{number}.dcm", pixels=blobs(seed=number), StudyInstanceUID="1.2.3", PatientID=f"P{number}"
        )
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert [row["reason"] for row in read_rows(out / "images.csv")] == ["patient_conflict"] * 2
    (study,) = read_rows(out / "studies.csv")
    assert (study["status"], study["priority"]) == ("unscored", "unscored")


# --------------------------------------------------------------------------- running again


def test_a_second_run_scores_nothing_again_and_opens_no_engine(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_quietly(images, out, engine=engine)
    before = read_rows(out / "images.csv"), read_rows(out / "studies.csv")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the engine was opened")

    monkeypatch.setattr(engine_slot, "open_engine", refuse)
    report = run_quietly(images, out, engine=engine)
    assert report.studies_this_run == 0
    assert (read_rows(out / "images.csv"), read_rows(out / "studies.csv")) == before


def test_a_changed_image_and_a_new_one_are_scored_and_only_these(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine)
    write_image(images / "b.png", 10, 10, 200, 10)
    write_image(images / "new.png", 10, 200, 10, 10)
    report = run_quietly(images, out, engine=engine)
    assert report.studies_this_run == 2
    revisions = {row["study_key"]: row["revision"] for row in read_rows(out / "studies.csv")}
    keys = {row["path"]: row["study_key"] for row in read_rows(out / "images.csv")}
    assert {name: revisions[key] for name, key in keys.items()} == {
        "a.png": "1",
        "b.png": "2",
        "deep/er/c.png": "1",
        "new.png": "1",
    }


def test_another_engine_scores_everything_again_under_its_own_hash(images: Path, out: Path, tmp_path: Path) -> None:
    run_quietly(images, out, engine=str(write_tiny_bundle(tmp_path / "engines", name="first")))
    other = write_tiny_bundle(tmp_path / "engines", name="other", labels=("Only",))
    report = run_quietly(images, out, engine=str(other))
    assert report.studies_this_run == 3
    rows = read_rows(out / "images.csv")
    assert {row["engine_sha256"] for row in rows} == {load_bundle(other).describe("onnx", "onnxruntime").sha256}
    assert "prob_Only" in rows[0]
    assert "prob_TopLeft" not in rows[0]


def test_another_operating_point_is_another_engine(images: Path, out: Path, tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path / "engines", name="strict", labels=(Label("Bright", operating_point=0.99),))
    run_quietly(images, out, engine=str(first))
    assert {row["positive_Bright"] for row in read_rows(out / "images.csv")} == {"0"}
    second = write_tiny_bundle(tmp_path / "engines", name="lax", labels=(Label("Bright", operating_point=0.01),))
    report = run_quietly(images, out, engine=str(second))
    assert report.studies_this_run == 3
    assert {row["positive_Bright"] for row in read_rows(out / "images.csv")} == {"1"}


def test_other_index_rules_read_every_file_again_and_leave_no_study(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine)
    report = run_quietly(images, out, engine=engine, group_by="folder")
    assert report.studies == {"reported": 2}
    keys = {row["study_key"] for row in read_rows(out / "studies.csv")}
    assert {folder.name for folder in (out / "reports").iterdir()} == keys


def test_the_limit_leaves_the_rest_for_the_next_run(images: Path, out: Path, engine: str) -> None:
    first = run_quietly(images, out, engine=engine, limit=2)
    assert (first.files, first.exit_code) == ({"scored": 2, "pending": 1}, ExitCode.DONE)
    assert run_quietly(images, out, engine=engine).files == {"scored": 3}


def unmount(images: Path) -> Path:
    """Let the input folder be as it is where its share is not mounted; return where its files are."""
    share = images.with_name("share")
    images.rename(share)
    images.mkdir()
    return share


def test_an_empty_input_is_not_all_deleted(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine, limit=2)
    before = without_times(out / "images.csv"), without_times(out / "studies.csv")
    share = unmount(images)
    with pytest.raises(UsageError, match="is mounted"):
        run_quietly(images, out, engine=engine)
    assert (without_times(out / "images.csv"), without_times(out / "studies.csv")) == before
    images.rmdir()
    with pytest.raises(UsageError, match="cannot be listed"):
        run_quietly(images, out, engine=engine)
    share.rename(images)
    report = run_quietly(images, out, engine=engine)
    assert (report.studies_this_run, report.files) == (1, {"scored": 3})


def test_an_input_that_was_empty_from_the_beginning_is_nothing_special(tmp_path: Path, out: Path, engine: str) -> None:
    (tmp_path / "images").mkdir()
    for _ in range(2):
        report = run_quietly(tmp_path / "images", out, engine=engine)
        assert (report.files, report.exit_code) == ({}, ExitCode.DONE)


def test_an_emptied_input_keeps_its_reports_and_gives_up_what_waited(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine, limit=2)
    unmount(images)
    report = run_quietly(images, out, engine=engine, input_emptied=True)
    assert (report.files, report.reasons) == ({"scored": 2, "rejected": 1}, {"vanished": 1})
    assert report.exit_code == ExitCode.DONE
    assert run_quietly(images, out, engine=engine).files == report.files


def test_an_emptied_input_under_a_new_engine_loses_no_report(
    images: Path, out: Path, engine: str, tmp_path: Path
) -> None:
    run_quietly(images, out, engine=engine)
    share = unmount(images)
    other = str(write_tiny_bundle(tmp_path / "engines", name="other", labels=("Only",)))
    report = run_quietly(images, out, engine=other, input_emptied=True)
    assert (report.files, report.studies, report.exit_code) == ({"scored": 3}, {"reported": 3}, ExitCode.DONE)
    assert all((out / row["report_html"]).is_file() for row in read_rows(out / "studies.csv"))
    images.rmdir()
    share.rename(images)
    assert run_quietly(images, out, engine=other).studies_this_run == 3


def test_an_input_that_goes_away_while_it_is_read_fails_its_studies_until_it_is_back(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = batch.Run.process

    def unmount_then_process(run: batch.Run, *arguments: Any, **more: Any) -> None:
        unmount(images)
        process(run, *arguments, **more)

    monkeypatch.setattr(batch.Run, "process", unmount_then_process)
    report = run_quietly(images, out, engine=engine)
    assert (report.files, report.exit_code) == ({"failed": 3}, ExitCode.SOME_STUDIES_FAILED)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="mounted"):
        run_quietly(images, out, engine=engine)
    images.rmdir()
    images.with_name("share").rename(images)
    assert run_quietly(images, out, engine=engine).files == {"scored": 3}


def test_a_study_that_is_refused_after_all_leaves_no_report_behind(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine)
    (images / "a.png").write_text("no image any more")
    run_quietly(images, out, engine=engine)
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert rows["a.png"]["reason"] == "not_an_image"
    assert len(list((out / "reports").iterdir())) == 2


def test_an_image_replaced_after_it_was_indexed_is_not_scored_under_its_old_identity(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = batch.Run.process

    def replace_then_process(run: batch.Run, *arguments: Any, **more: Any) -> None:
        write_image(images / "a.png", 10, 10, 200, 10)
        process(run, *arguments, **more)

    monkeypatch.setattr(batch.Run, "process", replace_then_process)
    report = run_quietly(images, out, engine=engine)
    assert (report.files, report.exit_code) == ({"scored": 2, "failed": 1}, ExitCode.SOME_STUDIES_FAILED)
    assert "changed since it was indexed" in next(iter(report.failures.values()))
    monkeypatch.undo()
    assert run_quietly(images, out, engine=engine).files == {"scored": 3}


def test_an_input_that_cannot_be_listed_is_said_and_takes_nothing_away(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_quietly(images, out, engine=engine)
    before = without_times(out / "studies.csv")

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("cxrbatch.run.source.walk", stale)
    with pytest.raises(UsageError, match="Check that it is mounted"):
        run_quietly(images, out, engine=engine)
    assert without_times(out / "studies.csv") == before


def test_folders_that_cannot_be_listed_hide_their_images_and_are_counted(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_quietly(images, out, engine=engine)

    def without_deep(root: Path, *, on_error: Callable[[OSError], None], **more: Any) -> Iterator[ImageFile]:
        on_error(PermissionError(errno.EACCES, "Permission denied"))
        yield from (file for file in walk(root, **more) if "deep" not in file.path)

    monkeypatch.setattr("cxrbatch.run.source.walk", without_deep)
    report = run_quietly(images, out, engine=engine)
    assert (report.files, report.folders_unlistable) == ({"scored": 3}, 1)
    assert report.exit_code == ExitCode.SOME_STUDIES_FAILED


def test_a_report_that_cannot_be_printed_keeps_its_scores_and_is_tried_again(
    images: Path, out: Path, engine: str
) -> None:
    run_quietly(images, out, engine=engine, limit=1)
    (done,) = [row for row in read_rows(out / "studies.csv") if row["status"] == "reported"]
    waiting = [row["study_key"] for row in read_rows(out / "studies.csv") if row["status"] == "pending"]
    (out / "reports" / waiting[0]).write_text("a file where the report folder should be")
    report = run_quietly(images, out, engine=engine)
    assert report.exit_code == ExitCode.SOME_STUDIES_FAILED
    assert report.studies == {"reported": 2, "failed": 1}
    assert report.files == {"scored": 3}
    (out / "reports" / waiting[0]).unlink()
    again = run_quietly(images, out, engine=engine)
    assert (again.studies, again.exit_code) == ({"reported": 3}, ExitCode.DONE)
    assert {row["revision"] for row in read_rows(out / "studies.csv")} == {"1"}
    assert done["study_key"] not in waiting


# --------------------------------------------------------------------------- when it cannot run


def test_an_engine_that_is_not_there_is_said_before_anything_is_read(images: Path, out: Path) -> None:
    with pytest.raises(EngineError, match="no engine nowhere"):
        run_quietly(images, out, engine="nowhere")
    assert not out.exists()


def test_a_second_run_on_the_same_output_is_refused_and_a_dead_one_is_not(images: Path, out: Path, engine: str) -> None:
    with open_output(out), pytest.raises(OutputLocked, match=f"process {os.getpid()}"):
        run_quietly(images, out, engine=engine)
    assert run_quietly(images, out, engine=engine).files == {"scored": 3}


def test_an_output_that_is_a_file_is_not_writable(images: Path, tmp_path: Path, engine: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputNotWritable, match="cannot be written"):
        run_quietly(images, tmp_path / "file" / "out", engine=engine)


@pytest.mark.parametrize("out_name", [".", ".."])
def test_results_do_not_go_where_the_images_lie(images: Path, engine: str, out_name: str) -> None:
    before = fingerprint(images)
    with pytest.raises(UsageError, match="Choose another output folder"):
        run_quietly(images, images / out_name, engine=engine)
    assert fingerprint(images) == before


def test_another_runs_results_are_not_images(images: Path, engine: str) -> None:
    run_quietly(images, images / "first", engine=engine)
    assert run_quietly(images, images / "second", engine=engine).files == {"scored": 3}
    with pytest.raises(UsageError, match="its pictures are no images"):
        run_quietly(images / "first", images / "third", engine=engine)


def test_a_tampered_engine_is_refused_also_when_nothing_waits(images: Path, out: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine)
    (Path(engine) / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(EngineError, match="not the file this engine was built with"):
        run_quietly(images, out, engine=engine)


def test_a_study_of_too_many_images_scores_the_first_and_refuses_the_rest(images: Path, out: Path, engine: str) -> None:
    write_image(images / "d.png", 10, 10, 10, 200)
    report = run_quietly(images, out, engine=engine, group_by="folder", max_images_per_study=2)
    assert report.files == {"scored": 3, "rejected": 1}
    assert report.reasons == {"too_many_images": 1}


def test_a_circle_of_links_stops_nothing(images: Path, out: Path, engine: str) -> None:
    (images / "me").symlink_to("me")
    (images / "nowhere").symlink_to("missing.png")
    (images / "up").symlink_to("..")
    assert run_quietly(images, out, engine=engine).files == {"scored": 3}


def test_without_pango_everything_but_the_pdf_works(images: Path, out: Path, engine: str, tmp_path: Path) -> None:
    broken = tmp_path / "site" / "weasyprint"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('cannot load library libpango')")
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    more = {"PYTHONPATH": f"{broken.parent}{os.pathsep}{Path(__file__).parents[2]}"}
    subprocess.run([sys.executable, script, images, out, engine], check=True, env=os.environ | more)
    assert {row["status"] for row in read_rows(out / "studies.csv")} == {"reported"}


def test_one_output_folder_belongs_to_one_input_folder(images: Path, out: Path, tmp_path: Path, engine: str) -> None:
    run_quietly(images, out, engine=engine)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="Choose another output folder"):
        run_quietly(tmp_path / "other", out, engine=engine)


def test_refused_files_are_read_again_only_when_asked_and_what_is_the_same_is_not_scored_again(
    images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was refused through no fault of its own, such as by a decoder that was missing then."""
    (images / "notes.txt").write_text("no image, and it stays none")
    unchanged = write_image(images / "was-blank.png", 20, 60, 120, 240).stat()
    good = (images / "was-blank.png").read_bytes()
    write_image(images / "was-blank.png", 90, 90, 90, 90)
    blank = (images / "was-blank.png").read_bytes()
    size = max(len(good), len(blank))
    (images / "was-blank.png").write_bytes(blank.ljust(size, b"\0"))
    os.utime(images / "was-blank.png", ns=(unchanged.st_mtime_ns, unchanged.st_mtime_ns))
    assert run_quietly(images, out, engine=engine).reasons == {"blank": 1, "not_an_image": 1}
    (images / "was-blank.png").write_bytes(good.ljust(size, b"\0"))
    os.utime(images / "was-blank.png", ns=(unchanged.st_mtime_ns, unchanged.st_mtime_ns))
    for retry in ("failed", "failed"):
        assert run_quietly(images, out, engine=engine, retry=retry).studies_this_run == 0
    report = run_quietly(images, out, engine=engine, retry="rejected")
    assert (report.studies_this_run, report.reasons) == (1, {"not_an_image": 1})
    assert {row["revision"] for row in read_rows(out / "studies.csv")} == {"1"}


def test_retry_is_an_option_of_run(images: Path, out: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    (images / "notes.txt").write_text("no image")
    arguments = ["run", str(images), "-o", str(out), "-e", engine, "--workers", "1", "--no-pdf"]
    run_quietly(images, out, engine=engine)
    assert run_command_line([*arguments, "--retry", "rejected"]) == ExitCode.DONE
    indexed = [json.loads(line) for line in (out / "cxrbatch.log").read_text().splitlines()]
    assert [line["read"] for line in indexed if line["event"] == "indexed"] == [4, 1]
    assert run_command_line([*arguments, "--retry", "all"]) == ExitCode.USAGE


# --------------------------------------------------------------------------- the ledger elsewhere


def test_a_run_with_a_state_folder_leaves_the_same_tables_and_is_continued_and_reprinted_without_the_option(
    images: Path, out: Path, tmp_path: Path, engine: str
) -> None:
    run_quietly(images, tmp_path / "plain", engine=engine)
    state = tmp_path / "state"
    run_quietly(images, out, engine=engine, state=str(state))
    assert (state / "ledger.sqlite").is_file()
    assert not (out / "ledger.sqlite").exists()
    for table in ("images.csv", "studies.csv"):
        assert without_times(out / table) == without_times(tmp_path / "plain" / table)
    assert run_quietly(images, out, engine=engine).studies_this_run == 0
    with RunProgress(Console(quiet=True)) as progress:
        assert reprint_reports(out, Settings(workers=1, pdf=False), progress) == {}
    assert run_command_line(["status", str(out)]) == ExitCode.DONE


def test_a_state_folder_among_the_images_is_refused(images: Path, out: Path, engine: str) -> None:
    with pytest.raises(UsageError, match="Choose a --state outside"):
        run_quietly(images, out, engine=engine, state=str(images / "deep" / "state"))
    assert not (images / "deep" / "state").exists()


def test_an_output_among_the_images_whose_ledger_is_elsewhere_is_not_read_as_input(
    images: Path, tmp_path: Path, engine: str
) -> None:
    run_quietly(images, images / "results", engine=engine, state=str(tmp_path / "state"))
    assert run_quietly(images, tmp_path / "second", engine=engine).files == {"scored": 3}


# --------------------------------------------------------------------------- killed and stopped

CHILD = """
import sys
from pathlib import Path
from tests.factories.studies import run_quietly
if __name__ == "__main__":
    run_quietly(Path(sys.argv[1]), Path(sys.argv[2]), engine=sys.argv[3], batch_size=1)
"""


def start_run(tmp_path: Path, command: list[str]) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "CXRBATCH_PIXEL_CHECK": "false"}
    return subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)


def wait_for(condition: str, out: Path, *, timeout_s: float = 60) -> None:
    """Wait until the log of a run in another process tells of `condition`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (out / "cxrbatch.log").exists() and condition in (out / "cxrbatch.log").read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"the run never came to: {condition}")


def test_a_killed_run_resumes_to_the_same_tables(tmp_path: Path, engine: str) -> None:
    images = tmp_path / "images"
    for number in range(30):
        write_image(images / f"{number:02}.png", number * 7, 250 - number * 7, 128, number)
    run_quietly(images, tmp_path / "uninterrupted", engine=engine)
    out = tmp_path / "out"
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    child = start_run(tmp_path, [str(script), str(images), str(out), engine])
    wait_for("study done", out)
    child.kill()
    child.communicate()
    resumed = run_quietly(images, out, engine=engine)
    assert 0 < resumed.studies_this_run < 30
    for table in ("images.csv", "studies.csv"):
        assert without_times(out / table) == without_times(tmp_path / "uninterrupted" / table)
    assert not list(out.rglob(f"{TEMPORARY_PREFIX}*"))


def test_sigterm_leaves_tables_of_what_is_done_and_says_so(tmp_path: Path, engine: str) -> None:
    images = tmp_path / "images"
    for number in range(200):
        write_image(images / f"{number:03}.png", number, 200 - number, 128, 60)
    out = tmp_path / "out"
    child = start_run(
        tmp_path, ["-m", "cxrbatch", "run", str(images), "-o", str(out), "-e", engine, "--workers", "1", "--no-pdf"]
    )
    wait_for("study done", out)
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert b"run the same command again" in stderr
    statuses = [row["status"] for row in read_rows(out / "images.csv")]
    assert len(statuses) == 200
    assert set(statuses) == {"scored", "pending"}
    assert json.loads((out / "run.json").read_text())["finished"] is False
