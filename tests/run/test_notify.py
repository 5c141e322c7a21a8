"""Who is told of what a run finds: the right things, once, without any patient, and at no cost to the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ConfigurationError, EngineError, ExitCode
from cxrbatch.output.drift import DriftLine, DriftReport, ScannerDrift
from cxrbatch.output.folder.opening import open_output
from cxrbatch.run import notify
from cxrbatch.run.notify import Notifier
from cxrbatch.system import messenger
from cxrbatch.system.messenger import read_receiver
from tests.factories.engine import write_tiny_bundle
from tests.factories.faulted import FaultedRuns
from tests.factories.receiver import Receiver, receiving
from tests.factories.studies import run_quietly, write_image
from tests.factories.varied import LABELS, run_varied
from tests.output.sheets.test_sheet import make_report

URGENT = (230, 20, 60, 40)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as received:
        yield received


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_image(tmp_path / "images" / "a.png", *URGENT)
    write_image(tmp_path / "images" / "b.png", 20, 60, 100, 40)
    write_tiny_bundle(tmp_path / "engines", labels=LABELS)
    return tmp_path


def run(place: Path, **settings: Any) -> None:
    run_quietly(place / "images", place / "out", engine=str(place / "engines/tiny"), **settings)


def told(receiver: Receiver) -> list[str]:
    return [study["id"] for message in receiver.of("urgent") for study in message["studies"]]


def test_urgent_studies_and_failures_are_told_without_any_patient(tmp_path: Path, receiver: Receiver) -> None:
    out, _ = run_varied(tmp_path, notify=receiver.address)
    (urgent,), (failed,) = receiver.of("urgent"), receiver.of("failed")
    (study,) = urgent["studies"]
    assert (study["priority"], study["revision"]) == ("urgent", 1)
    assert [(each["label"], each["urgent"]) for each in study["findings"]] == [("TopLeft", True), ("Top,=Right", False)]
    assert study["findings"][0]["probability"] == pytest.approx(0.9614, abs=1e-4)
    assert (out / study["report"]).is_file()
    assert failed["studies_failed"] == 1
    assert [each["study_key"] for each in failed["news"]] == ["9a9d5a9d7e77157a"]
    said = json.dumps(receiver.messages)
    for identity in ("Jane", "1.2.3.4", "night", "failed.png", str(tmp_path)):
        assert identity not in said


def test_nothing_is_told_twice(place: Path, receiver: Receiver) -> None:
    for _ in range(3):
        run(place, notify=receiver.address)
    assert len(told(receiver)) == 1
    assert receiver.of("failed") == receiver.of("drift") == []
    write_image(place / "images" / "c.png", *URGENT)
    run(place, notify=receiver.address)
    assert len(told(receiver)) == len(set(told(receiver))) == 2


def test_a_new_revision_is_told_and_the_same_scored_again_is_not(place: Path, receiver: Receiver) -> None:
    run(place, notify=receiver.address)
    run(place, notify=receiver.address, keep_maps=True)  # scores again, under the same revision
    assert len(told(receiver)) == 1
    write_image(place / "images" / "a.png", 240, 20, 60, 40)
    run(place, notify=receiver.address)
    assert [each.rpartition("-")[2] for each in told(receiver)] == ["1", "2"]


def test_what_was_scored_before_anybody_was_to_be_told_is_no_news(place: Path, receiver: Receiver) -> None:
    run(place)
    run(place, notify=receiver.address)
    assert receiver.messages == []


def test_what_nobody_took_is_tried_again_in_the_next_runs_and_given_up_in_the_end(
    place: Path, receiver: Receiver
) -> None:
    receiver.answers = [500, 503]
    run(place, notify=receiver.address)
    run(place, notify=receiver.address)
    assert told(receiver) == []
    run(place, notify=receiver.address)
    assert len(told(receiver)) == 1
    write_image(place / "images" / "c.png", *URGENT)
    receiver.answers = [500] * 5
    for _ in range(7):
        run(place, notify=receiver.address)
    assert len(told(receiver)) == 1
    assert receiver.answers == []


def test_a_receiver_that_hangs_costs_a_run_one_time_limit(
    place: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messenger, "_CONNECT_S", 0.3)
    for n in range(5):
        write_image(place / "images" / f"more-{n}.png", 230 + n, 20, 60, 40)
    receiver.answers = [0] * 20
    run(place, notify=receiver.address)
    assert len(receiver.answers) == 19
    log = (place / "out" / "cxrbatch.log").read_text()
    assert log.count("not notified") == 1
    assert "sekret" not in log
    assert "127.0.0.1" not in log
    receiver.answers = []
    run(place, notify=receiver.address)
    assert len(told(receiver)) == 6
    assert len(receiver.of("urgent")) == 1  # together


def test_no_secret_is_left_in_the_output(place: Path, receiver: Receiver) -> None:
    run(place, notify=receiver.address)
    for path in (place / "out").rglob("*"):
        assert not path.is_file() or b"sekret" not in path.read_bytes()
    assert json.loads((place / "out" / "run.json").read_text())["settings"]["notify"].endswith("/...")


def test_a_kill_anywhere_tells_nobody_twice_and_loses_what_was_recorded(place: Path, receiver: Receiver) -> None:
    """Three urgent studies; killed as they are recorded, or as one is told of, then run to the end twice."""
    images, engine = place / "images", str(place / "engines/tiny")
    for n in range(2):
        write_image(images / f"more-{n}.png", 230 + n, 20, 60, 40)
    with FaultedRuns() as runs:
        runs.run(images, place / "first", engine)  # the helper does its first order twice
        for fault in (
            "report-written:2",
            "ledger-commit:9",
            "ledger-committed:9",
            "ledger-committed:10",
            "tidy:1",
            "tidy:3",
        ):
            out, before = place / f"out-{fault}", len(told(receiver))
            assert runs.run(images, out, engine, "--notify", receiver.address, fault=f"{fault}=kill").exit_code == -9
            for _ in range(2):
                assert runs.run(images, out, engine, "--notify", receiver.address).exit_code == ExitCode.DONE
            here = told(receiver)[before:]
            assert len(here) == len(set(here)) <= 3
            if fault.startswith("tidy"):  # none was being told of
                assert len(here) == 3


def test_a_run_that_fails_is_told_by_its_kind(place: Path, receiver: Receiver) -> None:
    with pytest.raises(EngineError):
        run_quietly(place / "images", place / "out", engine=str(place / "nowhere"), notify=receiver.address)
    (failed,) = receiver.of("failed")
    assert (failed["error"], failed["exit_code"]) == ("EngineError", 5)
    assert str(place) not in json.dumps(failed)


def test_drift_is_told_when_it_begins_and_again_when_it_comes_back(tmp_path: Path, receiver: Receiver) -> None:
    alarm = DriftLine("score", "Nodule", "recent", 0.4, 0.1, 60, 900, alarm=True)
    drift = DriftReport("", 60, 900, 0.25, (alarm,), (), (ScannerDrift("Maker", 60, 900, (alarm,)),))
    calm = DriftReport("", 60, 900, 0.25)
    with open_output(tmp_path / "out") as ledger:
        for found in (drift, drift, calm, drift):
            Notifier(ledger, read_receiver(receiver.address)).settle(make_report(drift=found))
    first, second = receiver.of("drift")
    assert [(each["label"], each["scanner"], each["psi"]) for each in first["news"]] == [
        ("Nodule", "", 0.4),
        ("Nodule", "Maker", 0.4),
    ]
    assert first["news"] == second["news"]


def test_a_command_is_told(place: Path) -> None:
    target, code = place / "told.jsonl", "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"
    run(place, notify=f'"{sys.executable}" -c "{code}" {target}')
    (line,) = target.read_text().splitlines()
    assert json.loads(line)["event"] == "urgent"


def test_what_is_no_receiver_ends_a_run_before_it_begins(place: Path) -> None:
    with pytest.raises(ConfigurationError, match="http"):
        run(place, notify="file:///etc/passwd")
    assert not (place / "out").exists()
    arguments = ["run", str(place / "images"), "-o", str(place / "out"), "--notify", "ftp://host/"]
    assert run_command_line(arguments) == ExitCode.CONFIGURATION


def test_a_fault_of_the_notifier_ends_no_run(place: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("never")

    monkeypatch.setattr(notify, "_study", broken)
    run(place, notify=receiver.address)
    assert receiver.messages == []
    assert "not notified" in (place / "out" / "cxrbatch.log").read_text()
