"""Which studies have an earlier one of the same patient, and when a study came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.output.ledger import queue as ledger_queue
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.output.ledger.patients import WithPrior, update_visits, write_visits
from cxrbatch.records import Header, ImageFile, IndexedFile, PatientIdentity


def index(ledger: Ledger, key: str, **header: str) -> None:
    file = ImageFile(f"{key}-{len(header)}.dcm", 1, 1)
    ledger.index.record([IndexedFile(file, key, replace(Header(), **header))])  # type: ignore[arg-type]  # text only


def keys_with_prior(ledger: Ledger) -> set[str]:
    write_visits(ledger.store)
    with_prior = WithPrior(ledger.store)
    return {row.study_key for row in ledger.results.study_rows() if row.study_key in with_prior}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The time that the ledger reads; change its only entry."""
    times = ["2026-01-01T00:00:00+00:00"]
    monkeypatch.setattr(ledger_queue, "now_text", lambda: times[0])
    return times


def test_the_later_study_of_a_patient_has_a_prior_whichever_came_first(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        index(ledger, "later", patient_id="P1", patient_birth_date="19600101", study_date="20240105")
        index(ledger, "earlier", patient_id="P1", patient_birth_date="19600101", study_date="20230105")
        index(ledger, "same-day", patient_id="P2", study_date="20240105")
        index(ledger, "same-day-too", patient_id="P2", study_date="20240105")
        assert keys_with_prior(ledger) == {"later"}


def test_what_stands_for_unknown_is_not_one_patient(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for day, birth in (("20240101", "19600101"), ("20240102", "19700101")):
            index(ledger, f"anonymous-{day}", patient_id="ANON", patient_birth_date=birth, study_date=day)
            index(ledger, f"issuer-{day}", patient_id="1", patient_id_issuer=birth, study_date=day)
            index(ledger, f"no-id-{day}", patient_birth_date="19600101", patient_name="Doe", study_date=day)
        assert keys_with_prior(ledger) == set()


def test_deidentified_studies_are_told_by_their_hashes_and_by_when_they_came(tmp_path: Path, clock: list[str]) -> None:
    with Ledger(tmp_path) as ledger:
        for key, who in (("first", "hash-1"), ("second", "hash-1"), ("other", "hash-2")):
            identity = PatientIdentity(patient_id=who, birth_date="hash-3")
            file = IndexedFile(ImageFile(f"{key}.dcm", 1, 1), key, Header(identity=identity))
            ledger.index.record([file])
            clock[0] = "2026-01-02T00:00:00+00:00"
        assert keys_with_prior(ledger) == {"second"}


def test_a_study_came_when_its_first_file_was_met(tmp_path: Path, clock: list[str]) -> None:
    with Ledger(tmp_path) as ledger:
        index(ledger, "b", study_date="1")
        clock[0] = "2026-01-02T00:00:00+00:00"
        index(ledger, "a", study_date="1")
        index(ledger, "b", study_date="1", modality="DX")
        rows = [(row.study_key, row.n_images, row.arrived_at[:10]) for row in ledger.results.study_rows_by_arrival()]
        assert rows == [("b", 2, "2026-01-01"), ("a", 1, "2026-01-02")]


def test_one_more_study_changes_the_others_of_its_patient_only_where_it_is_the_earliest(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        for key, day in (("first", "20240101"), ("second", "20240201")):
            index(ledger, key, patient_id="P1", study_date=day)
        assert keys_with_prior(ledger) == {"second"}
        index(ledger, "third", patient_id="P1", study_date="20240301")
        assert update_visits(ledger.store, ["third"]) == set()
        assert "third" in WithPrior(ledger.store)
        index(ledger, "earliest", patient_id="P1", study_date="20231201")
        assert update_visits(ledger.store, ["earliest"]) == {"first", "second", "third"}
        assert "first" in WithPrior(ledger.store)
        ledger.results.forget(["earliest"])
        assert update_visits(ledger.store, ["earliest"]) == {"first", "second", "third"}
        assert "first" not in WithPrior(ledger.store)
