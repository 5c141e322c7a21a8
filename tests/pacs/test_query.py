"""An archive that is asked by DIMSE and misbehaves: one of the tests' own, that answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    ComputedRadiographyImageStorage,
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ConfigurationError, ExitCode
from cxrbatch.pacs.archive import SeriesFound
from cxrbatch.pacs.peer import Patience, Peer
from cxrbatch.pacs.pull import Outcome, Pull, Wish
from cxrbatch.pacs.pulled import PullInbox
from cxrbatch.pacs.query import DicomArchive
from cxrbatch.pacs.receive import Reception, listening
from tests.factories.ports import free_port
from tests.pacs.conftest import radiograph

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

US, STUDY, SERIES = "CXRBATCH", "1.2.3", "1.2.3.5"
UIDS = [f"{SERIES}.{number}" for number in range(4)]


@dataclass(slots=True)
class Strange:
    """An archive of one study of four objects.

    Attributes:
        study: what it says of it.
        find_status: how its answers end, after the matches.
        sends: what it sends when it is ordered to, whatever was ordered.
        status: what it answers in the end.
        slowly_s: how long it says nothing before each object, and answers only in the end.
        asked: the identifiers of all orders.
    """

    port: int = 0
    inbox_port: int = 0
    study: list[Dataset | None] = field(default_factory=list)
    find_status: int = 0x0000
    sends: list[str] = field(default_factory=lambda: list(UIDS))
    status: int = 0x0000
    slowly_s: float = 0.0
    asked: list[Dataset] = field(default_factory=list)

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        if level == "STUDY":
            for each in self.study or [said(StudyInstanceUID=STUDY)]:
                yield 0xFF01, each
            yield self.find_status, None
        elif level == "SERIES":
            yield 0xFF00, said(SeriesInstanceUID=SERIES, Modality="CR", NumberOfSeriesRelatedInstances=len(UIDS))
        else:
            for uid in UIDS:
                yield 0xFF00, said(SOPInstanceUID=uid, SOPClassUID=ComputedRadiographyImageStorage)

    def move(self, event: evt.Event) -> Iterator[Any]:
        self.asked.append(event.identifier)
        if self.status == 0xA801:
            yield None, None
            return
        if self.slowly_s:
            # One that tells nothing before it is done, over a line of its own.
            with sending(self.inbox_port) as association:
                for uid in self.sends:
                    time.sleep(self.slowly_s)
                    association.send_c_store(radiograph(STUDY, uid))
            self.sends = []
        yield "127.0.0.1", self.inbox_port, {"contexts": [build_context(ComputedRadiographyImageStorage)]}
        yield len(self.sends) + bool(self.status)
        for uid in self.sends:
            yield 0xFF00, radiograph(STUDY, uid)
        if self.status:
            yield self.status, Dataset()


@contextmanager
def sending(port: int) -> Iterator[Association]:
    entity = AE("STRANGE")
    entity.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title=US)
    yield association
    association.release()


def said(**attributes: Any) -> Dataset:
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@contextmanager
def strange(
    syntaxes: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian), *, moves: bool = True
) -> Iterator[Strange]:
    entity, kept = AE(ae_title="STRANGE"), Strange(free_port(), free_port())
    entity.add_supported_context(StudyRootFind, list(syntaxes))
    if moves:
        entity.add_supported_context(StudyRootMove, list(syntaxes))
    handlers: Any = [(evt.EVT_C_FIND, kept.find), (evt.EVT_C_MOVE, kept.move)]
    server = entity.make_server(("127.0.0.1", kept.port), evt_handlers=handlers)
    vars(server)["service_actions"] = lambda: None
    entity._servers.append(server)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield kept
    finally:
        for association in entity.active_associations:
            association.abort()
        server.shutdown()


def pull(archive: Strange, root: Path, answer_s: float = 3) -> Outcome:
    with (
        PullInbox(root) as inbox,
        listening(inbox, Reception(port=archive.inbox_port, aet=US), lambda _: None),
    ):
        peer = Peer("127.0.0.1", archive.port, "STRANGE", US, patience=Patience(answer_s=answer_s))
        wish = Wish(timedelta(hours=24), modalities=("CR",), tries=1, pause_s=lambda _: 0.01)
        return Pull(DicomArchive(peer, US, inbox.stirred_at), inbox, wish, print).round()


def lying(root: Path) -> list[str]:
    return sorted(path.stem for path in root.glob("[!.]*/*"))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_archive_of_one_syntax_is_understood(tmp_path: Path, syntax: UID) -> None:
    with strange((syntax,)) as archive:
        archive.study = [
            said(SpecificCharacterSet="ISO 2022 IR 87", StudyInstanceUID=STUDY, PatientName="Yamada^Tarou=山田^太郎")
        ]
        assert pull(archive, tmp_path).is_done
    assert lying(tmp_path) == UIDS


def test_answers_that_name_no_study_are_told_and_others_come(tmp_path: Path) -> None:
    with strange() as archive:
        archive.study = [said(StudyDate="20260101"), said(StudyInstanceUID=STUDY)]
        outcome = pull(archive, tmp_path)
    assert lying(tmp_path) == UIDS
    assert outcome.reasons == ["the archive found studies that it does not name"]


def test_an_answer_that_cannot_be_read_is_no_answer_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with strange() as archive:
        encode = "pynetdicom.service_class.encode"
        monkeypatch.setattr(encode, lambda *_: b"\x08\x00\x52\x00XX\xff\xff\xff\xff\xff\xff")
        outcome = pull(archive, tmp_path)
    assert not outcome.is_done
    assert "an answer of it cannot be read" in outcome.reasons[0]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0xA900, "it does not understand what it was asked for (status A900)"),
        (0xC001, "it cannot (status C001)"),
        (0x0122, "it cannot (status 0122)"),
    ],
)
def test_a_question_that_fails_is_told(tmp_path: Path, status: int, reason: str) -> None:
    with strange() as archive:
        archive.find_status = status
        assert pull(archive, tmp_path).reasons == [f"STRANGE@127.0.0.1:{archive.port}: {reason}"]


@pytest.mark.parametrize(
    ("sends", "status", "left", "reason"),
    [
        (UIDS[:3], 0xA702, 1, "it is out of resources, or could not send (status A702); 1 of its objects failed"),
        (UIDS[:1], 0xC512, 3, "it cannot (status C512)"),
        (UIDS[:3], 0x0000, 1, "the archive said that it had sent what did not come"),
        (["9.9.1", "9.9.2"], 0x0000, 4, "the archive said that it had sent what did not come"),
    ],
)
def test_what_an_order_did_not_bring_is_told_and_ordered_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: list[str], status: int, left: int, reason: str
) -> None:
    monkeypatch.setattr("cxrbatch.pacs.pull._LATE_S", 0.1)
    with strange() as archive:
        archive.sends, archive.status = sends, status
        outcome = pull(archive, tmp_path)
        assert outcome.left == left
        assert reason in outcome.reasons[0]
        archive.sends, archive.status = list(UIDS), 0x0000
        assert pull(archive, tmp_path).is_done
    again = archive.asked[-1].get("SOPInstanceUID")
    assert ([again] if isinstance(again, str) else again) == (UIDS[-left:] if left < len(UIDS) else None)
    assert set(UIDS) <= set(lying(tmp_path))


def test_many_objects_are_ordered_in_lists_that_every_syntax_holds(tmp_path: Path) -> None:
    uids = [f"{'1.' * 29}{number}" for number in range(100_000, 102_500)]
    with strange() as archive:
        archive.sends = []
        asked = DicomArchive(Peer("127.0.0.1", archive.port, "STRANGE", US), US)
        asked.fetch(SeriesFound(STUDY, SERIES), uids, is_all=False)
        asked.rest()
    assert [uid for each in archive.asked for uid in each.SOPInstanceUID] == uids
    assert max(len("\\".join(each.SOPInstanceUID)) for each in archive.asked) < 65_534


@pytest.mark.parametrize(("slowly_s", "comes"), [(0.4, True), (1.5, False)])
def test_an_archive_that_sends_without_a_word_is_waited_for_as_long_as_something_comes(
    tmp_path: Path, slowly_s: float, comes: bool
) -> None:
    with strange() as archive:
        archive.slowly_s, archive.sends = slowly_s, UIDS if comes else UIDS[:1]
        outcome = pull(archive, tmp_path, answer_s=0.8)
    assert outcome.is_done is comes
    if comes:
        assert lying(tmp_path) == UIDS
    else:
        assert outcome.reasons[0].endswith("neither answered nor sent anything for too long")


def test_an_unknown_destination_ends_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with strange() as archive:
        archive.status = 0xA801
        with pytest.raises(ConfigurationError, match="does not know the AE title CXRBATCH"):
            pull(archive, tmp_path)
        where = [str(tmp_path), "127.0.0.1", str(archive.port), "--listen-port", str(archive.inbox_port)]
        assert run_command_line(["pull", *where, "--min-free", "0"]) == ExitCode.CONFIGURATION
    assert "Enter it there" in capfd.readouterr().err


def test_an_archive_that_sends_nothing_by_order_is_told(tmp_path: Path) -> None:
    with strange(moves=False) as archive:
        (reason,) = pull(archive, tmp_path).reasons
    assert reason.endswith("takes neither questions nor orders by Study Root from us")
