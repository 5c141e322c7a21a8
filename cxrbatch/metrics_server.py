"""The metrics of the last pass in; /metrics and /healthz on 127.0.0.1 out, for as long as the daemon lives."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from cxrbatch.errors import ConfigurationError
from cxrbatch.records import now_text

LOCALHOST = "127.0.0.1"
# A daemon that has told nothing for so long is no longer at work, whatever its process looks like.
STALE_AFTER_S = 900.0
SLOW_CLIENT_S = 10.0
STOP_POLL_S = 0.2

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

    def __init__(self, address: tuple[str, int], answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        super().__init__(address, _Request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away or was too slow."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Request(BaseHTTPRequestHandler):
    timeout = SLOW_CLIENT_S
    server: _Server

    def do_GET(self) -> None:
        status, content_type, text = self.server.answer(self.path.partition("?")[0])
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "cxrbatch"

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape every few seconds is no news."""
