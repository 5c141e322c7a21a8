"""Which headers can be of one patient, by themselves and sealed with a key."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from cxrbatch.intake.patient import are_different_patients, identify, same_identity
from cxrbatch.records import Header
from cxrbatch.run.deidentification import Pseudonyms

pytestmark = pytest.mark.hostile("9.2 two patients in a study")

JANE = Header(
    study_instance_uid="1.2.3",
    patient_id="1",
    patient_id_issuer="Hospital",
    patient_name="Doe^Jane",
    patient_birth_date="19620228",
    patient_sex="F",
)
SEALED = Pseudonyms(b"k" * 32)


def differ(*headers: Header) -> bool:
    """Tell whether these are of different patients; sealed, and in any order, they must be the same."""
    plain = are_different_patients(map(identify, headers))
    sealed = are_different_patients(identify(SEALED.header(header)) for header in headers)
    backwards = are_different_patients(map(identify, reversed(headers)))
    assert plain == sealed == backwards
    return plain


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"patient_id": "1"}, {"patient_id": "2"}),
        ({"patient_id": "a1"}, {"patient_id": "A1"}),
        ({"patient_id": "1", "patient_id_issuer": "A"}, {"patient_id": "1", "patient_id_issuer": "B"}),
        (
            {"patient_id": "1", "patient_id_universal_issuer": "1.2.3"},
            {"patient_id": "1", "patient_id_universal_issuer": "1.2.4"},
        ),
        ({"patient_name": "Doe^Jane"}, {"patient_name": "Doe^Joan"}),
        ({"patient_name": "Doe^Jane"}, {"patient_name": "Smith^Jane"}),
        ({"patient_name": "Doe^Baby^A"}, {"patient_name": "Doe^Baby^B"}),
        ({"patient_name": "Doe^Baby A"}, {"patient_name": "Doe^Baby B"}),
        ({"patient_name": "Doe^John^^^Sr"}, {"patient_name": "Doe^John^^^Jr"}),
        ({"patient_name": "Doe, Jane"}, {"patient_name": "Doe, Joan"}),
        ({"patient_name": "DOE JANE"}, {"patient_name": "DOE JOAN"}),
        ({"patient_name": "DOE JANE"}, {"patient_name": "Smith^Jane"}),
        ({"patient_name": "Иванов^Пётр"}, {"patient_name": "Иванов^Павел"}),
        ({"patient_name": "山田^太郎"}, {"patient_name": "山田^花子"}),
        ({"patient_name": "कुमार^राम"}, {"patient_name": "कुमारी^राम"}),
        ({"patient_birth_date": "19620228"}, {"patient_birth_date": "19620301"}),
        ({"patient_birth_date": "1962.02.28"}, {"patient_birth_date": "19620301"}),
        ({"patient_sex": "M"}, {"patient_sex": "F"}),
        ({"patient_sex": "male"}, {"patient_sex": "F"}),
    ],
)
def test_one_element_that_differs_is_another_patient(one: dict[str, str], other: dict[str, str]) -> None:
    assert differ(Header(**one), Header(**other))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"patient_id": "1"}, {"patient_id": ""}),
        ({"patient_id": " 1 "}, {"patient_id": "1"}),
        ({"patient_id": "1"}, {"patient_id": "UNKNOWN"}),
        ({"patient_id": "1"}, {"patient_id": "000000"}),
        ({"patient_id": "1", "patient_id_issuer": "A"}, {"patient_id": "1"}),
        ({"patient_id": "1", "patient_id_issuer": "Hosp. A"}, {"patient_id": "1", "patient_id_issuer": "HOSP A"}),
        ({"patient_id_issuer": "A"}, {"patient_id_issuer": "B"}),
        (
            {"patient_id": "1", "patient_id_issuer": "A", "patient_id_universal_issuer": "1.2.3"},
            {"patient_id": "1", "patient_id_issuer": "B", "patient_id_universal_issuer": "1.2.3"},
        ),
        ({"patient_name": "DOE^JOHN"}, {"patient_name": "Doe^John^^^"}),
        ({"patient_name": "Doe ^ John "}, {"patient_name": "doe^john"}),
        ({"patient_name": "Doe, John"}, {"patient_name": "Doe^John"}),
        ({"patient_name": "DOE JOHN"}, {"patient_name": "Doe^John"}),
        ({"patient_name": "JOHN DOE"}, {"patient_name": "Doe^John^^Dr"}),
        ({"patient_name": "Doe^John"}, {"patient_name": "Doe^John^Michael"}),
        ({"patient_name": "Doe^John Michael"}, {"patient_name": "Doe^John^Michael"}),
        ({"patient_name": "Doe^Annemarie"}, {"patient_name": "Doe^Anne^Marie"}),
        ({"patient_name": "Doe^Jean-Pierre"}, {"patient_name": "DOE^JEAN PIERRE"}),
        ({"patient_name": "O'Brien^Pat"}, {"patient_name": "OBRIEN^PAT"}),
        ({"patient_name": "Doe^John^^Dr"}, {"patient_name": "Doe^John^Dr"}),
        ({"patient_name": "Doe^John^A^Dr"}, {"patient_name": "Doe^John^Dr^A"}),
        ({"patient_name": "Müller^Jörg"}, {"patient_name": "MULLER^JORG"}),
        ({"patient_name": "Müller^Jörg"}, {"patient_name": "MUELLER^JOERG"}),
        ({"patient_name": "Mu\u0308ller"}, {"patient_name": "M\u00fcller"}),
        ({"patient_name": "M?ller^Eva"}, {"patient_name": "Müller^Eva"}),
        ({"patient_name": "M\ufffdller^Eva"}, {"patient_name": "Müller^Eva"}),
        ({"patient_name": "M?ller^Eva"}, {"patient_name": "MUELLER EVA"}),
        ({"patient_name": "Yamada^Tarou"}, {"patient_name": "YAMADA^TAROU=山田^太郎=やまだ^たろう"}),
        ({"patient_name": "Yamada^Tarou"}, {"patient_name": "=山田^太郎"}),
        ({"patient_name": "ﾔﾏﾀﾞ^ﾀﾛｳ"}, {"patient_name": "ヤマダ^タロウ"}),
        ({"patient_name": "Doe^John"}, {"patient_name": "^^^^"}),
        ({"patient_name": "Doe^John"}, {"patient_name": "Anonymous"}),
        ({"patient_name": "Doe^John"}, {"patient_name": "Unknown^Unknown"}),
        ({"patient_birth_date": "19620228"}, {"patient_birth_date": "0000-00-00"}),
        ({"patient_birth_date": "19620228"}, {"patient_birth_date": "00000000"}),
        ({"patient_birth_date": "19620228"}, {"patient_birth_date": "00010101"}),
        ({"patient_birth_date": "19620228"}, {"patient_birth_date": "1962"}),
        ({"patient_birth_date": "19620228"}, {"patient_birth_date": "1962.02.28"}),
        ({"patient_birth_date": "19620228"}, {"patient_birth_date": "19629999"}),
        ({"patient_sex": "M"}, {"patient_sex": "U"}),
        ({"patient_sex": "M"}, {"patient_sex": "O"}),
        ({"patient_sex": "M"}, {"patient_sex": "unknown"}),
        ({"patient_sex": "M"}, {"patient_sex": "m "}),
        ({"patient_id": "1"}, {"patient_name": "Doe^John"}),
    ],
)
def test_what_is_empty_or_spelled_otherwise_is_no_other_patient(one: dict[str, str], other: dict[str, str]) -> None:
    assert not differ(Header(**one), Header(**other))  # type: ignore[arg-type]


def test_a_name_in_an_unknown_character_set_says_only_what_is_ascii_in_it() -> None:
    read_wrong = Header(patient_name="M\u00c3\u00bcller^Eva", is_name_certain=False)
    assert not differ(read_wrong, Header(patient_name="M\u00fcller^Eva"))
    assert not differ(read_wrong, Header(patient_name="MUELLER EVA"))
    assert differ(read_wrong, Header(patient_name="M\u00fcller^Ada"))


def test_two_who_contradict_each_other_do_so_past_a_third_who_says_nothing() -> None:
    silent = Header(patient_id="1")
    assert differ(silent, Header(patient_name="Doe^Jane"), Header(), Header(patient_name="Roe^Jane"))
    assert differ(Header(patient_id="1", patient_id_issuer="A"), silent, Header(patient_id="1", patient_id_issuer="B"))
    assert not differ(silent, JANE, Header())


def test_many_images_that_say_different_parts_are_compared_quickly() -> None:
    headers = [
        Header(patient_id="1" * (n & 1), patient_name="Doe^" + "^".join("abc"[: n % 4]), patient_sex="M" * (n & 2))
        for n in range(20_000)
    ]
    assert not are_different_patients(map(identify, headers[::2]))


def test_a_file_of_the_same_size_that_names_another_is_another() -> None:
    assert same_identity(JANE, JANE)
    assert not same_identity(JANE, replace(JANE, patient_name="Doe^Joan"))
    assert not same_identity(SEALED.header(JANE), SEALED.header(replace(JANE, patient_id="2")))


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=10))
def test_any_text_is_compared_with_itself_as_equal_and_sealed_without_a_trace(name: str, born: str, sex: str) -> None:
    header = Header(patient_name=name, patient_birth_date=born, patient_sex=sex, patient_id=name)
    assert not differ(header, header)
    sealed = identify(SEALED.header(header))
    texts = [sealed.patient_id, *sealed.name, *sealed.spellings, sealed.birth_date, sealed.sex]
    assert all(len(text) in (0, 32) for text in texts)


def test_another_key_gives_other_hashes_and_other_uids() -> None:
    other = Pseudonyms(b"l" * 32)
    assert identify(other.header(JANE)).patient_id != identify(SEALED.header(JANE)).patient_id
    assert other.uid("1.2.3") != SEALED.uid("1.2.3") != "1.2.3"
    assert other.study_key("0" * 16) != SEALED.study_key("0" * 16)
    assert "6b6b" not in repr(SEALED)
