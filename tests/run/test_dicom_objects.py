"""Objects in whole runs: beside the reports, through revisions, kills and reprints, and back in INPUT."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import pydicom
import pytest
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.output.dicom.object_files import is_object_of, object_folder
from cxrbatch.output.folder.settle import read_result
from cxrbatch.phantom.studies import write_demo_studies
from cxrbatch.records import StudyResult
from cxrbatch.upkeep.repair import repair_output
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.intake import blobs, write_dicom
from tests.factories.judged import disagreements
from tests.factories.objects import errors_in, needs_dciodvfy
from tests.factories.outputs import leftovers
from tests.factories.studies import fingerprint, read_rows, run_quietly

SHARED = Path(os.environ.get("CXRBATCH_SHARED_DATA", "/nowhere")) / "dicom"
STUDY, SERIES = "2.999.1", "2.999.2"
OBJECTS = {"dicom": "sr,sc", "heatmaps": "all"}
FOLDERS = ("chest", "transfer_syntaxes")
# In the second revision: before and between its files, of which the objects come last, and on to the ledger and after.
EVERY_KILL = (
    *("copy-link", "copy-linked", *(f"files-renamed:{n}" for n in range(6, 14)), "report-written"),
    *("ledger-committed:3", "ledger-committed:4", "tidy", "intent-remove", "tidied"),
)
SOME_KILLS = ("copy-linked", "files-renamed:8", "files-renamed:11", "files-renamed:13", "ledger-committed:3", "tidy")
# Each of them in `make soak`.
KILLS = EVERY_KILL if os.environ.get("CXRBATCH_EVERY_FAULT") else SOME_KILLS


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_bundle(tmp_path_factory.mktemp("engines")))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    write_image(folder, 1)
    return folder


def write_image(folder: Path, number: int) -> Path:
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": f"2.999.3.{number}"}
    with pydicom_config.disable_value_validation():
        return write_dicom(folder / f"{number}.dcm", pixels=blobs(seed=number), PatientAge="58", **uids)


def folders(out: Path) -> list[Path]:
    return sorted((out / "reports").iterdir())


def result_in(folder: Path) -> StudyResult:
    result = read_result(folder)
    assert result is not None
    return result


def names(folder: Path) -> set[str]:
    return {path.name for path in object_folder(folder).glob("*")}


def read_sr(folder: Path) -> Dataset:
    return pydicom.dcmread(object_folder(folder) / "sr.dcm")


def follows(made: Dataset) -> str:
    (study,) = made.PredecessorDocumentsSequence
    return str(study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


# --------------------------------------------------------------------------- what is written


@needs_dciodvfy
@pytest.mark.parametrize(
    "phantoms",
    [
        pytest.param(True, id="phantoms"),
        pytest.param(
            False,
            id="real radiographs",
            marks=pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data (CXRBATCH_SHARED_DATA)"),
        ),
    ],
)
def test_objects_of_whole_runs_are_conformant(tmp_path: Path, engine: str, *, phantoms: bool) -> None:
    source, out = tmp_path / "images", tmp_path / "out"
    if phantoms:
        write_demo_studies(source, n_studies=3, seed=1, rows=256)
    else:
        for name in FOLDERS:
            shutil.copytree(SHARED / name, source / name)
    given = ["-e", engine, "--heatmaps", "all", "--workers", "2", "-q"]
    assert run_command_line(["run", "--dicom", str(source), "-o", str(out), *given]) == ExitCode.DONE
    written = sorted(out.rglob("*.dcm"))
    kinds = [path.name for path in written]
    assert kinds.count("sr.dcm") == kinds.count("report.dcm") == kinds.count("overlay-1.dcm") == len(folders(out)) >= 3
    assert {path.name: errors_in(path) for path in written if errors_in(path)} == {}
    for folder in folders(out):
        together = ["dcentvfy", *map(str, object_folder(folder).iterdir())]
        said = subprocess.run(together, capture_output=True, check=False).stderr.decode("utf-8", "replace")
        assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_a_run_leaves_objects_of_dicom_and_none_of_pictures(
    tmp_path: Path, images: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    out = tmp_path / "out"
    assert cv2.imwrite(str(images / "picture.png"), blobs(bits=8, seed=3))
    assert run_command_line(["run", "--dicom", str(images), "-o", str(out), "-e", engine, "-q", "--workers", "1"]) == 0
    made = {folder for folder in folders(out) if object_folder(folder).exists()}
    (folder,) = made
    assert len(folders(out)) == 2
    assert names(folder) == {"sr.dcm", "overlay-1.dcm", "report.dcm"}
    assert all(is_object_of(path, result_in(folder)) for path in object_folder(folder).iterdir())
    sr, document = read_sr(folder), pydicom.dcmread(object_folder(folder) / "report.dcm")
    assert (sr.StudyInstanceUID, sr.PatientName, "PatientAge" in sr) == (STUDY, "Doe^Jane", False)
    length = document.EncapsulatedDocumentLength
    assert document.EncapsulatedDocument[:length] == (folder / "report.pdf").read_bytes()
    assert {path.stat().st_mode & 0o777 for path in object_folder(folder).iterdir()} == {0o640}
    before = fingerprint(object_folder(folder))
    assert run_command_line(["report", str(out), "--dicom", "-q", "--workers", "1"]) == 0
    after = fingerprint(object_folder(folder))
    assert {name: digest for name, (digest, _) in after.items()} == {
        name: digest for name, (digest, _) in before.items()
    }


def test_the_input_may_be_gone_when_objects_are_printed(tmp_path: Path, images: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine)
    (folder,) = folders(out)
    assert not object_folder(folder).exists()
    page = (folder / "report.html").read_bytes()
    shutil.rmtree(images)
    again = ["report", str(out), "--dicom=sr,sc", "--heatmaps", "all", "--no-html", "--no-pdf", "--workers", "1", "-q"]
    assert run_command_line(again) == ExitCode.DONE
    assert names(folder) == {"sr.dcm", "overlay-1.dcm"}
    assert read_sr(folder).StudyInstanceUID == STUDY
    assert (folder / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dicom": "sr", "deidentify": True}, "--deidentify and --dicom"),
        ({"dicom": "sr", "deidentify_existing": True}, "--deidentify and --dicom"),
        ({"dicom": "sr,pdf", "pdf": False}, "--no-pdf"),
        ({"dicom": "sr", "pictures": False, "html": False}, "--no-pictures"),
    ],
)
def test_objects_that_cannot_be_are_a_usage_error(
    tmp_path: Path, images: Path, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run_quietly(images, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_names_that_are_taken_out_take_objects_along(tmp_path: Path, images: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine, **OBJECTS)
    assert run_quietly(images, out, engine=engine, deidentify_existing=True).exit_code == ExitCode.DONE
    assert list(out.rglob("*.dcm")) == []
    assert run_command_line(["report", str(out), "--dicom=sr", "--no-pdf", "-q"]) == ExitCode.USAGE
    assert list(out.rglob("*.dcm")) == []


@pytest.mark.parametrize("same_pixels", [True, False])
def test_of_two_images_with_one_instance_uid_only_what_is_sure_is_referred_to(
    tmp_path: Path, images: Path, engine: str, *, same_pixels: bool
) -> None:
    """Copies are one image; of two that conflict neither is scored, and the other image of the study stands alone."""
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": "2.999.3.1"}
    write_dicom(images / "copy.dcm", pixels=blobs(seed=1 if same_pixels else 9), StationName="edited", **uids)
    write_image(images, 2)
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine, **OBJECTS)
    (folder,) = folders(out)
    made = read_sr(folder)
    (study,) = made.CurrentRequestedProcedureEvidenceSequence
    referred = [item.ReferencedSOPInstanceUID for item in study.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert referred == (["2.999.3.1", "2.999.3.2"] if same_pixels else ["2.999.3.2"])
    reasons = {row["path"]: (row["status"], row["reason"]) for row in read_rows(out / "images.csv")}
    expected = ("duplicate", "") if same_pixels else ("rejected", "conflicting_duplicate")
    assert expected in {reasons["1.dcm"], reasons["copy.dcm"]}
    assert len(names(folder)) == 1 + len(referred), "an overlay for each"


# --------------------------------------------------------------------------- revisions


def test_a_second_revision_follows_the_first_and_keeps_it(tmp_path: Path, images: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine, **OBJECTS)
    (folder,) = folders(out)
    first = read_sr(folder)
    write_image(images, 2)
    run_quietly(images, out, engine=engine, **OBJECTS)
    assert names(folder) == {"sr.dcm", "sr-r1.dcm", "overlay-1.dcm", "overlay-2.dcm"}
    second = read_sr(folder)
    assert (
        follows(second) == first.SOPInstanceUID == pydicom.dcmread(object_folder(folder) / "sr-r1.dcm").SOPInstanceUID
    )
    write_image(images, 3)
    run_quietly(images, out, engine=engine)
    assert names(folder) == {"sr-r1.dcm", "sr-r2.dcm"}, "what is stale goes, what it replaced is kept"
    assert run_command_line(["report", str(out), "--dicom=sr", "--no-pdf", "-q", "--workers", "1"]) == ExitCode.DONE
    assert follows(read_sr(folder)) == second.SOPInstanceUID
    assert disagreements(out) == []


def test_own_objects_that_come_back_belong_to_no_study(tmp_path: Path, images: Path, engine: str) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine, pdf=True, dicom="sr,sc,pdf", heatmaps="all")
    (folder,) = folders(out)
    before = fingerprint(folder)
    shutil.copytree(object_folder(folder), images / "back")
    for _ in range(2):
        report = run_quietly(images, out, engine=engine, pdf=True, dicom="sr,sc,pdf", heatmaps="all")
        assert (report.studies_this_run, report.images_scored_this_run) == (0, 0)
    assert fingerprint(folder) == before
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    own = [row for path, row in rows.items() if path.startswith("back/")]
    assert len(own) == 3
    assert {(row["status"], row["reason"], row["study_key"]) for row in own} == {("rejected", "own_output", "")}
    assert [row["revision"] for row in read_rows(out / "studies.csv")] == ["1"]
    for path in (images / "back").iterdir():
        path.unlink()
    assert run_quietly(images, out, engine=engine, pdf=True).studies_this_run == 0


# --------------------------------------------------------------------------- kills, and a lost ledger


@pytest.fixture(scope="module")
def runs() -> Iterator[FaultedRuns]:
    with FaultedRuns() as helper:
        yield helper


def test_whatever_a_kill_leaves_the_next_run_ends_with_the_objects_of_its_results(
    tmp_path: Path, images: Path, engine: str, runs: FaultedRuns
) -> None:
    more = ("--dicom=sr,sc", "--heatmaps", "all")
    assert runs.run(images, tmp_path / "before", engine, *more).exit_code == ExitCode.DONE
    first = read_sr(folders(tmp_path / "before")[0]).SOPInstanceUID
    write_image(images, 2)
    killed = 0
    for point in KILLS:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        (tmp_path / "before").rename(out)
        shutil.copytree(out, tmp_path / "before")
        ended = runs.run(images, out, engine, *more, fault=f"{point}=kill")
        killed += ended.exit_code == -signal.SIGKILL
        assert runs.run(images, out, engine, *more).exit_code == ExitCode.DONE, point
        (folder,) = folders(out)
        result = result_in(folder)
        assert result.revision == 2, point
        assert names(folder) == {"sr.dcm", "sr-r1.dcm", "overlay-1.dcm", "overlay-2.dcm"}, point
        current = names(folder) - {"sr-r1.dcm"}
        assert all(is_object_of(object_folder(folder) / name, result) for name in current), point
        assert follows(read_sr(folder)) == first, point
        assert (disagreements(out), leftovers(out)) == ([], []), point
    assert killed == len(KILLS)


def test_a_ledger_made_anew_lets_objects_stand_and_prints_foreign_ones_again(
    tmp_path: Path, images: Path, engine: str
) -> None:
    out = tmp_path / "out"
    run_quietly(images, out, engine=engine, **OBJECTS)
    (folder,) = folders(out)
    before = fingerprint(object_folder(folder))
    (out / "ledger.sqlite").write_bytes(b"damaged")
    assert repair_output(out).retried == 0
    assert run_quietly(images, out, engine=engine, **OBJECTS).images_scored_this_run == 0
    assert fingerprint(object_folder(folder)) == before
    sr = object_folder(folder) / "sr.dcm"
    whole = sr.read_bytes()
    sr.write_bytes(whole.replace(b"cxrbatch-result ", b"somebody-else's "))
    (out / "ledger.sqlite").write_bytes(b"damaged")
    assert repair_output(out).retried == 1
    assert run_quietly(images, out, engine=engine, **OBJECTS).exit_code == ExitCode.DONE
    assert sr.read_bytes() == whole
