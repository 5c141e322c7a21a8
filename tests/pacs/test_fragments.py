"""What there is no room for, on the disk or in memory: answered or ended, and gone."""

from __future__ import annotations

import resource
import socket
import struct
import time
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    ComputedRadiographyImageStorage,
)

from cxrbatch.pacs import fragments
from cxrbatch.pacs.inbox import Inbox
from cxrbatch.pacs.receive import OUT_OF_RESOURCES, SUCCESS, Reception, listening
from tests.factories.ports import free_port
from tests.pacs.conftest import StartServer, radiograph
from tests.pacs.test_receive_torture import Spoken, read_pdu, spoken

__all__ = ["spoken"]

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def statuses(port: int, *sizes: int) -> list[int]:
    """Send objects of so many bytes over one association; return what is answered."""
    entity = AE("ROUTER")
    entity.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="CXRBATCH")
    found = []
    for number, size in enumerate(sizes):
        sent = radiograph("1.2.3", f"1.2.3.{number}")
        sent.PixelData = bytes(size)
        found.append(int(association.send_c_store(sent).get("Status", -1)))
    association.release()
    return found


def test_what_cannot_be_written_is_answered_and_the_next_one_is_taken(start: StartServer) -> None:
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # as a disk that is full
    expected = [SUCCESS, OUT_OF_RESOURCES, SUCCESS, OUT_OF_RESOURCES, SUCCESS]
    assert statuses(server.port, 1000, 2 << 20, 500_000, 5 << 20, 1000) == expected
    assert [path.name for path in server.stored] == ["1.2.3.0.dcm", "1.2.3.2.dcm", "1.2.3.4.dcm"]
    assert [path.name for path in (server.root / ".cxrbatch-incoming").iterdir()] == ["lock"]
    assert "2 refused, the disk is full, 3 stored" in server.stop()


def test_an_object_is_given_up_while_it_comes_where_room_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "_LOOK_EVERY", 1 << 20)
    monkeypatch.setattr(Inbox, "has_room", lambda _: False)
    monkeypatch.setattr(Inbox, "require_room", lambda _: None)  # afterwards there is room again
    port = free_port()
    with Inbox(tmp_path) as inbox, listening(inbox, Reception(port=port), print):
        assert statuses(port, 1000, 3 << 20) == [SUCCESS, OUT_OF_RESOURCES]
        assert not list(inbox.incoming.glob("*.dcm"))


def test_a_command_without_end_ends_its_association(start: StartServer, spoken: Spoken) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        line.sendall(spoken.request)
        read_pdu(line)
        said = bytes(50_000)
        fragment = struct.pack(">BxL", 4, len(said) + 6) + struct.pack(">LBB", len(said) + 2, 1, 1) + said
        with pytest.raises(ConnectionError):
            for _ in range(200):
                line.sendall(fragment)
                time.sleep(0.01)
    assert statuses(server.port, 1000) == [SUCCESS]
