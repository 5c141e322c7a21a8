"""/metrics and /healthz over a real socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cxrbatch.errors import ConfigurationError
from cxrbatch.watch.metrics_server import MOST_CONNECTIONS, REQUEST_BYTES, MetricsServer

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


# --------------------------------------------------------------------------- clients that mean no good

hostile = pytest.mark.hostile("9.14 metrics server")


def connect(server: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def read_all(client: socket.socket) -> bytes:
    read = b""
    try:
        while received := client.recv(65536):
            read += received
    except ConnectionError:
        pass
    return read


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsServer]:
    """A server that waits half a second for a client."""
    monkeypatch.setattr("cxrbatch.watch.metrics_server.SLOW_CLIENT_S", 0.5)
    with MetricsServer(0) as listening:
        listening.update(TEXT, healthy=True)
        yield listening


@hostile
@pytest.mark.parametrize(
    "dripped", [b"", b"G", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"]
)
def test_a_client_that_drips_its_request_is_cut_off(hasty: MetricsServer, dripped: bytes) -> None:
    with connect(hasty) as client:
        client.sendall(dripped)
        started = time.monotonic()
        client.settimeout(0.1)
        while time.monotonic() - started < 30:
            try:
                if dripped:
                    client.sendall(b"a")
                if not client.recv(100):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.3 < time.monotonic() - started < 20
    assert get(hasty, "/metrics")[0] == 200


@hostile
def test_a_client_that_never_reads_its_answer_is_cut_off(hasty: MetricsServer) -> None:
    hasty.update("x" * 50_000_000, healthy=True)
    clients = [connect(hasty) for _ in range(5)]
    for client in clients:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    wait_until(lambda: serving() > 0)
    wait_until(lambda: serving() == 0)
    for client in clients:
        client.close()


@hostile
def test_no_more_than_32_are_served_at_a_time_and_nothing_piles_up(server: MetricsServer) -> None:
    server.update(TEXT, healthy=True)
    get(server, "/metrics")
    wait_until(lambda: serving() == 0)
    open_files = descriptors()
    clients = [connect(server) for _ in range(100)]
    wait_until(lambda: serving() == MOST_CONNECTIONS)
    # Each of the others is closed at once, and both ends of a connection are in this process.
    wait_until(lambda: descriptors() - open_files == len(clients) + MOST_CONNECTIONS)
    assert serving() == MOST_CONNECTIONS
    with connect(server) as refused:
        assert read_all(refused) == b""
    for client in clients:
        client.close()
    wait_until(lambda: serving() == 0)
    assert get(server, "/metrics")[0] == 200
    wait_until(lambda: descriptors() <= open_files)


@hostile
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /" + b"a" * 10**6, b" 4"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 10**6 + b"\r\n\r\n", b" 431 "),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 10**5 + b"\r\n", b" 431 "),
        (b"\x00\xff\x16\x03\x01\r\n\r\n", b" 400 "),
        (b"\r\n\r\n", b""),
        (b"GET\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/99999999999999999999.1\r\n\r\n", b"Error"),
        (b"GET /metrics HTTP/1.1.1\r\n\r\n", b" 400 "),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n", b" 501 "),
        (b"GET /metrics\r\n", TEXT.encode()),
        (b"GET http://127.0.0.1/../../etc/passwd HTTP/1.1\r\n\r\n", b" 404 "),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", b" 421 "),
        (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.evil.example:80\r\n\r\n", b" 421 "),
        (b"GET /metrics HTTP/1.1\r\nHost: [::1]:9464\r\n\r\n", b" 200 "),
        (b"GET /metrics HTTP/1.1\r\nhost: LOCALHOST\r\n\r\n", b" 200 "),
        (b"GET /metrics HTTP/1.1\r\nConnection: keep-alive\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n", b" 200 "),
    ],
)
def test_garbage_is_answered_or_not_and_leaves_the_server_as_it_was(
    server: MetricsServer, capfd: pytest.CaptureFixture[str], request_: bytes, code: bytes
) -> None:
    server.update(TEXT, healthy=True)
    with connect(server) as client:
        with suppress(OSError):
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
        answer = read_all(client)
    # What comes after the first kilobytes is not read, and then a system may drop the answer, too.
    assert code in answer.partition(b"\r\n")[0] or code in answer or (len(request_) > REQUEST_BYTES and answer == b"")
    assert get(server, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


@hostile
def test_random_bytes_do_no_harm(server: MetricsServer, capfd: pytest.CaptureFixture[str]) -> None:
    server.update(TEXT, healthy=True)
    random = np.random.default_rng(0)
    for _ in range(100):
        with connect(server) as client, suppress(OSError):
            client.sendall(random.bytes(int(random.integers(1, 3000))))
            if random.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
                read_all(client)
    wait_until(lambda: get(server, "/healthz")[0] == 200)
    assert capfd.readouterr().err == ""


@hostile
def test_it_ends_at_once_whoever_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    # Who is not cut off as it ends stays for longer than this test waits.
    monkeypatch.setattr("cxrbatch.watch.metrics_server.SLOW_CLIENT_S", 600.0)
    monkeypatch.setattr("cxrbatch.watch.metrics_server._Request.timeout", 600.0)
    server = MetricsServer(0)
    clients = [connect(server) for _ in range(MOST_CONNECTIONS)]
    wait_until(lambda: serving() == MOST_CONNECTIONS)
    server.close()
    wait_until(lambda: serving() == 0)
    for client in clients:
        client.close()


def serving() -> int:
    """Return how many requests have a thread now, whatever other threads this process has."""
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
