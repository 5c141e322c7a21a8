"""The connections of a server that strangers reach: none of them makes it wait for ever, or takes its memory.

pynetdicom makes TLS handshakes in the thread that takes connections, reads a line that has gone silent for ever, reads
as many bytes for one PDU as its header announces, up to 4 GiB, and counts who has hung up as a sender for a while. Here
each line has a thread and a time limit, and a PDU a length.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast
from weakref import WeakSet

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

# Who connects and does not say what he wants is waited for so long.
ASSOCIATING_S = 10.0
# As long as that half a PDU may rest.
NETWORK_TIMEOUT_S = 60.0
LARGEST_PDU = 256 * 1024
_POLL_S = 0.1
# PS3.8 table 9-10: what our side says, and what the peer sent that is no PDU.
_OURS = {"Evt1", "Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"}
_INVALID_PDU = "Evt19"
# A request for an association is no P-DATA, so what was negotiated does not hold for it: 128 contexts with 40 transfer
# syntaxes of 64 characters each stay below.
_MOST_BYTES = 1 << 20

_BY_REASON = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "UNKNOWN_PROTOCOL": "it does not speak TLS",
    "HTTP_REQUEST": "it speaks HTTP, not TLS",
    "UNSUPPORTED_PROTOCOL": "it speaks an old TLS; 1.2 is the least",
    "NO_SHARED_CIPHER": "it offers no cipher that is safe",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take our certificate",
}


class _Request(RequestHandler):
    """A line whose peer cannot make us read more than a PDU holds, nor count as a sender once it has hung up."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        line: Any = association.dul.socket
        line.recv = partial(_read_at_most, line.recv)
        provider: Any = association.dul
        provider.receive_pdu = partial(_first_of, provider, provider.receive_pdu)
        machine = provider.state_machine
        machine.do_action = partial(_act, provider, machine.do_action)
        return association


def _act(provider: Any, act: Callable[[str], None], event: str) -> None:
    """Let the state machine act on an event; a message that is none ends the association as an unknown PDU does.

    Raised in its thread, an error would print what was sent, and leave the association at work without an end.
    """
    try:
        act(event)
    except InvalidEventError:
        if event in _OURS:
            # What our side still wanted to say once its line was gone: left there, it is tried again without a pause.
            with suppress(queue.Empty):
                provider.to_provider_queue.get_nowait()
    except Exception:  # noqa: BLE001  # whatever pynetdicom makes of what a stranger sent
        if event == _INVALID_PDU:
            provider.assoc._kill = provider._kill_thread = True
            provider.socket.close()
        else:
            provider.event_queue.put(_INVALID_PDU)


def _first_of(provider: Any, receive: Callable[..., Any], wait: bool = False, timeout: float | None = None) -> Any:
    """Wait for the request for an association; no longer than the line is open."""
    provider.receive_pdu = receive
    deadline, idle = time.monotonic() + (timeout or ASSOCIATING_S), 0
    while wait and time.monotonic() < deadline and idle < 2:
        if (primitive := receive(wait=True, timeout=_POLL_S)) is not None:
            return primitive
        # State 1 is also that before the first event, which lies in the queue from the beginning (PS3.8 table 9-10).
        closed = provider.state_machine.current_state == "Sta1" and provider.event_queue.empty()
        idle = idle + 1 if closed or not provider.is_alive() else 0
    if (primitive := receive(wait=False)) is None and wait:
        _hang_up(provider.socket.socket)  # or its thread goes on waiting for the other half of a request
    return primitive


def _hang_up(line: socket.socket | None) -> None:
    if line is not None:
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def _read_at_most(read: Callable[[int], bytearray], number: int) -> bytearray:
    if number > _MOST_BYTES:
        raise OSError("a PDU is longer than it may be")
    return read(number)


class LineServer(ThreadedAssociationServer):
    """Takes connections; TLS is agreed upon in a thread of each."""

    daemon_threads, block_on_close = True, False

    def __init__(self, *args: Any, refused: Callable[[str], None], **options: Any) -> None:
        """Bind and listen.

        Args:
            args: what pynetdicom gives its servers.
            refused: called with a line for each connection that TLS refused.
            options: what pynetdicom gives its servers.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._refused = refused
        self._lines: WeakSet[socket.socket] = WeakSet()
        super().__init__(*args, **options | {"request_handler": _Request})

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Take a connection, and leave all that its peer has a say in to its thread."""
        line, address = cast("socket.socket", self.socket).accept()
        line.settimeout(NETWORK_TIMEOUT_S)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # an answer does not wait for the sender's next word
        if self.ssl_context is not None:
            line = self.ssl_context.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        self._lines.add(line)
        return line, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Agree on TLS where it is asked for; then begin the association."""
        if isinstance(request, ssl.SSLSocket):
            try:
                request.settimeout(ASSOCIATING_S)
                request.do_handshake()
                request.settimeout(NETWORK_TIMEOUT_S)
            except OSError as error:
                if reason := _why(error):
                    self._refused(f"{client_address[0]}: no TLS connection, {reason}")
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)

    def hang_up(self) -> None:
        """End every line, also those on which a thread waits."""
        for line in list(self._lines):
            _hang_up(line)


def _why(error: OSError) -> str:
    """Return in plain words why no TLS came about; "" where the peer just hung up, as checks of a port do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not taken ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "it said nothing"
    if isinstance(error, ssl.SSLEOFError) or not isinstance(error, ssl.SSLError):
        return ""
    return _BY_REASON.get(error.reason or "", f"TLS failed ({error.reason})")


def start_server(
    entity: AE,
    address: tuple[str, int],
    context: ssl.SSLContext | None,
    handlers: list[EventHandlerType],
    tell: Callable[[str], None],
) -> LineServer:
    """Listen in a thread of its own, for an application entity.

    Raises:
        OSError: the address cannot be listened on.
    """
    server = entity.make_server(
        address, ssl_context=context, evt_handlers=handlers, server_class=LineServer, refused=tell
    )
    assert isinstance(server, LineServer), "or it is not the one that was asked for"
    threading.Thread(target=server.serve_forever, name="AcceptorServer", daemon=True).start()
    entity._servers.append(server)
    return server
