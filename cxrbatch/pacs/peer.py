"""Whom we speak DICOM with as a client: opening an association, and saying why one cannot be had.

Messages name the peer and nothing else: neither a patient nor a UID, nor what pynetdicom would log of both.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext

from cxrbatch.errors import ConfigurationError, CxrBatchError

LARGEST_PDU = 256 * 1024
# Its items have heads of six bytes.
_LEAST_PDU = 16
# PS3.8 9.3.4: the result of a rejection that may be another one in a moment.
_TRANSIENT = 2


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a connection is secured, by TLS 1.2 or later (PS3.15 B.12); paths are of PEM files.

    Attributes:
        authority: who must have signed the peer's certificate; None: whom this machine trusts anyway.
        name: whose certificate it must be; empty: the host's.
        certificate: our own, for a peer that asks for one.
        key: the private key of that.
    """

    authority: Path | None = None
    name: str = ""
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for a connection, for an association, for an answer, for bytes to be taken."""

    connect_s: float = 10.0
    associate_s: float = 30.0
    answer_s: float = 60.0
    send_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A DICOM application: where it listens, what it is called, and what we call ourselves to it."""

    host: str
    port: int
    called: str = "ANY-SCP"
    calling: str = "CXRBATCH"
    tls: ClientTls | None = None
    patience: Patience = field(default_factory=Patience)

    def __str__(self) -> str:
        """What tells this peer from others: AE title, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.called}@{host}:{self.port}"


class NoAssociation(CxrBatchError):
    """A peer is not there, does not want us, or went away; says which, and what to do.

    `may_pass` tells that it is worth trying again by and by.
    """

    def __init__(self, message: str, *, may_pass: bool = True) -> None:
        super().__init__(message)
        self.may_pass = may_pass


@contextmanager
def associated(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[EventHandlerType] = (),
    negotiation: Sequence[Any] = (),
) -> Iterator[Association]:
    """Yield an association that is released in the end; aborted where the block ends with an error.

    Args:
        peer: whom to associate with.
        contexts: what to propose (PS3.8 7.1.1.13), 128 at most.
        handlers: what pynetdicom is to call, and when.
        negotiation: items of extended negotiation, such as roles.

    Raises:
        NoAssociation: it cannot be had.
        ConfigurationError: a TLS file is no use.
    """
    association = open_association(peer, contexts, handlers, negotiation)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    if association.is_established:
        association.release()


def open_association(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[EventHandlerType] = (),
    negotiation: Sequence[Any] = (),
) -> Association:
    """Return an established association; arguments and errors are those of `associated`."""
    logging.getLogger("pynetdicom").propagate = False  # its messages hold what goes over the line
    entity = AE(ae_title=peer.calling)
    patience = peer.patience
    entity.connection_timeout, entity.acse_timeout = patience.connect_s, patience.associate_s
    entity.dimse_timeout, entity.network_timeout = patience.answer_s, patience.answer_s
    secured = _context(peer.tls) if peer.tls else None
    connected: list[bool] = []

    def connect(event: Event) -> None:
        connected.append(True)
        _prepare(event, patience.send_s)

    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.called,
            max_pdu=LARGEST_PDU,
            ext_neg=list(negotiation),
            tls_args=(secured, _name(peer)) if secured else None,
            evt_handlers=[*handlers, (evt.EVT_CONN_OPEN, connect)],
        )
    except (socket.gaierror, UnicodeError) as error:
        raise NoAssociation(f"{peer}: no such host ({_reason(error)}). Check its name.") from None
    if association.is_established:
        _require_room_in_a_pdu(peer, association)
        return association
    raise _explained(peer, association, secured, is_connected=bool(connected))


def _require_room_in_a_pdu(peer: Peer, association: Association) -> None:
    """See that the peer takes PDUs that hold something (PS3.8 9.3.5 and D.1; 0: of any length)."""
    longest = association.acceptor.maximum_length or 0
    if 0 < longest < _LEAST_PDU:
        association.abort()
        raise NoAssociation(f"{peer}: takes PDUs of {longest} bytes, in which there is no room.", may_pass=False)


def _prepare(event: Event, send_s: float) -> None:
    """Send what is written at once, and let no peer that stops reading hold us for good.

    Without TCP_NODELAY the short ends of a message wait for the acknowledgement of what went before (Nagle's
    algorithm and delayed acknowledgement, RFC 1122 4.2.3): 56 ms an object were measured with a server on the same
    machine, and 14 ms with it.
    """
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    whole = int(send_s)
    limit = struct.pack("ll", whole, int((send_s - whole) * 1_000_000))
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _name(peer: Peer) -> str:
    assert peer.tls is not None, "or there is no certificate"
    return peer.tls.name or peer.host


def _context(files: ClientTls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(str(path) for path in (files.authority, files.certificate, files.key) if path)
        raise ConfigurationError(
            f"{named}: TLS cannot use these files ({error}). They have to be PEM, and certificate and key belong "
            "together."
        ) from error
    return context


# --------------------------------------------------------------------------- why there is none


def _explained(
    peer: Peer, association: Association, secured: ssl.SSLContext | None, *, is_connected: bool
) -> NoAssociation:
    """Say why there is no association."""
    if association.is_rejected:
        return _rejected(peer, association)
    if not is_connected:
        return NoAssociation(f"{peer}: cannot be reached: {_probe(peer, secured)}.")
    if association.acceptor.primitive is not None and association.acceptor.primitive.result == 0:
        return NoAssociation(
            f"{peer}: accepts nothing of what is to be done. Check what it is configured to take from us.",
            may_pass=False,
        )
    hint = "" if secured else "; perhaps it wants TLS (--tls)"
    return NoAssociation(f"{peer}: answered the connection, but not our request for an association{hint}.")


def _rejected(peer: Peer, association: Association) -> NoAssociation:
    answer = association.acceptor.primitive
    assert answer is not None, "or nobody rejected anything"
    may_pass = answer.result == _TRANSIENT
    reason = answer.reason_str.lower()
    advice = {
        "calling ae title not recognised": f" Let it know {peer.calling}, or say with --calling what it knows us as.",
        "called ae title not recognised": " Say with --called what it is called.",
    }.get(reason, "")
    return NoAssociation(
        f"{peer}: rejects the association{' for now' if may_pass else ''}: {reason}.{advice}", may_pass=may_pass
    )


def _probe(peer: Peer, secured: ssl.SSLContext | None) -> str:
    """Return why a connection fails, by trying once more: pynetdicom keeps that to itself."""
    hint = ""
    try:
        with socket.create_connection((peer.host, peer.port), peer.patience.connect_s) as plain:
            hint = "; perhaps it does not speak TLS" if secured is not None else ""
            if secured is not None:
                with secured.wrap_socket(plain, server_hostname=_name(peer)):
                    pass
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    except ssl.SSLError as error:
        return f"TLS fails: {error.reason or error}; perhaps it does not speak TLS, or wants another certificate"
    except TimeoutError:
        return f"no answer within {peer.patience.connect_s:g} s{hint}"
    except OSError as error:
        return f"{_reason(error)}{hint}"
    return "the connection failed, and works now"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
