"""/metrics and /healthz over a real socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cxrbatch.errors import ConfigurationError
from cxrbatch.metrics_server import MetricsServer

TEXT = "# TYPE cxrbatch_queue_studies gauge\ncxrbatch_queue_studies 3.0\n"


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with MetricsServer(0) as listening:
        yield listening


def get(server: MetricsServer, path: str) -> tuple[int, str, str]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def health(server: MetricsServer) -> tuple[int, dict[str, object]]:
    status, _, body = get(server, "/healthz")
    return status, json.loads(body)


def test_a_scrape_gets_what_was_told_last(server: MetricsServer) -> None:
    server.update("cxrbatch_queue_studies 99\n", healthy=True)
    server.update(TEXT, healthy=True)
    status, content_type, body = get(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    ((family,),) = [list(text_string_to_metric_families(body))]
    assert (family.name, family.samples[0].value) == ("cxrbatch_queue_studies", 3)


def test_a_daemon_is_healthy_after_its_first_pass(server: MetricsServer) -> None:
    status, told = health(server)
    assert (status, told["status"]) == (503, "starting")
    server.update(TEXT, healthy=True, facts={"studies_waiting": 3})
    status, told = health(server)
    assert (status, told["status"], told["studies_waiting"]) == (200, "ok", 3)
    assert told["last_pass"]


def test_a_daemon_that_says_so_is_unhealthy(server: MetricsServer) -> None:
    server.update(TEXT, healthy=False, facts={"status": "ok", "engine": "not answering"})
    status, told = health(server)
    assert (status, told["status"], told["engine"]) == (503, "unhealthy", "not answering")


def test_a_daemon_that_is_silent_for_too_long_is_unhealthy_until_it_tells_that_it_is_at_work() -> None:
    now = [1000.0]
    with MetricsServer(0, stale_after_s=900, clock=lambda: now[0]) as server:
        server.update(TEXT, healthy=True, facts={"studies_waiting": 3})
        last_pass = health(server)[1]["last_pass"]
        now[0] += 901
        status, told = health(server)
        assert (status, told["status"], told["silent_s"]) == (503, "stale", 901)
        server.renew()
        status, told = health(server)
        assert (status, told["status"], told["studies_waiting"]) == (200, "ok", 3)
        assert told["last_pass"] == last_pass


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/../etc/passwd"])
def test_there_is_nothing_else(server: MetricsServer, path: str) -> None:
    assert get(server, path)[0] == 404


def test_it_listens_on_this_machine_only(server: MetricsServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_a_wrong_configuration(server: MetricsServer) -> None:
    with pytest.raises(ConfigurationError, match=f"metrics port {server.port}: cannot be listened on"):
        MetricsServer(server.port)


def test_a_port_that_is_none_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigurationError, match="Choose another one with --metrics-port"):
        MetricsServer(70000)


def test_close_ends_the_thread_and_frees_the_port_though_a_client_hangs() -> None:
    server = MetricsServer(0)
    hanging = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    hanging.sendall(b"GET /met")
    server.update(TEXT, healthy=True)
    assert get(server, "/metrics")[0] == 200
    server.close()
    assert "metrics" not in {thread.name for thread in threading.enumerate()}
    MetricsServer(server.port).close()
    hanging.close()


def test_a_client_that_goes_away_leaves_no_trace(server: MetricsServer, capfd: pytest.CaptureFixture[str]) -> None:
    server.update("x" * 5_000_000, healthy=True)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            client.recv(10)
    assert get(server, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""
