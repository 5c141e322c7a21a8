"""The probe asks what the first process of a container is, and nothing else."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cxrbatch.upkeep.probe import probe
from cxrbatch.watch.metrics_server import MetricsServer

PROGRAM = ["/opt/cxrbatch/bin/python3", "/opt/cxrbatch/bin/cxrbatch"]


class Clock:
    """Tells the time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def daemon(clock: Clock) -> Iterator[MetricsServer]:
    with MetricsServer(0, clock=clock) as server:
        yield server


@pytest.mark.parametrize("spelled", ["--metrics-port {}", "--metrics-port={}"])
def test_a_daemon_is_well_when_it_says_so(daemon: MetricsServer, clock: Clock, spelled: str) -> None:
    words = [*PROGRAM, "watch", "/input", "-o", "/output", *spelled.format(daemon.port).split(), ""]
    assert probe(words) == "the daemon says that it is starting"
    assert probe(words, alive=True) == ""
    daemon.update("", healthy=True)
    assert probe(words) == probe(words, alive=True) == ""
    daemon.update("", healthy=False)
    assert probe(words) == "the daemon says that it is unhealthy"
    assert probe(words, alive=True) == "", "INPUT that is away does not come back by a new start"
    daemon.update("", healthy=True)
    clock.now += 1000
    assert probe(words) == probe(words, alive=True) == "the daemon says that it is stale"


def test_a_daemon_that_does_not_answer_is_not_alive(daemon: MetricsServer) -> None:
    daemon.close()
    wrong = probe([*PROGRAM, "watch", "/input", "--metrics-port", str(daemon.port)], alive=True)
    assert wrong == f"/healthz on port {daemon.port} does not answer (ConnectionRefusedError)"


@pytest.mark.parametrize("host", [[], ["--host", "0.0.0.0"], ["--host=127.0.0.1"]])
def test_a_receiver_is_well_while_it_listens(host: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        words = [*PROGRAM, "receive", "/input", *host, "--port", str(port)]
        assert probe(words) == ""
    assert probe(words).startswith(f"nothing listens on port {port}")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sh", "-c", "cxrbatch send /output"],
        [*PROGRAM, "run", "/input", "-o", "watch"],
        [*PROGRAM, "watch", "/input"],
        [*PROGRAM, "watch", "/input", "--metrics-port", "x"],
    ],
)
def test_what_serves_nothing_is_well(words: list[str]) -> None:
    assert probe(words) == ""
