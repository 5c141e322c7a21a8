"""Objects are of the same patient and study as their source, whatever that says, lacks or gets wrong."""

from __future__ import annotations

import random
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrbatch.output.dicom.codes import FINDINGS, code_of_finding
from cxrbatch.output.dicom.encapsulated_pdf import render_document
from cxrbatch.output.dicom.identity import made_uid
from cxrbatch.output.dicom.sr import render_sr
from cxrbatch.records import Label, SourceFacts, StudyResult
from tests.factories.objects import SOURCE, STUDY, errors_in, make_dicom_result, needs_dciodvfy

TYPE_2 = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "study_date": "StudyDate",
    "accession_number": "AccessionNumber",
}
TYPE_2_OF_SOURCE = {"study_time": "StudyTime", "study_id": "StudyID", "referring_physician": "ReferringPhysicianName"}
# Specific Character Set (PS3.3 C.12.1.1.2) and a name that it writes.
NAMES = [
    pytest.param(("ISO_IR 100",), "Müller^Jörg", id="latin 1"),
    pytest.param(("", "ISO 2022 IR 87"), "Yamada^Tarou=山田^太郎=やまだ^たろう", id="japanese"),
    pytest.param(("", "ISO 2022 IR 149"), "Hong^Gildong=洪^吉洞=홍^길동", id="korean"),
    pytest.param(("ISO_IR 126",), "Διονυσιος", id="greek"),
    pytest.param(("ISO_IR 127",), "قباني^لنزار", id="arabic"),
    pytest.param(("ISO_IR 192",), "Wang^XiaoDong=王^小東", id="utf-8"),
]


def read(result: StudyResult) -> Dataset:
    return pydicom.dcmread(BytesIO(render_sr(result, "all")))


def test_patient_and_study_are_those_of_the_source() -> None:
    made = read(make_dicom_result())
    assert (made.StudyInstanceUID, made.StudyTime, made.StudyID) == (STUDY, "081500", "S1")
    assert (made.PatientName, made.PatientID, made.PatientSex, made.PatientAge) == (
        "Doe^Jane^^Dr",
        "PID-1",
        "F",
        "058Y",
    )
    assert (made.PatientBirthDate, made.StudyDate, made.AccessionNumber) == ("19620228", "20240131", "ACC-77")
    assert made.ReferringPhysicianName == "Roe^Richard"


@needs_dciodvfy
@pytest.mark.parametrize(("field", "keyword"), (TYPE_2 | TYPE_2_OF_SOURCE).items())
def test_what_the_source_lacks_is_there_and_empty(tmp_path: Path, field: str, keyword: str) -> None:
    empty: dict[str, Any] = {field: ""}
    result = make_dicom_result(**empty) if field in TYPE_2 else make_dicom_result(source=replace(SOURCE, **empty))
    (tmp_path / "sr.dcm").write_bytes(render_sr(result, "all"))
    assert read(result)[keyword].is_empty
    assert errors_in(tmp_path / "sr.dcm") == []


@needs_dciodvfy
def test_a_result_of_an_earlier_version_says_what_it_knows(tmp_path: Path) -> None:
    result = make_dicom_result(source=None)
    (tmp_path / "sr.dcm").write_bytes(render_sr(result, "all"))
    made = read(result)
    assert made.PatientName == "Doe^Jane^^Dr"
    assert all(made[keyword].is_empty for keyword in TYPE_2_OF_SOURCE.values())
    assert errors_in(tmp_path / "sr.dcm") == []


@needs_dciodvfy
@pytest.mark.parametrize(
    ("keyword", "changes"),
    [
        ("PatientAge", {"patient_age": "58"}),
        ("PatientAge", {"patient_age": "58 years"}),
        ("PatientSex", {"patient_sex": "U"}),
        ("PatientSex", {"patient_sex": "female"}),
        ("PatientBirthDate", {"patient_birth_date": "1962-02-28"}),
        ("PatientBirthDate", {"patient_birth_date": "19620230"}),
        ("StudyDate", {"study_date": "31.01.2024"}),
        ("AccessionNumber", {"accession_number": "A" * 17}),
        ("PatientID", {"patient_id": "P" * 65}),
        ("PatientID", {"patient_id": "one\\two"}),
        ("PatientName", {"patient_name": "N" * 70}),
        ("PatientName", {"patient_name": "M\N{REPLACEMENT CHARACTER}ller"}),
        ("StudyDescription", {"study_description": "D" * 65}),
        ("StudyTime", {"source": replace(SOURCE, study_time="08:15")}),
        ("StudyTime", {"source": replace(SOURCE, study_time="990000")}),
        ("StudyID", {"source": replace(SOURCE, study_id="S" * 17)}),
        ("ReferringPhysicianName", {"source": replace(SOURCE, referring_physician="R" * 70)}),
    ],
)
def test_a_malformed_value_is_dropped_and_nothing_else(tmp_path: Path, keyword: str, changes: dict[str, Any]) -> None:
    result = make_dicom_result(**changes)
    (tmp_path / "sr.dcm").write_bytes(render_sr(result, "all"))
    made, plain = read(result), read(make_dicom_result())
    assert keyword not in made or made[keyword].is_empty
    assert errors_in(tmp_path / "sr.dcm") == []
    others = [each for each in (TYPE_2 | TYPE_2_OF_SOURCE).values() if each != keyword]
    assert [made[each].value for each in others] == [plain[each].value for each in others]


@needs_dciodvfy
@pytest.mark.parametrize(("terms", "name"), NAMES)
def test_a_name_is_kept_in_the_character_set_of_its_source(tmp_path: Path, terms: tuple[str, ...], name: str) -> None:
    result = make_dicom_result(patient_name=name, source=replace(SOURCE, character_set=terms))
    (tmp_path / "sr.dcm").write_bytes(render_sr(result, "all"))
    made = read(result)
    stated = made.SpecificCharacterSet
    assert ((stated,) if isinstance(stated, str) else tuple(stated)) == terms
    assert made.PatientName == name
    assert errors_in(tmp_path / "sr.dcm") == []


@pytest.mark.parametrize(("terms", "name"), NAMES)
def test_labels_that_are_not_ascii_make_it_utf_8(terms: tuple[str, ...], name: str) -> None:
    source = replace(SOURCE, character_set=terms)
    made = read(make_dicom_result(((0.5,),), labels=[Label("気胸")], patient_name=name, source=source))
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert made.PatientName == name
    assert "気胸" in str(made)


@pytest.mark.parametrize("terms", [(), ("ISO_IR 999",), ("ISO_IR 100",), ("ISO 2022 IR 6", "nonsense")])
def test_a_name_that_its_declared_set_cannot_write_is_kept_in_utf_8(terms: tuple[str, ...]) -> None:
    made = read(make_dicom_result(patient_name="山田^太郎", source=replace(SOURCE, character_set=terms)))
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert made.PatientName == "山田^太郎"


@pytest.mark.parametrize(
    ("stated", "time", "offset"),
    [("", "030405", None), ("+0900", "120405", "+0900"), ("-0330", "233405", "-0330"), ("local", "030405", None)],
)
def test_times_are_of_the_zone_that_the_source_names_or_utc(stated: str, time: str, offset: str | None) -> None:
    made = read(make_dicom_result(source=SourceFacts(timezone=stated)))
    assert (made.ContentTime, made.get("TimezoneOffsetFromUTC")) == (time, offset)
    assert made.ContentDate == ("20240131" if stated == "-0330" else "20240201")
    assert made.ContributingEquipmentSequence[0].ContributionDateTime == "20240201030405+0000"


def test_whatever_header_and_engine_say_becomes_a_report_that_can_be_read() -> None:
    chosen = random.Random(1)
    letters = "abZ09 ^=\\/-.:'\"%\t\r\0éß山ぁ가Ωق\u202e\N{REPLACEMENT CHARACTER}\udcff"
    terms = ["", "ISO_IR 100", "ISO_IR 192", "ISO 2022 IR 87", "ISO 2022 IR 149", "GB18030", "ISO_IR 13", "nonsense"]

    def text() -> str:
        return "".join(chosen.choices(letters, k=chosen.choice([0, 1, 3, 8, 20, 70, 300])))

    for _ in range(120):
        charset = tuple(chosen.choices(terms, k=chosen.randint(0, 3)))
        source = SourceFacts(charset, text(), text(), text(), (text(), text()), text(), text())
        said: dict[str, Any] = {
            field: text() for field in (*TYPE_2, "patient_age", "patient_id_issuer", "study_description", "modality")
        }
        result = make_dicom_result(((0.5, 0.5),), labels=[Label(text()), Label(text(), None)], source=source, **said)
        made = read(replace(result, engine=replace(result.engine, name=text(), notice=text())))
        assert made.StudyInstanceUID == STUDY
        assert len(made.ContentSequence) == 10
        assert all(made[keyword].is_empty or str(made[keyword].value).isprintable() for keyword in TYPE_2.values())


def test_a_hostile_engine_name_is_one_plain_value() -> None:
    result = make_dicom_result()
    made = read(replace(result, engine=replace(result.engine, name="a\\b\x00\n" + "x" * 200)))
    assert made.ManufacturerModelName == "a b " + "x" * 60


def test_uids_are_made_of_all_of_their_parts() -> None:
    assert made_uid("a", "bc") != made_uid("ab", "c")
    assert made_uid("a", 1) == made_uid("a", 1)
    assert len(made_uid("a")) <= 64


def test_a_document_of_other_content_is_another_object() -> None:
    result = make_dicom_result()
    first, again, other = (
        pydicom.dcmread(BytesIO(render_document(result, pdf))) for pdf in (b"%PDF-1", b"%PDF-1", b"%PDF-1 with a prior")
    )
    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID == other.SeriesInstanceUID


def test_codes_of_our_own_are_short_and_tell_labels_apart() -> None:
    labels = [
        "Hernia",
        "Pleural_Thickening",
        "Pleural Other",
        "気胸",
        "胸水",
        "Enlarged Cardiomediastinum",
        "A+B",
        "A-B",
    ]
    labels += ["Enlarged Cardiomediastinum left", "x" * 400, "", "No Finding", "Support Devices", "Lung Lesion"]
    codes = [code_of_finding(label) for label in labels]
    assert {code.scheme for code in codes} == {"99CXRBATCH"}
    assert len({code.value for code in codes}) == len(labels)
    assert all(0 < len(code.value) <= 16 and 0 < len(code.meaning) <= 64 for code in codes)
    assert code_of_finding("Pleural_Effusion") == code_of_finding("Effusion") == FINDINGS["effusion"]
