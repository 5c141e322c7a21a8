"""Associations as a client: sent at once, and where there is none, why."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    ComputedRadiographyImageStorage,
    Verification,
)

from cxrbatch.errors import ConfigurationError
from cxrbatch.pacs.peer import ClientTls, NoAssociation, Patience, Peer, associated
from tests.factories.ports import free_port
from tests.pacs.conftest import radiograph

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

# For peers that do not answer; those that do may take as long as a busy machine lets them.
HURRIED = Patience(connect_s=0.5, associate_s=0.5, answer_s=0.5, send_s=0.3)
ECHO = [build_context(Verification)]


@contextmanager
def answering(secured: ssl.SSLContext | None = None, **attributes: Any) -> Iterator[int]:
    """Run a server that verifies; yield its port."""
    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context(Verification)
    for name, value in attributes.items():
        setattr(entity, name, value)
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, ssl_context=secured)
    try:
        yield port
    finally:
        assert server is not None
        server.shutdown()


def reason(peer: Peer, contexts: Any = ECHO) -> NoAssociation:
    with pytest.raises(NoAssociation) as caught, associated(peer, contexts):
        pass
    assert str(caught.value).startswith(f"{peer}: ")
    return caught.value


def test_an_association_sends_at_once_and_is_released() -> None:
    with answering(require_called_aet=True) as port:
        peer = Peer("localhost", port, called="ARCHIVE")
        with associated(peer, ECHO) as association:
            assert association.send_c_echo().Status == 0
            line: Any = association.dul.socket
            assert line.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert association.is_released
        assert str(peer) == f"ARCHIVE@localhost:{port}"
        assert str(Peer("::1", 104)) == "ANY-SCP@[::1]:104"


def test_an_error_inside_aborts_it() -> None:
    with answering() as port:
        with pytest.raises(KeyError), associated(Peer("127.0.0.1", port), ECHO) as association:
            raise KeyError
        assert association.is_aborted


def test_who_rejects_us_says_why_and_whether_it_may_pass() -> None:
    with answering(require_called_aet=True) as port:
        said = reason(Peer("127.0.0.1", port, called="OTHER"))
        assert "called AE title not recognised".lower() in str(said)
        assert "--called" in str(said)
        assert not said.may_pass
    with answering(require_calling_aet=["ROUTER"]) as port:
        said = reason(Peer("127.0.0.1", port, calling="US"))
        assert "Let it know US" in str(said)
        assert not said.may_pass
    with answering(maximum_associations=1) as port, associated(Peer("127.0.0.1", port), ECHO):
        said = reason(Peer("127.0.0.1", port))
        assert "rejects the association for now: local limit exceeded" in str(said)
        assert said.may_pass
    with answering() as port:
        said = reason(Peer("127.0.0.1", port), [build_context(ComputedRadiographyImageStorage)])
        assert "accepts nothing" in str(said)
        assert not said.may_pass


@pytest.mark.parametrize("longest", [0, 16, 1, 6, 7])
def test_a_peer_takes_pdus_of_any_length_that_holds_something(longest: int) -> None:
    with answering(maximum_pdu_size=longest) as port:
        peer = Peer("127.0.0.1", port, patience=HURRIED)
        if longest in {0, 16}:
            with associated(peer, ECHO) as association:
                assert association.send_c_echo().Status == 0
        else:
            said = reason(peer)
            assert "in which there is no room" in str(said)
            assert not said.may_pass


def test_who_is_not_there_is_told_from_who_does_not_speak_dicom() -> None:
    said = reason(Peer("127.0.0.1", free_port()))
    assert "refused" in str(said)
    assert said.may_pass
    assert "no such host" in str(reason(Peer("nowhere.invalid", 104)))
    assert "no such host" in str(reason(Peer("x" * 70, 104)))
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        said = reason(Peer("127.0.0.1", silent.getsockname()[1], patience=HURRIED))
        assert "not our request for an association" in str(said)
        secured = Peer("127.0.0.1", silent.getsockname()[1], tls=ClientTls(), patience=HURRIED)
        assert "no answer within 0.5 s; perhaps it does not speak TLS" in str(reason(secured))


def test_a_peer_that_stops_reading_does_not_hold_us_for_good() -> None:
    """It accepts the association, and takes nothing more: the buffers between fill up."""
    held = threading.Event()
    entity = AE()
    entity.add_supported_context(ComputedRadiographyImageStorage)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_PDU_RECV, _stall(held))])
    large = radiograph()
    large.Rows = large.Columns = 6000
    large.PixelData = bytes(6000 * 6000)
    started = time.monotonic()
    contexts = [build_context(ComputedRadiographyImageStorage)]
    impatient = Patience(answer_s=HURRIED.answer_s, send_s=HURRIED.send_s)
    with associated(Peer("127.0.0.1", server.server_address[1], patience=impatient), contexts) as association:
        assert "Status" not in association.send_c_store(large)
    assert time.monotonic() - started < _HELD_S / 2
    held.set()
    server.shutdown()


_HELD_S = 60.0


def _stall(held: threading.Event) -> Any:
    def stall(event: evt.Event) -> None:
        if type(event.pdu).__name__ == "P_DATA_TF":
            held.wait(_HELD_S)

    return stall


# --------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=archive", "-addext", "subjectAltName=DNS:archive.example.org"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_a_secured_connection_needs_a_certificate_that_is_trusted_and_has_the_name(
    certificate: tuple[Path, Path],
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    whole = ClientTls(certificate[0], "archive.example.org", *certificate)
    with answering(context) as port:
        with associated(Peer("127.0.0.1", port, tls=whole), ECHO) as association:
            assert association.send_c_echo().Status == 0
        unknown = reason(Peer("127.0.0.1", port, tls=ClientTls(name="archive.example.org")))
        assert "its certificate is not trusted: self" in str(unknown)
        other = reason(Peer("127.0.0.1", port, tls=ClientTls(certificate[0])))
        assert "its certificate is not trusted" in str(other)
        assert "127.0.0.1" in str(other)
        assert "--tls" in str(reason(Peer("127.0.0.1", port)))
    with answering() as port:
        assert "TLS fails" in str(reason(Peer("127.0.0.1", port, tls=whole)))


def test_tls_files_that_are_none_are_no_fault_of_the_peer(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with (
        pytest.raises(ConfigurationError, match=r"ca\.pem"),
        associated(Peer("localhost", 1, tls=ClientTls(tmp_path / "ca.pem")), ECHO),
    ):
        pass
