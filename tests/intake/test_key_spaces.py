"""One key space each: no UID, path or folder, whatever it spells, is another one's study; and how old keys are left."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydicom import config as pydicom_config

from cxrbatch.config import GroupBy
from cxrbatch.intake import discover
from cxrbatch.intake.discover import picture_study_key, raster_identity, study_key
from cxrbatch.run import index as indexing, read as reading
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs, write_dicom
from tests.factories.studies import read_headers_here, read_rows, run_quietly, write_image

pytestmark = pytest.mark.hostile("9.4 key spaces")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_bundle(tmp_path_factory.mktemp("engines")))


@pytest.mark.parametrize("uid", ["1.2.3", "2.25.302", "1." * 31 + "12"])
def test_a_real_study_keeps_the_key_that_it_always_had(uid: str) -> None:
    assert study_key(uid) == hashlib.sha256(uid.encode()).hexdigest()[:16]


@given(st.text(), st.text())
def test_no_uid_path_or_folder_is_hashed_as_another(one: str, other: str) -> None:
    spellings = {one, other, f"uid\0{one}", f"path\0{one}", f"folder\0{one}", f"{one}/x"}
    hashed: dict[str, tuple[str, str]] = {}
    for text in spellings:
        for kind, key in (
            ("uid", study_key(text)),
            ("path", picture_study_key(text, "file")),
            ("folder", picture_study_key(f"{text}/picture.png", "folder")),
        ):
            whose = (kind, raster_identity(f"{text}/picture.png", "folder") if kind == "folder" else text)
            assert hashed.setdefault(key, whose) == whose


@pytest.mark.parametrize(
    "spelled", ["a.png", "path\0a.png", "folder\0.", ".", "1", "1.2.3", "p10/p10000032/s50414267", "uid\0a.png"]
)
def test_a_uid_that_spells_a_path_is_no_picture(spelled: str) -> None:
    keys = [study_key(spelled), picture_study_key(spelled, "file"), picture_study_key(f"{spelled}/x", "folder")]
    assert len(set(keys)) == 3


def test_an_image_that_spells_a_picture_is_a_study_of_its_own(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "1.2.png", 200, 20, 20, 20)
    with pydicom_config.disable_value_validation():
        write_dicom(images / "spells.dcm", pixels=blobs(), StudyInstanceUID="1.2.png")
    run_quietly(images, out, engine=engine)
    assert len({row["study_key"] for row in read_rows(out / "images.csv")}) == 2
    assert [row["n_images"] for row in read_rows(out / "studies.csv")] == ["1", "1"]


def test_a_folder_where_a_file_of_its_name_was_is_another_study(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(tmp_path / "one.png", 200, 20, 20, 20)
    images.mkdir()
    shutil.copy(tmp_path / "one.png", images / "a")
    run_quietly(images, out, engine=engine)
    (before,) = read_rows(out / "studies.csv")
    (images / "a").unlink()
    write_image(images / "a" / "b.png", 20, 200, 20, 20)
    run_quietly(images, out, engine=engine, group_by="folder")
    studies = {row["study_key"]: row for row in read_rows(out / "studies.csv")}
    assert len(studies) == 2
    assert studies[before["study_key"]] == before


# --------------------------------------------------------------------------- an output folder of the version before


def run_as_before(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Run with the keys and the index of the version that had one space for all."""

    def former_key(identity: str) -> str:
        return hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]

    def former_picture_key(path: str, group_by: GroupBy) -> str:
        return former_key(raster_identity(path, group_by))

    with monkeypatch.context() as former:
        former.setattr(indexing, "INDEX_VERSION", 3)
        former.setattr(indexing, "read_headers", read_headers_here)
        former.setattr(discover, "study_key", former_key)
        former.setattr(discover, "picture_study_key", former_picture_key)
        former.setattr(reading, "_conflict", lambda _task: "")
        run_quietly(images, out, **settings)


def test_studies_move_to_their_new_keys_and_none_is_doubled_or_lost(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "here.png", 200, 20, 20, 20)
    write_image(images / "gone.png", 20, 200, 20, 20)
    write_dicom(images / "image.dcm", pixels=blobs(), StudyInstanceUID="1.2.3")
    with pydicom_config.disable_value_validation():
        write_dicom(images / "spells.dcm", pixels=blobs(seed=1), StudyInstanceUID="here.png")
    run_as_before(images, out, monkeypatch, engine=engine)
    (images / "gone.png").unlink()
    before = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert before["here.png"]["study_key"] == before["spells.dcm"]["study_key"]
    gone = next(row for row in read_rows(out / "studies.csv") if row["study_key"] == before["gone.png"]["study_key"])
    run_quietly(images, out, engine=engine)
    after = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert after.keys() == before.keys()
    assert {row["status"] for row in after.values()} == {"scored"}
    assert after["here.png"]["study_key"] == picture_study_key("here.png", "file")
    assert after["image.dcm"]["study_key"] == before["image.dcm"]["study_key"]
    assert after["gone.png"] == before["gone.png"]
    assert {path: row["prob_TopLeft"] for path, row in after.items()} == {
        path: row["prob_TopLeft"] for path, row in before.items()
    }
    studies = {row["study_key"]: row for row in read_rows(out / "studies.csv")}
    assert sorted(row["n_images"] for row in studies.values()) == ["1"] * 4
    assert studies[gone["study_key"]] == gone
    assert (out / gone["report_html"]).is_file()
    assert {folder.name for folder in out.glob("reports/*")} == set(studies)
    assert run_quietly(images, out, engine=engine).studies_this_run == 0


def test_a_folder_of_which_a_picture_is_gone_keeps_its_report(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "a" / "here.png", 200, 20, 20, 20)
    write_image(images / "a" / "gone.png", 20, 200, 20, 20)
    run_as_before(images, out, monkeypatch, engine=engine, group_by="folder", pdf=True)
    (images / "a" / "gone.png").unlink()
    (before,) = read_rows(out / "studies.csv")
    for _ in range(2):
        run_quietly(images, out, engine=engine, group_by="folder", pdf=True)
        (after,) = read_rows(out / "studies.csv")
        assert (after["study_key"], after["revision"], after["n_images"]) == (before["study_key"], "2", "2")
    assert [row["status"] for row in read_rows(out / "images.csv")] == ["scored", "scored"]
    assert (out / "reports" / before["study_key"] / "report-r1.pdf").is_file()
