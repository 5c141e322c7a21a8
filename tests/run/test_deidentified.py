"""--deidentify: every attribute of PS3.15 table E.1-1 holds a canary, and no byte of OUT does afterwards."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from pydicom import config as pydicom_config
from pydicom.uid import UID

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.run.deidentification import KEY_FILE
from tests.factories.confidential import CANARIES, KEYWORDS, TRACES, TRACES_ON_PAPER, fill_with_canaries, traces_in
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.intake import blobs, coded, dataset, write_dicom
from tests.factories.studies import fingerprint, read_rows, run_quietly

pytestmark = pytest.mark.hostile("9.12 de-identification")

# Each second fault point; all of them are part of `make soak`.
EVERY = bool(os.environ.get("CXRBATCH_EVERY_FAULT"))
STUDY, OTHER_STUDY = "2.999.8675309.1", "2.999.8675309.2"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_bundle(tmp_path_factory.mktemp("engines")))


def write_canary(
    path: Path, number: int, *, edit: Callable[[bytes], bytes] | None = None, syntax: str = "", **keywords: Any
) -> None:
    """Write an image full of canaries; `keywords` override its elements."""
    with pydicom_config.disable_value_validation():
        made = dataset(blobs(seed=number))
        fill_with_canaries(made)
        elements = {"SOPInstanceUID": f"2.999.8675309.9.{number}", "StudyInstanceUID": STUDY} | keywords
        for keyword, value in elements.items():
            setattr(made, keyword, value)
        made.file_meta.MediaStorageSOPInstanceUID = UID(made.SOPInstanceUID)
        made.file_meta.SourceApplicationEntityTitle = "CANARY"
        made.file_meta.ImplementationVersionName = "CANARY"
        made.file_meta.PrivateInformationCreatorUID = UID("2.999.8675309.6")
        made.file_meta.PrivateInformation = b"CANARY"
        if syntax:
            made.file_meta.TransferSyntaxUID = UID(syntax)
        made.preamble = b"CANARY".ljust(128, b"\0")
        made.save_as(path, implicit_vr=False, little_endian=True)
    content = path.read_bytes()
    path.write_bytes(edit(content) if edit else content)


def write_canaries(images: Path) -> None:
    """Write images that are scored and images that are refused for every reason that could quote their header."""
    images.mkdir()
    write_canary(images / "00.dcm", 0)
    write_canary(images / "01.dcm", 1, ViewPosition="CANARY AP")
    shutil.copy(images / "00.dcm", images / "02.dcm")
    write_canary(images / "10.dcm", 10, Modality="CANARY")
    write_canary(images / "11.dcm", 11, BodyPartExamined="CANARY JOHN")
    write_canary(images / "12.dcm", 12, ViewPosition="LATERAL CANARY")
    write_canary(images / "13.dcm", 13, ViewPosition="", ViewCodeSequence=coded("lateral CANARY"))
    write_canary(images / "14.dcm", 14, PhotometricInterpretation="CANARY")
    write_canary(images / "15.dcm", 15, ImageType=["LOCALIZER", "CANARY"])
    write_canary(images / "16.dcm", 16, edit=lambda content: content[:-4000])
    write_canary(images / "17.dcm", 17, syntax="2.999.8675309.7")
    write_canary(images / "18.dcm", 18, PresentationIntentType="FOR PROCESSING")
    write_canary(images / "19.dcm", 19, StudyInstanceUID="")
    write_canary(images / "20.dcm", 20, BurnedInAnnotation="YES")
    write_canary(images / "21.dcm", 21, edit=lambda content: content[:3000])
    write_canary(images / "22.dcm", 22, edit=lambda content: content[:900])
    write_canary(images / "23.dcm", 23, SOPClassUID="2.999.8675309.8", BodyPartExamined="CHEST CANARY")
    write_canary(images / "24.dcm", 24, StudyInstanceUID="CANARY STUDY", PatientSex="CANARY")
    write_canary(images / "25.dcm", 25, edit=lambda content: content.replace(b"ISO_IR 192", b"CANARY 192"))
    for number in (30, 31):
        write_canary(images / f"{number}.dcm", number, StudyInstanceUID=OTHER_STUDY, PatientID=f"CANARY {number}")
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "CANARY")
    Image.fromarray(blobs(bits=8)).save(images / "40.png", pnginfo=text)
    Image.fromarray(blobs(bits=8, seed=9)).save(images / "41.jpg", comment=b"CANARY", exif=_exif())


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "CANARY"
    return exif


def write_patient(path: Path, number: int = 0, **keywords: Any) -> Path:
    return write_dicom(path, pixels=blobs(seed=number), **{"StudyInstanceUID": STUDY} | IDENTITY | keywords)


IDENTITY = {
    "PatientName": "Canary^Zoe",
    "PatientID": "CANARY-1",
    "PatientBirthDate": "19130717",
    "PatientAge": "098Y",
    "StudyDescription": "Chest, canary",
    "AccessionNumber": "CANARY-2",
}


def test_the_canaries_are_those_of_the_whole_table(tmp_path: Path) -> None:
    assert len(KEYWORDS) == len(set(KEYWORDS)) > 600
    write_canary(tmp_path / "0.dcm", 0)
    assert len(traces_in(tmp_path)) > 5


def test_no_byte_of_a_deidentified_output_is_of_a_patient(
    tmp_path: Path, engine: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_canaries(images)
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    arguments = ["run", str(images), "-o", str(out), "-e", engine, "--workers", "1", "--deidentify"]
    assert run_command_line(arguments) == ExitCode.DONE
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    scored = {path for path, row in rows.items() if row["status"] == "scored"}
    assert scored == {"00.dcm", "01.dcm", "23.dcm", "24.dcm", "25.dcm", "40.png", "41.jpg"}
    reasons = {row["reason"] for row in rows.values()} - {""}
    assert reasons >= {"not_radiograph", "not_chest", "not_frontal", "patient_conflict", "burned_in_annotation"}
    assert reasons >= {"unsupported_photometric", "unsupported_transfer_syntax", "unreadable_header"}
    assert (rows["00.dcm"]["body_part"], rows["00.dcm"]["view"], rows["01.dcm"]["view"]) == ("CHEST", "PA", "")
    assert rows["00.dcm"]["study_key"] == rows["10.dcm"]["study_key"] != rows["24.dcm"]["study_key"]
    assert traces_in(out, TRACES_ON_PAPER) == []
    said = "".join(capfd.readouterr()).lower()
    assert [trace for trace in TRACES_ON_PAPER if trace in said] == []
    assert run_command_line(["status", str(out), "--json"]) == ExitCode.DONE
    assert [trace for trace in TRACES_ON_PAPER if trace in "".join(capfd.readouterr()).lower()] == []
    assert run_command_line(["report", str(out)]) == ExitCode.DONE
    assert traces_in(out, TRACES_ON_PAPER) == []
    mode = (out / KEY_FILE).stat().st_mode & 0o777
    assert mode == 0o600


def test_the_search_finds_a_name_in_every_kind_of_file(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_patient(images / "0.dcm")
    run_quietly(images, out, engine=engine, pdf=True)
    found = {trace.split(":")[0].rsplit("/")[-1] for trace in traces_in(out)}
    assert found >= {"images.csv", "studies.csv", "report.html", "report.pdf", "result.json"}
    assert any(name.startswith("ledger.sqlite") for name in found)


def test_a_second_run_keeps_every_name_that_the_first_one_gave(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_patient(images / "0.dcm")
    run_quietly(images, out, engine=engine, deidentify=True)
    (before,) = read_rows(out / "studies.csv")
    assert before["study_uid"].startswith("2.25.")
    assert run_quietly(images, out, engine=engine, deidentify=True).studies_this_run == 0
    write_patient(images / "1.dcm", 1)
    run_quietly(images, out, engine=engine, deidentify=True)
    (after,) = read_rows(out / "studies.csv")
    assert (after["study_key"], after["study_uid"], after["revision"]) == (
        before["study_key"],
        before["study_uid"],
        "2",
    )


def test_two_output_folders_give_a_study_two_names(tmp_path: Path, engine: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_patient(images / "0.dcm")
    keys = set()
    for out in (tmp_path / "one", tmp_path / "two"):
        run_quietly(images, out, engine=engine, deidentify=True)
        keys |= {row["study_key"] for row in read_rows(out / "studies.csv")}
    run_quietly(images, tmp_path / "three", engine=engine)
    keys |= {row["study_key"] for row in read_rows(tmp_path / "three" / "studies.csv")}
    assert len(keys) == 3


@pytest.mark.parametrize("said", ["YES", "yes", " YES ", "Y", "JA", "UNKNOWN"])
@pytest.mark.parametrize("deidentify", [True, False])
def test_a_name_in_the_pixels_is_refused_or_flagged(tmp_path: Path, engine: str, deidentify: bool, said: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    with pydicom_config.disable_value_validation():
        write_patient(images / "0.dcm", BurnedInAnnotation=said)
        write_patient(images / "1.dcm", 1, BurnedInAnnotation="NO")
    run_quietly(images, out, engine=engine, html=False, deidentify=deidentify)
    first, second = read_rows(out / "images.csv")
    assert first["reason"] == ("burned_in_annotation" if deidentify else "")
    assert first["flags"] == ("" if deidentify else "burned_in_annotation")
    assert (second["status"], second["flags"]) == ("scored", "")


# --------------------------------------------------------------------------- an output folder that names patients


@pytest.fixture(scope="module")
def named_once(tmp_path_factory: pytest.TempPathFactory, engine: str) -> tuple[Path, Path]:
    """Images, and an OUT that names their patients in every way: two revisions, an image gone, a ledger put aside."""
    folder = tmp_path_factory.mktemp("named")
    images, out = folder / "images", folder / "out"
    images.mkdir()
    write_patient(images / "0.dcm")
    write_patient(images / "gone.dcm", 3, StudyInstanceUID=OTHER_STUDY)
    write_patient(images / "burned.dcm", 4, StudyInstanceUID="2.999.8675309.4", BurnedInAnnotation="YES")
    write_patient(images / "hand.dcm", 5, BodyPartExamined="HAND CANARY")
    run_quietly(images, out, engine=engine, pdf=True)
    write_patient(images / "1.dcm", 1)
    (images / "gone.dcm").unlink()
    shutil.copy(out / LEDGER_FILE, out / f"{LEDGER_FILE}.damaged-20240101T000000Z")
    (out / "cxrbatch.log.1").write_text('{"study_key": "canary"}\n')
    run_quietly(images, out, engine=engine, pdf=True)
    assert list(out.glob("reports/*/report-r1.pdf"))
    assert len(list(out.glob("reports/*"))) == 3
    return images, out


@pytest.fixture
def named(tmp_path: Path, named_once: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same images, and a copy of that OUT."""
    images, out = named_once
    return images, Path(shutil.copytree(out, tmp_path / "out"))


COMMANDS = ["run", "watch", "report"]


def command(name: str, images: Path, out: Path, engine: str, *more: str) -> list[str]:
    where = [str(out)] if name == "report" else [str(images), "-o", str(out), "-e", engine]
    return [name, *where, "--workers", "1", *(["--once", "--settle", "0"] if name == "watch" else []), *more]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_names_patients_is_refused_and_left_as_it_is(
    name: str, named: tuple[Path, Path], engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = named
    before = {path: seen for path, seen in fingerprint(out).items() if not path.startswith(("cxrbatch.log", "ledger"))}
    assert run_command_line(command(name, images, out, engine, "--deidentify")) == ExitCode.USAGE
    assert "--deidentify-existing" in capsys.readouterr().err
    after = fingerprint(out)
    # The lock says which process asked last, marker and fence which session.
    asked = {".cxrbatch.lock", ".cxrbatch.json", ".cxrbatch-fence"}
    assert {path: after[path] for path in before if path not in asked} == {
        path: seen for path, seen in before.items() if path not in asked
    }
    assert not (out / KEY_FILE).exists()
    run_quietly(images, out, engine=engine)


@pytest.mark.parametrize("name", COMMANDS)
def test_names_are_taken_out_of_everything_on_demand(
    name: str, named: tuple[Path, Path], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = named
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")
    arguments = command(name, images, out, engine, "--deidentify-existing")
    assert run_command_line(arguments) == ExitCode.DONE
    assert traces_in(out, TRACES_ON_PAPER) == []
    rows = {row["path"]: row for row in read_rows(out / "images.csv")}
    assert {path: row["status"] for path, row in rows.items() if row["status"] == "scored"} == dict.fromkeys(
        ("0.dcm", "1.dcm", "gone.dcm"), "scored"
    )
    assert rows["burned.dcm"]["reason"] == "burned_in_annotation"
    studies = {row["study_key"]: row for row in read_rows(out / "studies.csv")}
    gone = studies[rows["gone.dcm"]["study_key"]]
    assert (gone["status"], gone["revision"]) == ("reported", "1")
    for kind in ("report_html", "report_pdf"):
        assert (out / gone[kind]).is_file()
    assert {path.name for path in out.glob("reports/*")} == {key for key in studies if studies[key]["report_html"]}
    assert studies[rows["0.dcm"]["study_key"]]["revision"] == "2"
    again = run_quietly(images, out, engine=engine, deidentify=True, pdf=True)
    assert (again.studies_this_run, again.files["scored"]) == (0, 3)


def test_an_output_without_names_never_gets_any(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_patient(images / "0.dcm")
    run_quietly(images, out, engine=engine, deidentify=True)
    write_patient(images / "1.dcm", 1)
    with pytest.raises(UsageError, match="is de-identified"):
        run_quietly(images, out, engine=engine)
    assert run_command_line(["report", str(out), "--workers", "1"]) == ExitCode.DONE
    with pytest.raises(UsageError, match="is de-identified"):
        run_quietly(images, out, engine=engine)
    assert traces_in(out) == []


def test_a_repaired_ledger_still_knows_that_nothing_may_be_named(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_patient(images / "0.dcm")
    run_quietly(images, out, engine=engine, deidentify=True)
    (before,) = read_rows(out / "studies.csv")
    (out / LEDGER_FILE).write_bytes(b"damaged")
    assert run_command_line(["repair", str(out)]) == ExitCode.DONE
    with pytest.raises(UsageError, match="is de-identified"):
        run_quietly(images, out, engine=engine)
    (images / "0.dcm").unlink()
    write_patient(images / "1.dcm", 1, PatientName="Canary^Ann")
    run_quietly(images, out, engine=engine, deidentify=True)
    (after,) = read_rows(out / "studies.csv")
    assert (after["study_key"], after["status"]) == (before["study_key"], "unscored")
    assert "patient_conflict" in {row["reason"] for row in read_rows(out / "images.csv")}
    assert traces_in(out) == []


def test_an_output_of_a_version_that_left_more_of_a_patient_is_refused_too(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_patient(images / "0.dcm")
    run_quietly(images, out, engine=engine, deidentify=True)
    with closing(sqlite3.connect(out / LEDGER_FILE)) as ledger:
        ledger.execute("DELETE FROM meta WHERE key = 'deidentified'")
        ledger.commit()
    with pytest.raises(UsageError, match="--deidentify-existing"):
        run_quietly(images, out, engine=engine, deidentify=True)


def test_a_lost_key_costs_a_run_and_nothing_else(tmp_path: Path, engine: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    write_patient(images / "0.dcm")
    write_patient(images / "gone.dcm", 1, StudyInstanceUID=OTHER_STUDY)
    run_quietly(images, out, engine=engine, deidentify=True)
    (images / "gone.dcm").unlink()
    (out / KEY_FILE).unlink()
    assert run_quietly(images, out, engine=engine, deidentify=True).studies == {"reported": 2}
    (out / KEY_FILE).write_text("no key")
    with pytest.raises(UsageError, match="no key of cxrbatch"):
        run_quietly(images, out, engine=engine, deidentify=True)


def test_killed_while_names_are_taken_out_nobody_goes_on_as_if_they_were(
    named: tuple[Path, Path], engine: str, tmp_path: Path
) -> None:
    images, out = named
    with FaultedRuns() as runs:
        shutil.copytree(out, tmp_path / "rehearsal")
        whole = runs.run(images, tmp_path / "rehearsal", engine, "--deidentify-existing")
        assert whole.exit_code == ExitCode.DONE, whole.said
        points = sorted(whole.reached.items())
        for point, count in points if EVERY else points[::2]:
            killed = tmp_path / "killed"
            shutil.rmtree(killed, ignore_errors=True)
            shutil.copytree(out, killed)
            fault = f"{point}:{(count + 1) // 2}=kill"
            assert runs.run(images, killed, engine, "--deidentify-existing", fault=fault).exit_code < 0
            again = runs.run(images, killed, engine, "--deidentify-existing")
            assert again.exit_code == ExitCode.DONE, (fault, again.said)
            assert traces_in(killed, TRACES_ON_PAPER) == [], fault
            assert len(read_rows(killed / "studies.csv")) == len(read_rows(tmp_path / "rehearsal" / "studies.csv"))


def test_with_a_ledger_elsewhere_nothing_there_names_anybody(tmp_path: Path, engine: str) -> None:
    images, out, state = tmp_path / "images", tmp_path / "out", tmp_path / "state"
    images.mkdir()
    write_patient(images / "0.dcm")
    run_quietly(images, out, engine=engine, state=str(state))
    assert traces_in(state)
    shutil.copy(state / LEDGER_FILE, state / f"{LEDGER_FILE}.damaged-20240101T000000Z")
    run_quietly(images, out, engine=engine, state=str(state), deidentify_existing=True)
    assert traces_in(state) == traces_in(out) == []


def test_every_canary_is_searched_for() -> None:
    unfindable = {"US"}
    for vr, value in CANARIES.items():
        text = value.decode() if isinstance(value, bytes) else str(value)
        assert vr in unfindable or any(trace in text.lower() for trace in TRACES) or vr == "TM", vr
