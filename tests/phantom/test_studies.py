"""The demo folder: what PACS exports hold, and the truth about it kept beside."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cxrbatch.phantom import FINDINGS, TRANSFER_SYNTAXES, DemoStudy, draw_lateral, write_demo_studies, write_truth

Written = tuple[Path, list[DemoStudy]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("demo") / "studies"
    return folder, write_demo_studies(folder, n_studies=12, seed=3, rows=128)


def test_every_file_is_described_and_every_description_is_a_file(written: Written) -> None:
    folder, studies = written
    described = {image.path for study in studies for image in study.images}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert described == found


def test_headers_say_what_the_descriptions_say(written: Written) -> None:
    folder, studies = written
    for study in studies:
        for image in study.images:
            if image.expected not in {"scored", "not_frontal"}:
                continue
            header = pydicom.dcmread(folder / image.path, stop_before_pixels=True)
            assert header.StudyInstanceUID == study.study_instance_uid
            assert header.SOPInstanceUID == image.sop_instance_uid
            assert header.ViewPosition == image.view
            assert str(header.PatientName).startswith("Phantom^")


def test_a_study_is_one_patient_whose_name_goes_with_the_sex(written: Written) -> None:
    folder, studies = written
    sexes: dict[str, str] = {}
    for study in studies:
        readable = [image for image in study.images if image.expected in {"scored", "not_frontal"}]
        headers = [pydicom.dcmread(folder / image.path, stop_before_pixels=True) for image in readable]
        assert len({(str(header.PatientName), header.PatientSex) for header in headers}) <= 1
        for header in headers:
            assert sexes.setdefault(str(header.PatientName), header.PatientSex) == header.PatientSex
    assert set(sexes.values()) == {"F", "M"}
    assert sexes.get("Phantom^Otto", "M") == "M"
    assert sexes.get("Phantom^Ursula", "F") == "F"


def test_uids_are_valid_and_unique(written: Written) -> None:
    _, studies = written
    uids = [study.study_instance_uid for study in studies]
    uids += [image.sop_instance_uid for study in studies for image in study.images if image.sop_instance_uid]
    assert all(pydicom.uid.UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)
    assert len(set(uids)) == len(uids)


def test_the_folder_holds_the_promised_variety(written: Written) -> None:
    folder, studies = written
    expected = Counter(image.expected for study in studies for image in study.images)
    assert expected["not_frontal"] >= 1
    assert expected["truncated_pixels"] == 1
    assert expected["not_an_image"] == 1
    assert expected["scored"] >= 12 + 1
    headers = [
        pydicom.dcmread(folder / image.path, stop_before_pixels=True)
        for study in studies
        for image in study.images
        if image.expected == "scored"
    ]
    kinds = {(str(header.file_meta.TransferSyntaxUID), header.PhotometricInterpretation) for header in headers}
    assert kinds == {(syntax, polarity) for syntax in TRANSFER_SYNTAXES for polarity in ("MONOCHROME1", "MONOCHROME2")}


def test_the_file_that_broke_off_has_a_header_and_too_few_pixels(written: Written) -> None:
    folder, studies = written
    (path,) = (image.path for study in studies for image in study.images if image.expected == "truncated_pixels")
    dataset = pydicom.dcmread(folder / path)
    assert dataset.Rows == 128
    assert (folder / path).stat().st_size < dataset.Rows * dataset.Columns * 2


def test_images_of_one_study_show_the_same_findings(written: Written) -> None:
    _, studies = written
    pairs = [study for study in studies if sum(image.expected == "scored" for image in study.images) == 2]
    assert pairs
    for study in pairs:
        first, second = (image for image in study.images if image.expected == "scored")
        assert first.findings == second.findings == study.findings
        assert first.sop_instance_uid != second.sop_instance_uid


def test_the_same_seed_writes_the_same_bytes(written: Written, tmp_path: Path) -> None:
    folder, studies = written
    again = write_demo_studies(tmp_path / "again", n_studies=3, seed=3, rows=128)
    assert again == studies[:3]
    for study in again:
        for image in study.images:
            one, other = (folder / image.path).read_bytes(), (tmp_path / "again" / image.path).read_bytes()
            assert hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


def test_truth_is_a_row_for_every_file(written: Written, tmp_path: Path) -> None:
    _, studies = written
    write_truth(tmp_path / "truth.csv", studies)
    with (tmp_path / "truth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [(study, image) for study in studies for image in study.images]
    assert len(rows) == len(images)
    for row, (study, image) in zip(rows, images, strict=True):
        assert (row["path"], row["study_uid"], row["expected"]) == (
            image.path,
            study.study_instance_uid,
            image.expected,
        )
        assert tuple(name for name in FINDINGS if row[name] == "1") == image.findings


def test_progress_counts_studies(tmp_path: Path) -> None:
    seen: list[int] = []
    write_demo_studies(tmp_path, n_studies=2, seed=1, rows=64, progress=seen.append)
    assert seen == [1, 2]


def test_a_lateral_view_is_no_frontal_one() -> None:
    lateral = draw_lateral(4, rows=128, columns=100)
    assert lateral.stored.shape == (128, 100)
    assert lateral.findings == ()
    picture = lateral.stored.astype(float)
    # Seen from the side there is no second lung: the front half is unlike the back half mirrored.
    assert np.corrcoef(picture[:, :50].ravel(), picture[:, :49:-1].ravel())[0, 1] < 0.9
