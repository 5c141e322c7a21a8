"""Two people under one Study Instance UID, in every order in which their images come, go and are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.intake import discover
from cxrbatch.run import read as reading
from cxrbatch.run.index import index_input
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs, png_bytes, write_dicom
from tests.factories.studies import read_headers_here, read_rows, run_quietly

pytestmark = pytest.mark.hostile("9.2 two patients in a study")

STUDY = "1.2.3"
CONFLICT = ("rejected", "patient_conflict")
JANE = {
    "PatientID": "1",
    "IssuerOfPatientID": "Hospital",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19620228",
    "PatientSex": "F",
}
OTHERS: dict[str, dict[str, Any]] = {
    "ID": {"PatientID": "2"},
    "issuer": {"IssuerOfPatientID": "Clinic"},
    "name": {"PatientName": "Doe^Joan"},
    "birth date": {"PatientBirthDate": "19620301"},
    "sex": {"PatientSex": "M"},
}
either_way = pytest.mark.parametrize("deidentify", [False, True], ids=["named", "deidentified"])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_bundle(tmp_path_factory.mktemp("engines")))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def write(path: Path, seed: int = 0, **keywords: Any) -> Path:
    return write_dicom(path, pixels=blobs(seed=seed), **JANE | {"StudyInstanceUID": STUDY} | keywords)


def outcomes(out: Path) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["status"], row["reason"]) for row in read_rows(out / "images.csv")}


def status(out: Path) -> str:
    (study,) = read_rows(out / "studies.csv")
    return study["status"]


@either_way
def test_one_element_that_differs_refuses_the_study(images: Path, out: Path, engine: str, deidentify: bool) -> None:
    for number, (other, elements) in enumerate(OTHERS.items()):
        study = f"1.2.3.{number}"
        write(images / f"{other} a.dcm", number, StudyInstanceUID=study)
        write(images / f"{other} b.dcm", number + 10, **{"StudyInstanceUID": study, **elements})
    run_quietly(images, out, engine=engine, html=False, deidentify=deidentify)
    assert outcomes(out) == {path.name: CONFLICT for path in images.iterdir()}
    assert {row["status"] for row in read_rows(out / "studies.csv")} == {"unscored"}
    assert not list(out.glob("reports/*"))


@either_way
def test_what_is_empty_or_spelled_otherwise_refuses_nothing(
    images: Path, out: Path, engine: str, deidentify: bool
) -> None:
    write(images / "a.dcm")
    write(images / "b.dcm", 1, PatientName="DOE^JANE^^^", IssuerOfPatientID="", PatientSex="O")
    write(images / "c.dcm", 2, PatientID="", PatientName="", PatientBirthDate="", PatientSex="")
    run_quietly(images, out, engine=engine, html=False, deidentify=deidentify)
    assert set(outcomes(out).values()) == {("scored", "")}


REFUSED: dict[str, Callable[..., object]] = {
    "by its view": lambda path, **study: write(path, 1, ViewPosition="LL", **study),
    "by its modality": lambda path, **study: write(path, 1, Modality="CT", **study),
    "raw": lambda path, **study: write(path, 1, PresentationIntentType="FOR PROCESSING", **study),
    "cut short": lambda path, **study: _cut(write(path, 1, **study)),
    "by its pixels": lambda path, **study: write_dicom(path, pixels=blobs(seed=1) * 0 + 9, **JANE | study),
    "as a duplicate": lambda path, **study: write(path, 0, **study),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


@either_way
def test_an_image_of_another_patient_counts_also_where_it_is_refused(
    images: Path, out: Path, engine: str, deidentify: bool
) -> None:
    for number, (refused, write_refused) in enumerate(REFUSED.items()):
        study = f"1.2.3.{number}"
        write(images / f"{refused} a.dcm", StudyInstanceUID=study)
        write_refused(images / f"{refused} b.dcm", PatientName="Roe^Rose", StudyInstanceUID=study)
    run_quietly(images, out, engine=engine, html=False, deidentify=deidentify)
    assert {outcomes(out)[f"{refused} a.dcm"] for refused in REFUSED} == {CONFLICT}
    for refused in REFUSED:
        (images / f"{refused} b.dcm").unlink()
    run_quietly(images, out, engine=engine, html=False, deidentify=deidentify)
    assert {outcomes(out)[f"{refused} a.dcm"] for refused in REFUSED} == {("scored", "")}


@either_way
def test_two_who_contradict_each_other_past_a_third(images: Path, out: Path, engine: str, deidentify: bool) -> None:
    write(images / "a.dcm")
    write(images / "b.dcm", 1, PatientID="", PatientName="", PatientBirthDate="", PatientSex="")
    write(images / "c.dcm", 2, PatientID="", PatientName="Roe^Rose", PatientBirthDate="", PatientSex="")
    run_quietly(images, out, engine=engine, html=False, deidentify=deidentify)
    assert set(outcomes(out).values()) == {CONFLICT}


@either_way
@pytest.mark.parametrize("gone", [False, True], ids=["still there", "gone"])
def test_one_who_comes_late_takes_the_report_away(
    images: Path, out: Path, engine: str, gone: bool, deidentify: bool
) -> None:
    write(images / "a.dcm")
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert status(out) == "reported"
    if gone:
        (images / "a.dcm").unlink()
    write(images / "b.dcm", 1, PatientBirthDate="19700101")
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert outcomes(out)["b.dcm"] == CONFLICT
    assert status(out) == "unscored"
    assert not list(out.glob("reports/*"))
    (images / "b.dcm").unlink()
    write(images / "a.dcm")
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert outcomes(out)["a.dcm"] == ("scored", "")


@either_way
def test_one_who_comes_late_and_lacks_pixels_is_met_all_the_same(
    images: Path, out: Path, engine: str, deidentify: bool
) -> None:
    write(images / "a.dcm")
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    write(images / "b.dcm", 1, ViewPosition="LL", PatientName="Roe^Rose")
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert outcomes(out)["a.dcm"] == CONFLICT
    assert not list(out.glob("reports/*"))


@either_way
def test_an_image_that_fails_for_now_does_not_keep_a_conflict_open(
    images: Path, out: Path, engine: str, deidentify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(images / "a.dcm")
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    write(images / "b.dcm", 1, PatientName="Roe^Rose")
    monkeypatch.setattr(reading, "_as_rejection", lambda _error: None)
    _cut(images / "b.dcm")
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert outcomes(out)["a.dcm"] == CONFLICT
    assert status(out) == "unscored"


@either_way
def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(
    images: Path, out: Path, engine: str, deidentify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp -p` and `rsync -t` leave it: between index and reading, nothing but the header tells."""
    path = write(images / "a.dcm")
    before = path.stat()

    def index_then_replace(*arguments: Any, **more: Any) -> Any:
        found = index_input(*arguments, **more)
        path.write_bytes(path.read_bytes().replace(b"Doe^Jane", b"Roe^Rose"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return found

    monkeypatch.setattr("cxrbatch.run.batch.index_input", index_then_replace)
    report = run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert "changed since it was indexed" in next(iter(report.failures.values()))
    monkeypatch.undo()
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert outcomes(out) == {"a.dcm": ("scored", "")}
    if not deidentify:
        (page,) = out.glob("reports/*/report.html")
        assert "Roe" in page.read_text()
        assert "Jane" not in page.read_text()


@either_way
def test_two_studies_of_one_key_are_refused_and_not_merged(
    images: Path, out: Path, engine: str, deidentify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four bits are not all of a hash: if two ever agree, nobody's images may stand in another's report."""
    write(images / "a.dcm")
    write(images / "b.dcm", 1, StudyInstanceUID="1.2.4")
    (images / "c.png").write_bytes(png_bytes(blobs(bits=8, seed=2)))
    monkeypatch.setattr(discover, "_hashed", lambda _identity: "0" * 16)
    monkeypatch.setattr("cxrbatch.run.index.read_headers", read_headers_here)
    run_quietly(images, out, engine=engine, deidentify=deidentify)
    assert outcomes(out) == dict.fromkeys(("a.dcm", "b.dcm", "c.png"), CONFLICT)


def test_a_study_of_one_patient_is_one_whatever_its_images_leave_out(images: Path, out: Path, engine: str) -> None:
    """Real equipment: the lateral without a birth date, the frontal with a title, an export in capitals."""
    write(images / "a.dcm", PatientName="Doe^Jane^^Dr")
    write(images / "b.dcm", 1, PatientName="DOE^JANE^DR", PatientBirthDate="")
    write(images / "c.dcm", 2, PatientName="DOE, JANE", PatientSex="", ViewPosition="LL")
    shutil.copy(images / "a.dcm", images / "d.dcm")
    run_quietly(images, out, engine=engine)
    assert [status for status, _ in outcomes(out).values()] == ["scored", "scored", "rejected", "duplicate"]
