"""`cxrbatch receive` under load, killed, and fed with damaged PDUs, seen by somebody who reads INPUT all the while.

Objects are sent by replaying the bytes of a real association with other UIDs: a thousand cost a second that way.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    ComputedRadiographyImageStorage,
)

from cxrbatch.pacs.inbox import ABANDONED_S, Inbox
from cxrbatch.pacs.receive import SUCCESS
from tests.factories.ports import free_port
from tests.pacs.conftest import PATIENCE_S, Server, StartServer, radiograph, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

STUDY, PATTERN = "1.2.3", "1.2.3.90000"
# A thousand objects in `make soak`.
EVERY = bool(os.environ.get("CXRBATCH_EVERY_FAULT"))
ASSOCIATIONS, EACH, DAMAGED = 10, 100 if EVERY else 40, 200 if EVERY else 80
KILLED_AFTER = 3 * EACH
_ACCEPTED, _DATA = 2, 4
# (0000,0900) Status: implicit little endian, two bytes.
_STATUS = b"\0\0\0\x09\x02\0\0\0"


@dataclass(slots=True)
class Spoken:
    """What a sender said: to ask for an association, and to send an object named PATTERN."""

    request: bytes = b""
    store: bytes = b""
    said: list[bytes] = field(default_factory=list)

    def object(self, uid: str) -> bytes:
        assert len(uid) == len(PATTERN)
        return self.store.replace(PATTERN.encode(), uid.encode())


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    """Record an association with a server that stores nothing."""
    taped, entity = Spoken(), AE("ROUTER")
    entity.add_requested_context(ComputedRadiographyImageStorage)
    entity.add_supported_context(ComputedRadiographyImageStorage)
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: SUCCESS)])
    association = entity.associate(
        "127.0.0.1", port, ae_title="CXRBATCH", evt_handlers=[(evt.EVT_DATA_SENT, lambda e: taped.said.append(e.data))]
    )
    assert association.send_c_store(radiograph(STUDY, PATTERN)).Status == SUCCESS
    taped.request, taped.store = taped.said[0], b"".join(taped.said[1:])
    association.release()
    assert server is not None
    server.shutdown()
    return taped


def read_pdu(line: socket.socket) -> tuple[int, bytes]:
    kind, length = struct.unpack(">BxL", exactly(line, 6))
    return kind, exactly(line, length)


def exactly(line: socket.socket, number: int) -> bytes:
    read = b""
    while len(read) < number:
        block = line.recv(number - len(read))
        if not block:
            raise ConnectionError
        read += block
    return read


def send(port: int, spoken: Spoken, uids: Sequence[str], acknowledged: list[str], most: int = sys.maxsize) -> None:
    """Send objects over one association; note what was acknowledged, until the line breaks.

    Once all senders together got to `most`, each waits with its next object for the line to break.
    """
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(spoken.request)
        assert read_pdu(line)[0] == _ACCEPTED
        for uid in uids:
            if len(acknowledged) >= most:
                exactly(line, 1)
            line.sendall(spoken.object(uid))
            kind, answer = read_pdu(line)
            assert kind == _DATA
            if struct.unpack("<H", answer.split(_STATUS)[1][:2])[0] == SUCCESS:
                acknowledged.append(uid)


class Reader(threading.Thread):
    """Reads whatever a walk of a study's folder meets, again and again, and notes what is not whole."""

    def __init__(self, server: Server, whole: bytes) -> None:
        super().__init__()
        self.server, self.whole = server, whole
        self.seen: set[Path] = set()
        self.broken: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.wait(0.05):
            for path in set((self.server.root / STUDY).glob("*")) - self.seen:
                self.seen.add(path)
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            found = pydicom.dcmread(path)
            if path.stem != found.SOPInstanceUID or found.PixelData != self.whole:
                self.broken.append(f"{path}: another object")
        except Exception as error:  # noqa: BLE001
            self.broken.append(f"{path}: {error}")


def test_many_objects_over_ten_associations_a_kill_and_damaged_pdus(start: StartServer, spoken: Spoken) -> None:
    server = start("--max-associations", "40")
    uids = [f"1.2.3.{number}" for number in range(10_000, 10_000 + ASSOCIATIONS * EACH)]
    reader, acknowledged = Reader(server, radiograph().PixelData), list[str]()
    reader.start()
    with ThreadPoolExecutor(ASSOCIATIONS) as senders:
        for part in range(ASSOCIATIONS):
            senders.submit(send, server.port, spoken, uids[part::ASSOCIATIONS], acknowledged, len(uids) - EACH)
        wait_for(lambda: len(acknowledged) >= KILLED_AFTER)
        server.process.send_signal(signal.SIGKILL)
    assert KILLED_AFTER <= len(acknowledged) < len(uids)
    server.process.wait()
    there = {path.stem for path in server.stored}
    assert there >= set(acknowledged)

    # A sender sends what was not acknowledged, and something twice: the answer to the last one was lost on the way.
    again, told = start("--max-associations", "40", root=server.root), list[str]()
    rest = sorted({*uids} - {*acknowledged[ASSOCIATIONS:]})
    with ThreadPoolExecutor(ASSOCIATIONS + 1) as senders:
        noise = senders.submit(send_damaged, again.port, spoken, DAMAGED)
        done = [
            senders.submit(send, again.port, spoken, rest[part::ASSOCIATIONS], told) for part in range(ASSOCIATIONS)
        ]
        assert noise.result() == DAMAGED
        assert [each.result() for each in done] == [None] * ASSOCIATIONS
    reader.enough.set()
    reader.join()
    assert sorted(told) == rest
    assert not reader.broken
    assert sorted(path.stem for path in (again.root / STUDY).iterdir()) == uids
    assert psutil.Process(again.process.pid).memory_info().rss < 300 * 2**20
    printed = again.stop()
    assert "Traceback" not in printed
    assert "Doe" not in printed


def send_damaged(port: int, spoken: Spoken, number: int) -> int:
    """Send objects of a study of their own, each over a line of its own, with bytes changed, gone or doubled."""
    chance, sent = random.Random(14), 0
    stranger = spoken.store.replace(STUDY.encode(), b"9.9.9")
    for _ in range(number):
        whole = bytearray(spoken.request if sent % 2 else stranger)
        where = chance.randrange(min(len(whole), 400))  # where headers and UIDs are
        match chance.randrange(3):
            case 0:
                whole[where] = chance.randrange(256)
            case 1:
                del whole[where : where + chance.randrange(1, 60)]
            case _:
                whole[where:where] = whole[where : where + chance.randrange(1, 60)]
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as line:
            if not sent % 2:
                line.sendall(spoken.request)
                read_pdu(line)
            line.sendall(whole)
        sent += 1
    return sent


def test_no_pdu_takes_more_memory_than_it_may(start: StartServer, spoken: Spoken) -> None:
    server = start()
    line = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    with line, pytest.raises(OSError):  # reset, or a broken pipe
        line.sendall(b"\x01\0" + struct.pack(">L", 2**31))
        for _ in range(200):
            line.sendall(bytes(2**20))
    assert psutil.Process(server.process.pid).memory_info().rss < 200 * 2**20


def test_who_stops_in_the_middle_of_a_pdu_does_not_keep_the_server_from_ending(
    start: StartServer, spoken: Spoken
) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as line:
        line.sendall(spoken.request[:-5])
        server.stop()
    assert server.process.returncode == 0
    assert not server.stored


def test_what_broke_off_does_not_fill_the_disk(tmp_path: Path) -> None:
    with Inbox(tmp_path) as inbox:
        for name, age_s in (("old", ABANDONED_S + 1), ("lock", ABANDONED_S + 1), ("new", 0)):
            (inbox.incoming / name).write_bytes(b"half")
            os.utime(inbox.incoming / name, (time.time() - age_s,) * 2)
        inbox.remove_abandoned()
        assert sorted(path.name for path in inbox.incoming.iterdir()) == ["lock", "new"]


HOSTILE_AETS = [b"ROUTER\n\x1b[2J     "[:16], b"                ", b"../../etc/passwd", b"\0" * 16, b"\xff" * 16]


def test_an_ae_title_is_never_more_than_a_word_in_a_line(start: StartServer, spoken: Spoken) -> None:
    server, acknowledged = start(), list[str]()
    for number, aet in enumerate(HOSTILE_AETS, start=10_000):
        # PS3.8 table 9-11: called at byte 10, calling at byte 26.
        hostile = Spoken(spoken.request[:26] + aet + spoken.request[42:], spoken.store)
        with suppress(AssertionError):
            send(server.port, hostile, [f"1.2.3.{number}"], acknowledged)
    told = server.stop()
    assert all(letter.isprintable() or letter == "\n" for letter in told)
    assert len(told.splitlines()) == len(acknowledged) == len(server.stored) > 0
    assert "Traceback" not in told


HOSTILE_UIDS = [
    "../../../ee",
    "/etc/passwd",
    "..........",
    "1.2\n3.90000",
    "1.2/../9000",
    ".2.3.90000.",
    "1.2.3.9000\0",
]


def test_hostile_uids_end_in_names_that_are_safe(start: StartServer, spoken: Spoken) -> None:
    server, acknowledged = start(), list[str]()
    for uid in HOSTILE_UIDS:
        with suppress(AssertionError):
            send(server.port, Spoken(spoken.request, spoken.store), [uid.ljust(len(PATTERN))[:11]], acknowledged)
    assert "Traceback" not in server.stop()
    assert len(server.stored) == len(acknowledged) > 0
    for path in server.stored:
        assert path.parent.parent == server.root
        assert path.stem.replace("uid-", "").replace(".", "").isalnum()
    assert not list(server.root.parent.glob("*.dcm"))
