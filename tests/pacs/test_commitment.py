"""Storage commitment: asked for where it is offered, answered on this association or another one, or not at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ExitCode
from cxrbatch.output.sent import SentObject, SentObjects
from cxrbatch.output.sent_facts import read_sent
from cxrbatch.pacs import commitment
from tests.factories.ports import free_port
from tests.pacs.archives import Archive, Finished, archive

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for an answer that comes for as long as a busy machine takes."""
    monkeypatch.setattr(commitment, "ANSWERS_WITHIN_S", 60.0)


def send(out: Path, port: int, *options: str) -> int:
    return run_command_line(["send", str(out), "127.0.0.1", str(port), "--pause", "0.01", *options])


def objects(out: Path) -> dict[str, int]:
    (facts,) = read_sent(out)
    return facts.objects


def answer_to(request: Dataset, lost: set[str], reason: int = 0x0112) -> tuple[Dataset, int]:
    """Return what an archive says that has all objects but some, and which event that is (PS3.4 J.3.3.1)."""
    said = Dataset()
    said.TransactionUID = request.TransactionUID
    asked = list(request.ReferencedSOPSequence)
    said.ReferencedSOPSequence = [each for each in asked if each.ReferencedSOPInstanceUID not in lost]
    failed = [each for each in asked if each.ReferencedSOPInstanceUID in lost]
    for each in failed:
        each.FailureReason = reason
    if failed:
        said.FailedSOPSequence = failed
    return said, 2 if failed else 1


def report(association: Any, said: Dataset, event_type: int) -> None:
    status, _ = association.send_n_event_report(
        said, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    assert status.Status == 0


def report_after_the_answer(association: Any, said: Dataset, event_type: int) -> None:
    """Report once what this association sends next, the answer to the request, is on its way."""

    def begin(_: evt.Event) -> None:
        association.unbind(evt.EVT_DATA_SENT, begin)
        threading.Thread(target=report, args=(association, said, event_type)).start()

    association.bind(evt.EVT_DATA_SENT, begin)


def on_the_same(lost: set[str], reason: int = 0x0112) -> Any:
    """Return an archive's way to answer on the association that asked."""

    def commits(kept: Archive, event: evt.Event) -> tuple[int, None]:
        request: Dataset = event.action_information
        kept.asked.append(request)
        said = answer_to(request, lost, reason)
        report_after_the_answer(event.assoc, *said)
        return 0, None

    return commits


def test_what_the_archive_commits_itself_to_is_noted(finished: Finished) -> None:
    with archive(commits=on_the_same(set())) as kept:
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert objects(finished.out) == {"committed": 7}
        (request,) = kept.asked
        assert sorted(each.ReferencedSOPInstanceUID for each in request.ReferencedSOPSequence) == finished.uids
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert len(kept.taken) == 7
        assert send(finished.out, kept.port, "--called", "OTHER", "--no-commitment") == ExitCode.DONE
        assert len(kept.asked) == 1


def test_what_the_archive_lost_after_all_is_sent_again(finished: Finished) -> None:
    lost = {finished.uids[0]}
    with archive(commits=on_the_same(lost)) as kept:
        assert send(finished.out, kept.port) == ExitCode.SOME_STUDIES_FAILED
        assert objects(finished.out) == {"committed": 6, "waiting": 1}
        lost.clear()
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert objects(finished.out) == {"committed": 7}
        assert len(kept.taken) == 8


def test_what_an_archive_commits_itself_to_for_no_object_of_a_class_is_stored(finished: Finished) -> None:
    """To send it again and again would change nothing."""
    with archive(commits=on_the_same({finished.uids[0]}, 0x0122)) as kept:
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert objects(finished.out) == {"committed": 6, "stored": 1}
        assert send(finished.out, kept.port) == ExitCode.DONE
        assert len(kept.taken) == 7


def test_an_archive_that_does_not_answer_has_stored_all_the_same(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment, "ANSWERS_WITHIN_S", 0.5)
    with archive(commits=lambda *_: (0, None)) as kept:
        assert send(finished.out, kept.port) == ExitCode.DONE
    assert objects(finished.out) == {"stored": 7}


def test_an_archive_answers_on_an_association_of_its_own(finished: Finished) -> None:
    ours = free_port()

    def commits(kept: Archive, event: evt.Event) -> tuple[int, None]:
        kept.asked.append(event.action_information)
        threading.Thread(target=call_back, args=(answer_to(kept.asked[0], set()), ours)).start()
        return 0, None

    with archive(commits=commits) as kept:
        assert send(finished.out, kept.port, "--commit-at", str(ours)) == ExitCode.DONE
        assert objects(finished.out) == {"committed": 7}


def call_back(said: tuple[Dataset, int], port: int) -> None:
    """Answer as archives do that open an association of their own."""
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    context = build_context(StorageCommitmentPushModel)
    association = AE(ae_title="ARCHIVE").associate(
        "127.0.0.1", port, contexts=[context, build_context(Verification)], ext_neg=[role]
    )
    assert association.is_established
    assert association.send_c_echo().Status == 0
    report(association, *said)
    association.release()


def test_a_port_that_is_taken_is_a_configuration_error(finished: Finished) -> None:
    with archive() as kept:
        assert send(finished.out, kept.port, "--commit-at", str(kept.port)) == ExitCode.CONFIGURATION
        assert not kept.taken


def test_an_answer_counts_for_what_was_asked_and_nothing_else(tmp_path: Path) -> None:
    with SentObjects(tmp_path, "ANY@host:1") as sent:
        sent.note(*(SentObject(f"2.25.{n}", "0" * 16, 1, "sr", "stored", "0000") for n in (1, 2, 3)))
        sent.note(SentObject("2.25.4", "0" * 16, 1, "sc", "refused", "C000"))
        sent.settle("0" * 16, 1)
        sent.ask_commitment("1.2.3", ["2.25.1", "2.25.2", "2.25.4"])
        assert sent.note_commitment("1.2.4", ["2.25.1"], ["2.25.2"]) == set()
        assert sent.settled()
        assert sent.note_commitment("1.2.3", ["2.25.1", "2.25.3", "2.25.4"], ["2.25.2"]) == {"0" * 16}
        found = {uid: each.status for uid, each in sent.of_study("0" * 16).items()}
        assert found == {"2.25.1": "committed", "2.25.2": "waiting", "2.25.3": "stored", "2.25.4": "refused"}
        assert not sent.settled()
        assert sent.note_commitment("1.2.3", ["2.25.2"], []) == set()
