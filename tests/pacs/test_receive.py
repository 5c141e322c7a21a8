"""`cxrbatch receive`: what it acknowledged is there whole, under a safe name; what is no use gets a status."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import (
    MPEG2MPML,
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    generate_uid,
)
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    ComputedRadiographyImageStorage,
    Verification,
)

from cxrbatch.cli import run_command_line
from cxrbatch.errors import ConfigurationError, ExitCode
from cxrbatch.pacs import receive as receive_module
from cxrbatch.pacs.inbox import Inbox, safe_name
from cxrbatch.pacs.receive import NO_MATCH, NOT_UNDERSTOOD, OUT_OF_RESOURCES, SUCCESS, Receiver
from tests.pacs.conftest import Server, StartServer, radiograph, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def associate(server: Server, *, called: str = "CXRBATCH", calling: str = "ROUTER") -> Association:
    entity = AE(ae_title=calling)
    entity.add_requested_context(ComputedRadiographyImageStorage)
    entity.add_requested_context(Verification)
    entity.dimse_timeout = 3
    handlers: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, _send_at_once)]
    return entity.associate("127.0.0.1", server.port, ae_title=called, evt_handlers=handlers)


def _send_at_once(event: evt.Event) -> None:
    line: Any = event.assoc.dul.socket
    line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(server: Server, objects: Sequence[Dataset], **names: str) -> list[int | None]:
    association = associate(server, **names)
    assert association.is_established
    statuses = [association.send_c_store(each).get("Status") for each in objects]
    association.release()
    return statuses


def test_the_syntax_that_a_sender_prefers_is_taken_and_nothing_else(start: StartServer) -> None:
    proposed: dict[str, list[list[str | UID]]] = {
        ComputedRadiographyImageStorage: [
            [MPEG2MPML, JPEGLSLossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian],
            [ExplicitVRBigEndian, JPEGLSLossless],
            [ImplicitVRLittleEndian],
            [MPEG2MPML],
        ],
        CTImageStorage: [[ExplicitVRLittleEndian]],
        Verification: [[ExplicitVRLittleEndian, ImplicitVRLittleEndian]],
    }
    contexts = [build_context(uid, syntaxes) for uid, found in proposed.items() for syntaxes in found]
    server = start("--max-associations", "1")
    association = AE("ROUTER").associate("127.0.0.1", server.port, contexts=contexts, ae_title="CXRBATCH")
    taken = [(each.abstract_syntax, each.transfer_syntax[0]) for each in association.accepted_contexts]
    assert taken == [
        (ComputedRadiographyImageStorage, JPEGLSLossless),
        (ComputedRadiographyImageStorage, JPEGLSLossless),
        (ComputedRadiographyImageStorage, ImplicitVRLittleEndian),
        (Verification, ExplicitVRLittleEndian),
    ]
    refused = [(each.abstract_syntax, each.result) for each in association.rejected_contexts]
    assert refused == [(ComputedRadiographyImageStorage, 4), (CTImageStorage, 3)]  # PS3.8 table 9-18
    # What docs/conformance.md says of rejections: result, source and reason of PS3.8 table 9-21.
    assert rejection(server) == (2, 3, 2)
    association.release()
    wait_for(lambda: rejection(server, called="OTHER") == (1, 1, 7))
    assert "ROUTER at 127.0.0.1: association refused, there are too many at a time" in server.stop()


def rejection(server: Server, **names: str) -> tuple[int, int, int]:
    answer: Any = associate(server, **names).acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def test_what_is_sent_is_there_as_it_was_named_by_its_uids(start: StartServer) -> None:
    server = start()
    objects = [radiograph(study="1.2.3", sop=f"1.2.3.{number}", level=number) for number in range(3)]
    assert send(server, objects) == [SUCCESS] * 3
    assert server.stored == [server.root / "1.2.3" / f"1.2.3.{number}.dcm" for number in range(3)]
    for sent, path in zip(objects, server.stored, strict=True):
        assert pydicom.dcmread(path).PixelData == sent.PixelData
        assert path.stat().st_mode & 0o777 == 0o640
    association = associate(server)
    assert association.send_c_echo().Status == SUCCESS
    association.release()
    told = server.stop()
    assert server.process.returncode == ExitCode.DONE
    assert "ROUTER at 127.0.0.1: 3 stored" in told
    assert "Doe" not in told
    assert not [path.name for path in (server.root / ".cxrbatch-incoming").iterdir() if path.name != "lock"]


def test_the_same_object_is_not_kept_twice_and_another_one_under_its_name_is(start: StartServer) -> None:
    server = start()
    first, other = radiograph("1.2", "1.2.1"), radiograph("1.2", "1.2.1", level=7)
    assert send(server, [first, first, other, other]) == [SUCCESS] * 4
    assert [path.name.split("-")[0] for path in server.stored] == ["1.2.1", "1.2.1.dcm"]
    assert "2 known, 2 stored" in server.stop()


def test_only_those_who_may_and_who_name_us_get_in(start: StartServer) -> None:
    server = start("--accept-from", "ROUTER", "--accept-from", "OTHER")
    assert send(server, [radiograph()], calling="OTHER") == [SUCCESS]
    assert not associate(server, calling="STRANGER").is_established
    assert not associate(server, called="SOME BODY", calling="OTHER").is_established
    told = server.stop()
    assert "STRANGER at 127.0.0.1: association refused, --accept-from does not name it" in told
    assert "OTHER at 127.0.0.1: association refused, it calls SOME BODY, which is not our AE title" in told


@pytest.mark.parametrize("option", ["--aet", "--accept-from"])
@pytest.mark.parametrize(
    "title", ["ABCDEFGHIJKLMNOPQ", "", "  ", "A\\B", "\N{LATIN CAPITAL LETTER A WITH DIAERESIS}", "A\nB"]
)
def test_what_is_no_ae_title_is_a_usage_error(tmp_path: Path, option: str, title: str) -> None:
    for command in (["receive", str(tmp_path)], ["pull", str(tmp_path), "127.0.0.1", "1"]):
        assert run_command_line([*command, option, title]) == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_titles_of_sixteen_characters_and_with_spaces_are_titles(start: StartServer) -> None:
    server = start("--aet", " MY RECEIVER 16C", "--accept-from", "SIXTEEN LONG AET")
    assert send(server, [radiograph()], called="MY RECEIVER 16C", calling="SIXTEEN LONG AET") == [SUCCESS]
    assert not associate(server, called="MY RECEIVER", calling="SIXTEEN LONG AET").is_established


def test_two_servers_do_not_share_a_folder_or_a_port(start: StartServer) -> None:
    server = start()
    for root, port in ((server.root, server.port + 1), (server.root.parent / "other", server.port)):
        command = [sys.executable, "-m", "cxrbatch", "receive", str(root), "--port", str(port)]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert refused.returncode == ExitCode.CONFIGURATION
        assert refused.stderr.startswith("cxrbatch: ")


def test_killed_in_the_middle_it_leaves_nothing_half_and_loses_nothing_that_it_acknowledged(
    start: StartServer,
) -> None:
    server = start()
    objects = [radiograph() for _ in range(100)]
    association = associate(server)
    acknowledged = []
    for number, each in enumerate(objects):
        status = association.send_c_store(each).get("Status") if association.is_established else None
        if status == SUCCESS:
            acknowledged.append(each.SOPInstanceUID)
        if number == 30:
            server.process.send_signal(signal.SIGKILL)
    assert 30 <= len(acknowledged) < 100
    found = [pydicom.dcmread(path) for path in server.stored]
    assert {each.SOPInstanceUID for each in found} >= set(acknowledged)
    assert all(len(each.PixelData) == 64 * 64 for each in found)
    server.process.wait()
    (server.root / ".cxrbatch-incoming" / "left.dcm").write_bytes(b"half")
    again = start(root=server.root)
    assert send(again, objects) == [SUCCESS] * 100
    assert len(again.stored) == 100
    assert not (server.root / ".cxrbatch-incoming" / "left.dcm").exists()


def test_a_stop_lets_what_is_at_work_end(start: StartServer) -> None:
    server = start()
    association = associate(server)
    assert association.send_c_store(radiograph()).Status == SUCCESS
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not _listens(server))
    assert association.send_c_store(radiograph()).Status == SUCCESS
    association.release()
    server.process.wait(30)
    assert len(server.stored) == 2


def _listens(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


def test_noise_on_the_line_ends_an_association_and_nothing_else(start: StartServer) -> None:
    server, random_ = start(), random.Random(1)
    for number in range(40):
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            kind = bytes([random_.choice([1, 2, 4, 5, 6, 7, 9])])
            body = random_.randbytes(random_.randrange(200))
            length = len(body) if number % 3 else random_.randrange(2**32)
            line.sendall(kind + b"\0" + length.to_bytes(4, "big") + body)
    # Lines that say nothing count as senders for a while.
    wait_for(lambda: _gets_through(server))
    assert len(server.stored) == 1


def _gets_through(server: Server) -> bool:
    association = associate(server)
    if not association.is_established:
        return False
    assert association.send_c_store(radiograph()).Status == SUCCESS
    association.release()
    return True


HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    ".1.2",
    "1..2",
    "a b",
    "1.2\n",
    "1" * 65,
    "con",
    "1/3",
    "\udcff",
]


@pytest.mark.parametrize("uid", HOSTILE)
def test_a_name_is_a_name_whatever_was_sent(uid: str) -> None:
    name = safe_name(uid)
    assert name.startswith("uid-")
    assert name.replace("uid-", "").isalnum()
    assert safe_name("1.2.840.10008.5.1") == "1.2.840.10008.5.1"


class Sent:
    """A request as the server's handler sees it."""

    def __init__(self, inbox: Inbox, content: Dataset | bytes, **request: str) -> None:
        self.dataset_path = inbox.incoming / "received.dcm"
        if isinstance(content, bytes):
            self.dataset_path.write_bytes(content)
        else:
            content.save_as(self.dataset_path, enforce_file_format=True)
            request = {
                "AffectedSOPClassUID": str(content.SOPClassUID),
                "AffectedSOPInstanceUID": str(content.SOPInstanceUID),
            } | request
        self.request, self.assoc = SimpleNamespace(**request), None


def answer(inbox: Inbox, content: Dataset | bytes, **request: str) -> int:
    sent: Any = Sent(inbox, content, **request)
    return Receiver(inbox, print).store(sent)


def test_every_refusal_has_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Inbox(tmp_path / "in", least_free_bytes=10**6) as inbox:
        assert answer(inbox, radiograph()) == SUCCESS
        assert answer(inbox, radiograph(), AffectedSOPInstanceUID=generate_uid()) == NO_MATCH
        assert answer(inbox, b"no DICOM at all") == NOT_UNDERSTOOD
        nameless = radiograph()
        nameless.StudyInstanceUID = ""
        assert answer(inbox, nameless) == NOT_UNDERSTOOD
        (tmp_path / "elsewhere").mkdir()
        (inbox.root / "1.9").symlink_to(tmp_path / "elsewhere")
        assert answer(inbox, radiograph("1.9")) == OUT_OF_RESOURCES
        assert not list((tmp_path / "elsewhere").iterdir())
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**5))
        assert answer(inbox, radiograph()) == OUT_OF_RESOURCES
    assert len(list((tmp_path / "in").rglob("*.dcm"))) == 1


def test_tls_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"cert\.pem"):
        receive_module._tls_context(receive_module.TlsFiles(tmp_path / "cert.pem", tmp_path / "cert.pem"))


@pytest.mark.skipif(shutil.which("storescu") is None, reason="needs dcmtk (scripts/system-packages.sh)")
def test_dcmtk_sends_to_it(start: StartServer, tmp_path: Path) -> None:
    server = start()
    for number in range(3):
        radiograph("1.2.3", f"1.2.3.{number}").save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    command = ["storescu", "-aec", "CXRBATCH", "127.0.0.1", str(server.port), *map(str, tmp_path.glob("*.dcm"))]
    subprocess.run(command, check=True, capture_output=True)
    assert len(server.stored) == 3
