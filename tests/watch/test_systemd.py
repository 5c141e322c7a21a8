"""What a real datagram socket hears of a daemon, in the words of sd_notify(3)."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.watch.systemd import ServiceManager, Watchdog, notify_address, watchdog_interval_s


class Systemd:
    """A socket that listens as systemd does, on a path or an abstract name."""

    def __init__(self, name: str) -> None:
        self.environment = {"NOTIFY_SOCKET": name}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(60)

    def hears(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@cxrbatch-test-{os.getpid()}"
    listening = Systemd(name)
    yield listening
    listening.close()


def test_a_daemon_tells_what_it_does(systemd: Systemd) -> None:
    manager = ServiceManager(systemd.environment)
    assert manager.tell_ready("waiting for studies")
    assert systemd.hears() == ["READY=1", "STATUS=waiting for studies"]
    assert manager.tell_status("3 studies\nwaiting")
    assert systemd.hears() == ["STATUS=3 studies waiting"]
    assert manager.tell_alive()
    assert systemd.hears() == ["WATCHDOG=1"]
    assert manager.tell_stopping()
    assert systemd.hears() == ["STOPPING=1"]


def test_a_reload_is_told_with_its_time_in_one_datagram(systemd: Systemd) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert ServiceManager(systemd.environment).tell_reloading()
    reloading, moment = systemd.hears()
    assert reloading == "RELOADING=1"
    stamp = re.fullmatch(r"MONOTONIC_USEC=(\d+)", moment)
    assert stamp
    assert before <= int(stamp[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative/path"])
def test_without_a_socket_nothing_is_told(name: str) -> None:
    assert notify_address({"NOTIFY_SOCKET": name}) is None
    manager = ServiceManager({"NOTIFY_SOCKET": name} if name else {})
    assert not manager.tell_ready()
    assert not manager.tell_stopping("the end")


def test_a_manager_that_went_away_ends_nothing(tmp_path: Path) -> None:
    assert not ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell_status("still here")
    assert not ServiceManager({"NOTIFY_SOCKET": "/" + "x" * 200}).tell_status("a path that is too long")


def test_a_manager_that_does_not_read_does_not_hold_up_the_work(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.watch.systemd.SEND_TIMEOUT_S", 0.01)
    manager = ServiceManager(systemd.environment)
    heard = next(number for number in range(100_000) if not manager.tell_alive())
    assert heard > 0


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_the_one_that_systemd_set_for_this_process(
    environment: dict[str, str], interval_s: float | None
) -> None:
    assert watchdog_interval_s(environment, 42) == interval_s


def test_the_watchdog_is_due_at_half_its_interval_and_then_fed(systemd: Systemd) -> None:
    now = [100.0]
    environment = {"WATCHDOG_USEC": "60000000"}
    watchdog = Watchdog(ServiceManager(systemd.environment), environment, clock=lambda: now[0])
    assert not watchdog.due()
    now[0] += 29
    assert not watchdog.due()
    now[0] += 1
    assert watchdog.due()
    watchdog.feed()
    assert systemd.hears() == ["WATCHDOG=1"]
    assert not watchdog.due()


def test_a_watchdog_that_nobody_set_is_never_due(systemd: Systemd) -> None:
    now = [0.0]
    watchdog = Watchdog(ServiceManager(systemd.environment), {}, clock=lambda: now[0])
    now[0] += 1e9
    assert not watchdog.due()
    watchdog.feed()
    ServiceManager(systemd.environment).tell_status("the first that is heard")
    assert systemd.hears() == ["STATUS=the first that is heard"]
