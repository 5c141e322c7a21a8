"""Which earlier studies a report names, and when it is printed again because there are others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.output.ledger import priors as priors_module
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.ledger.priors import MOST_PRIORS, text_of
from cxrbatch.output.ledger.schema import PATIENTS_DATE
from cxrbatch.records import Header, ImageFile, IndexedFile, PrintedStudy
from cxrbatch.run.deidentification import Pseudonyms
from tests.factories.ledgers import as_schema_6
from tests.factories.output import LABELS, make_engine, make_header, make_study_result

PSEUDONYMS = Pseudonyms(b"k" * 32)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path) as ledger:
        yield ledger


def key(number: int) -> str:
    return f"{number:016x}"


def report(ledger: Ledger, number: int, date: str, *, engine: str = "", **fields: str) -> Header:
    """Let a study be reported, with the priors that the ledger knows then."""
    return record(ledger, number, make_header(study_date=date, **fields), engine=engine)


def record(ledger: Ledger, number: int, header: Header, *, engine: str = "") -> Header:
    result = make_study_result(((0.9, 0.2, number / 100),), header=header, study_key=key(number))
    if engine:
        result = replace(result, engine=replace(result.engine, sha256=engine))
    result = replace(result, images=(replace(result.images[0], path=f"{number}.dcm"),))
    ledger.index.record([IndexedFile(ImageFile(f"{number}.dcm", 1, 1), key(number), header)])
    priors = ledger.priors.of(key(number), header)
    ledger.results.record(PrintedStudy(result, f"reports/{key(number)}/report.html", priors=priors))
    return header


def named(ledger: Ledger, number: int, header: Header) -> list[int]:
    return [int(prior.study_key, 16) for prior in ledger.priors.of(key(number), header)]


def overtaken(ledger: Ledger) -> dict[int, list[int]]:
    """Return which reports are to be printed again, and with which priors; then let it be done."""
    due, found = ledger.priors.due(), list(ledger.priors.overtaken())
    for each in found:
        path = f"reports/{each.result.study_key}/report.html"
        ledger.results.record_printed(PrintedStudy(each.result, path, priors=each.priors))
    ledger.priors.settled(due)
    assert list(ledger.priors.overtaken()) == []
    return {int(each.result.study_key, 16): [int(prior.study_key, 16) for prior in each.priors] for each in found}


def test_earlier_studies_are_named_the_latest_first(ledger: Ledger) -> None:
    report(ledger, 3, "20230101")
    report(ledger, 1, "20231201")
    report(ledger, 2, "20240201")
    header = report(ledger, 4, "20240131")
    assert named(ledger, 4, header) == [1, 3]
    (latest, _) = ledger.priors.of(key(4), header)
    assert (latest.study_date, latest.findings, latest.probabilities) == ("20231201", ("Effusion",), (0.9, 0.2, 0.01))
    assert (latest.priority, latest.engine, latest.report) == ("abnormal", "demo", "report.html")


def test_at_most_so_many_are_named(ledger: Ledger) -> None:
    for day in range(1, 10):
        report(ledger, day, f"2023010{day}")
    assert named(ledger, 99, make_header()) == [9, 8, 7, 6, 5][:MOST_PRIORS]


@pytest.mark.parametrize(
    ("fields", "is_prior"),
    [
        ({}, True),
        ({"patient_name": "DOE^JANE^^Dr"}, True),
        ({"patient_name": "", "patient_birth_date": ""}, True),
        ({"study_date": "20240131"}, True),
        ({"study_date": "20240201"}, False),
        ({"study_date": ""}, False),
        ({"study_date": "yesterday"}, False),
        ({"patient_id": "PID-2"}, False),
        ({"patient_id": ""}, False),
        ({"patient_name": "Roe^Richard"}, False),
        ({"patient_birth_date": "19700101"}, False),
        ({"patient_id_issuer": "Clinic"}, True),
        ({"patient_id_issuer": "Clinic", "patient_name": ""}, False),
    ],
)
def test_what_makes_a_study_a_prior(ledger: Ledger, fields: dict[str, str], is_prior: bool) -> None:
    report(
        ledger,
        1,
        **({"date": "20230101"} if "study_date" not in fields else {"date": fields.pop("study_date")}),
        **fields,
    )
    assert named(ledger, 2, make_header()) == ([1] if is_prior else [])


def test_the_same_id_of_another_issuer_is_another_patient(ledger: Ledger) -> None:
    report(ledger, 1, "20230101", patient_id_issuer="Clinic")
    assert named(ledger, 2, make_header(patient_id_issuer="Clinic")) == [1]
    assert named(ledger, 2, make_header(patient_id_issuer="Hospital")) == []


@pytest.mark.parametrize("unknown", ["", "000000", "anonymous"])
def test_a_patient_without_an_id_has_no_priors(ledger: Ledger, unknown: str) -> None:
    report(ledger, 1, "20230101", patient_id=unknown)
    assert named(ledger, 2, make_header(patient_id=unknown)) == []


def test_deidentified_studies_are_found_by_keyed_hash_and_without_dates(ledger: Ledger) -> None:
    for number, date in ((1, "20240101"), (2, "20230101")):
        record(ledger, number, PSEUDONYMS.header(make_header(study_date=date)))
    header = PSEUDONYMS.header(make_header())
    assert named(ledger, 3, header) == [1, 2]
    assert {prior.study_date for prior in ledger.priors.of(key(3), header)} == {""}
    assert named(ledger, 3, make_header()) == []
    assert named(ledger, 3, Pseudonyms(b"other").header(make_header())) == []
    with closing(sqlite3.connect(ledger.store.path)) as database:
        assert b"PID-1" not in "\n".join(database.iterdump()).encode()


def test_an_earlier_study_that_arrives_later_has_the_later_ones_printed_again(ledger: Ledger) -> None:
    report(ledger, 1, "20240105")
    report(ledger, 2, "20240109")
    assert overtaken(ledger) == {}
    report(ledger, 3, "20240101")
    assert overtaken(ledger) == {1: [3], 2: [1, 3]}
    report(ledger, 4, "20240201")
    assert overtaken(ledger) == {}, "it named them all"


def test_what_is_scored_anew_or_gone_has_the_later_ones_printed_again(ledger: Ledger) -> None:
    report(ledger, 1, "20240101")
    report(ledger, 2, "20240109")
    overtaken(ledger)
    report(ledger, 1, "20240101")
    assert overtaken(ledger) == {}, "the same was scored"
    report(ledger, 1, "20240101", engine="ab" * 32)
    assert overtaken(ledger) == {2: [1]}
    ledger.results.forget([key(1)])
    assert overtaken(ledger) == {2: []}
    ledger.results.forget([key(2)])
    assert ledger.priors.due() == []


def test_a_ledger_of_schema_5_finds_priors_among_what_it_has(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        report(ledger, 1, "20230101")
    with closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as database:
        as_schema_6(database)
        for statement in (
            *("DROP TRIGGER study_changed", "DROP TRIGGER study_restored", "DROP TRIGGER study_forgotten"),
            *("DROP INDEX studies_by_patient", "DROP TABLE patients_due", "ALTER TABLE studies DROP COLUMN patient"),
            *("ALTER TABLE studies DROP COLUMN priors", "ALTER TABLE files DROP COLUMN places"),
            *("DROP INDEX studies_by_arrival", "ALTER TABLE studies DROP COLUMN arrived_at"),
            "PRAGMA user_version = 5",
        ):
            database.execute(statement)
        database.commit()
    with Ledger(tmp_path) as ledger:
        assert named(ledger, 2, make_header()) == [1]
        assert [row.places for row in ledger.results.file_rows()] == [()]
        assert ledger.priors.due() == []


def test_an_id_that_very_many_studies_share_is_nobodys(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors_module, "MOST_STUDIES", 20)
    for number in range(1, 21):
        report(ledger, number, f"2023{number:04d}")
    assert overtaken(ledger) == {}
    assert named(ledger, 99, make_header(study_date="20240101")) == [20, 19, 18, 17, 16]
    report(ledger, 21, "20221231")
    assert named(ledger, 99, make_header(study_date="20240101")) == []
    # Those that were printed while there were few name nobody any more.
    assert overtaken(ledger) == {number: [] for number in range(2, 21)}


def test_what_a_name_contradicts_does_not_hide_who_is_meant(ledger: Ledger) -> None:
    report(ledger, 1, "20200101")
    for number in range(2, 60):
        report(ledger, number, f"2021{number:04d}", patient_name="Somebody^Else")
    assert named(ledger, 99, make_header(study_date="20240101")) == [1]


def test_the_studies_of_a_patient_are_found_by_an_index(ledger: Ledger) -> None:
    query = f"{priors_module._KNOWN} {priors_module._OF_PATIENT} AND {PATIENTS_DATE} <= ? ORDER BY {PATIENTS_DATE} DESC"
    (plan,) = [row[3] for row in ledger.store.rows(f"EXPLAIN QUERY PLAN {query}, study_key LIMIT 9", ("p", "2023"))][:1]
    assert "USING INDEX studies_by_patient (patient=? AND <expr><?)" in plan


def test_no_priors_are_kept_as_nothing() -> None:
    assert text_of(()) == ""
    assert make_engine(LABELS).labels == LABELS
