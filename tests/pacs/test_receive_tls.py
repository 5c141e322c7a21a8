"""`cxrbatch receive` over TLS: whoever shows what the authority signed gets in; others are refused in plain words."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made as they are asked for
    ComputedRadiographyImageStorage,
)

from cxrbatch.pacs.lines import ASSOCIATING_S
from cxrbatch.pacs.receive import SUCCESS
from tests.factories.certificates import HERE, WHY_NOT, Identity, make_authority, sign
from tests.pacs.conftest import Server, StartServer, radiograph, wait_for

pytestmark = [
    pytest.mark.skipif(not HERE, reason=WHY_NOT),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@dataclass(frozen=True, slots=True)
class Department:
    """An authority, those it signed, and one that another authority signed."""

    authority: Identity
    server: Identity
    modality: Identity
    stranger: Identity

    @property
    def options(self) -> tuple[str, ...]:
        names = ("--tls-cert", self.server.certificate), ("--tls-key", self.server.key)
        return tuple(str(part) for pair in names for part in pair)


@pytest.fixture(scope="module")
def department(tmp_path_factory: pytest.TempPathFactory) -> Department:
    folder = tmp_path_factory.mktemp("certificates")
    authority = make_authority(folder, "department")
    elsewhere = make_authority(folder, "elsewhere")
    return Department(
        authority,
        sign(folder, "server", authority),
        sign(folder, "modality", authority),
        sign(folder, "stranger", elsewhere),
    )


def associate(server: Server, trusted: Identity, shown: Identity | None, old: bool = False) -> Association:
    context = ssl.create_default_context(cafile=str(trusted.certificate))
    if old:
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
    if shown:
        context.load_cert_chain(shown.certificate, shown.key)
    entity = AE("MODALITY")
    entity.add_requested_context(ComputedRadiographyImageStorage)
    entity.acse_timeout = entity.connection_timeout = 5
    return entity.associate("127.0.0.1", server.port, ae_title="CXRBATCH", tls_args=(context, "127.0.0.1"))


def plain(server: Server) -> Association:
    entity = AE("MODALITY")
    entity.add_requested_context(ComputedRadiographyImageStorage)
    entity.acse_timeout = 5
    return entity.associate("127.0.0.1", server.port, ae_title="CXRBATCH")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_who_shows_what_the_authority_signed_gets_in_and_others_are_refused_in_plain_words(
    start: StartServer, department: Department
) -> None:
    server = start(*department.options, "--tls-ca", str(department.authority.certificate))
    good = associate(server, department.authority, department.modality)
    assert good.send_c_store(radiograph("1.2.3", "1.2.3.4")).Status == SUCCESS
    good.release()
    assert not associate(server, department.authority, None).is_established
    assert not associate(server, department.authority, department.stranger).is_established
    assert not associate(server, department.stranger, department.modality).is_established
    assert not associate(server, department.authority, department.modality, old=True).is_established
    assert not plain(server).is_established
    told = server.stop()
    assert [path.name for path in server.stored] == ["1.2.3.4.dcm"]
    assert "MODALITY at 127.0.0.1: 1 stored" in told
    for reason in (
        "it showed no certificate",
        "its certificate is not taken (unable to get local issuer certificate)",
        "it does not know the authority of our certificate",
        "it speaks an old TLS; 1.2 is the least",
        "it does not speak TLS",
    ):
        assert f"127.0.0.1: no TLS connection, {reason}" in told
    assert told.count("no TLS connection") == 5


def test_without_an_authority_nobody_needs_a_certificate_but_the_line_is_closed_to_plain_dicom(
    start: StartServer, department: Department
) -> None:
    server = start(*department.options)
    association = associate(server, department.authority, None)
    assert association.send_c_store(radiograph()).Status == SUCCESS
    association.release()
    assert not plain(server).is_established
    assert len(server.stored) == 1


def test_who_connects_and_says_nothing_keeps_nobody_waiting(start: StartServer, department: Department) -> None:
    server = start(*department.options)
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    began = time.monotonic()
    association = associate(server, department.authority, None)
    assert association.send_c_store(radiograph()).Status == SUCCESS
    association.release()
    assert time.monotonic() - began < 2.5 * ASSOCIATING_S, "one after the other, they would take three times as long"
    for line in silent:
        line.close()
    assert "no TLS connection" not in server.stop()  # checks of a port are no news


@pytest.mark.skipif(shutil.which("storescu") is None, reason="needs dcmtk (scripts/system-packages.sh)")
def test_dcmtk_sends_by_tls(start: StartServer, department: Department, tmp_path: Path) -> None:
    server = start(*department.options, "--tls-ca", str(department.authority.certificate))
    radiograph("1.2.3", "1.2.3.4").save_as(tmp_path / "1.dcm", enforce_file_format=True)
    for who, expected in ((department.modality, 0), (department.stranger, 1)):
        command: list[str | Path] = ["storescu", "+tls", who.key, who.certificate]
        command += ["+cf", department.authority.certificate, "-aec", "CXRBATCH"]
        command += ["127.0.0.1", str(server.port), tmp_path / "1.dcm"]
        sent = subprocess.run(command, check=False, capture_output=True)
        assert (sent.returncode != 0) == bool(expected), sent.stderr
    wait_for(lambda: len(server.stored) == 1)
    assert "1 stored" in server.stop()
