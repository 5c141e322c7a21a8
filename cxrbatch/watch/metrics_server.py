"""/metrics and /healthz on 127.0.0.1, for as long as the daemon lives: what it told after its last pass.

Whoever else works on this machine may connect, and a web page may let a browser do so. So nobody gets more than a few
seconds and a few kilobytes, at most `MOST_CONNECTIONS` are served at a time, and a request has to name this machine.
"""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from cxrbatch.errors import ConfigurationError
from cxrbatch.records import now_text

LOCALHOST = "127.0.0.1"
# A daemon that has told nothing for so long is no longer at work, whatever its process looks like.
STALE_AFTER_S = 900.0
# From the first byte to the last, whatever comes in between.
SLOW_CLIENT_S = 5.0
STOP_POLL_S = 0.2
MOST_CONNECTIONS = 32
# A browser sends some kilobytes; a scraper a tenth of one.
REQUEST_BYTES = 16 * 1024
_OWN_NAMES = frozenset({"", "localhost", LOCALHOST, "[::1]"})

Answer = tuple[HTTPStatus, str, str]
"""Status, content type, text."""


@dataclass(frozen=True, slots=True)
class _State:
    """What the daemon last told; `told_at` on the monotonic clock, which no clock change moves."""

    text: str = ""
    healthy: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    last_pass: str = ""
    told_at: float = 0.0


class MetricsServer:
    """An HTTP server on this machine only, in a thread of its own: /metrics, and /healthz with 200 or 503."""

    def __init__(
        self, port: int, *, stale_after_s: float = STALE_AFTER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Listen on `port` of 127.0.0.1; 0 takes any free one, which `port` then tells.

        Raises:
            ConfigurationError: the port cannot be had.
        """
        self._clock, self._stale_after_s = clock, stale_after_s
        self._state = _State(told_at=clock())
        try:
            self._server = _Server((LOCALHOST, port), self._answer)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"metrics port {port}: cannot be listened on ({error}). Choose another one with --metrics-port."
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> MetricsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, text: str, *, healthy: bool, facts: Mapping[str, object] | None = None) -> None:
        """Tell of a finished pass.

        Args:
            text: what /metrics answers from now on, as `metrics.describe_run` returns it.
            healthy: whether the daemon can do its work; a study that failed is no reason against it.
            facts: what /healthz tells beside the status: strings and numbers, never a patient, path or study key.
        """
        self._state = _State(text, healthy, dict(facts or {}), now_text(), self._clock())

    def renew(self) -> None:
        """Tell that the daemon is still at work on a long pass: what was told last stays true from now on."""
        self._state = replace(self._state, told_at=self._clock())

    def close(self) -> None:
        """Stop listening and end the thread; an answer on its way may still be cut off."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> Answer:
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, self._state.text
        if path == "/healthz":
            return self._health()
        return HTTPStatus.NOT_FOUND, "text/plain", "There are /metrics and /healthz.\n"

    def _health(self) -> Answer:
        state = self._state
        age_s = self._clock() - state.told_at
        if not state.last_pass:
            status = "starting"
        elif not state.healthy:
            status = "unhealthy"
        else:
            status = "stale" if age_s > self._stale_after_s else "ok"
        answer = {**state.facts, "status": status, "last_pass": state.last_pass, "silent_s": round(age_s, 1)}
        code = HTTPStatus.OK if status == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return code, "application/json", json.dumps(answer) + "\n"


class _Server(ThreadingHTTPServer):
    """Serves each request in a daemon thread, so that nobody who asks slowly holds up another, or the end."""

    block_on_close = False
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, address: tuple[str, int], answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self._begun: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Request)

    def get_request(self) -> tuple[socket.socket, object]:
        """Take the next connection; where there are no descriptors left, in a while."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(STOP_POLL_S)
            raise

    def verify_request(self, request: object, client_address: object) -> bool:  # noqa: ARG002
        """Take a connection, unless too many are open: that one is closed at once."""
        assert isinstance(request, socket.socket)
        with self._lock:
            takes = len(self._begun) < MOST_CONNECTIONS
            if takes:
                self._begun[request] = time.monotonic()
        return takes

    def shutdown_request(self, request: object) -> None:
        """Close a connection, and count it no more."""
        assert isinstance(request, socket.socket)
        with self._lock:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who takes too long; called about five times a second."""
        self._cut_off(before=time.monotonic() - SLOW_CLIENT_S)

    def server_close(self) -> None:
        """Stop listening, and cut off everybody."""
        super().server_close()
        self._cut_off(before=time.monotonic())

    def _cut_off(self, *, before: float) -> None:
        # The thread that waits for such a client wakes with an error, and closes: until then the number stays taken.
        with self._lock:
            for request, begun in self._begun.items():
                if begun <= before:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away or was too slow."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _FirstBytes(io.RawIOBase):
    """The first bytes that come from a connection; after them it is as if no more came."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self.left = REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)[: self.left]  # type: ignore[arg-type]  # whatever has the buffer interface
        received = self._connection.recv_into(view) if len(view) else 0
        self.left -= received
        return received


class _Request(BaseHTTPRequestHandler):
    timeout = SLOW_CLIENT_S
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._first_bytes = _FirstBytes(self.connection)
        self.rfile = io.BufferedReader(self._first_bytes)

    def do_GET(self) -> None:
        if not self._first_bytes.left:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        # A page on the web may have a name of its own that leads here, and read what comes back: it says that name.
        if _host_of(self.headers.get("Host", "") if self.request_version != "HTTP/0.9" else "") not in _OWN_NAMES:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "Ask for localhost: a proxy has to say Host: localhost")
            return
        status, content_type, text = self.server.answer(self.path.partition("?")[0])
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "cxrbatch"

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""


def _host_of(header: str) -> str:
    """Return the name in a Host header, without its port."""
    name, colon, port = header.strip().lower().rpartition(":")
    return name if colon and port.isdigit() else header.strip().lower()
