"""Messages to an address or a command: taken or not, never for long, never elsewhere, and nothing secret is said."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrbatch.errors import ConfigurationError
from cxrbatch.system.messenger import NotDelivered, deliver, read_receiver
from tests.factories.receiver import HANGS_S, Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as received:
        yield received


def test_an_address_gets_json(receiver: Receiver) -> None:
    deliver(read_receiver(receiver.address), {"event": "x", "text": "\u00e4"})
    assert receiver.messages == [{"event": "x", "text": "\u00e4"}]
    assert receiver.headers[0]["Content-Type"] == "application/json"


def test_credentials_of_an_address_go_into_the_header(receiver: Receiver) -> None:
    deliver(read_receiver(receiver.address.replace("http://", "http://user:p%40ss@")), {})
    assert receiver.headers[0]["Authorization"] == "Basic dXNlcjpwQHNz"
    assert "user" not in receiver.headers[0]["Host"]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500])
def test_an_answer_that_is_none_of_success_is_a_failure_and_no_redirect_is_followed(
    receiver: Receiver, status: int
) -> None:
    receiver.answers = [status]
    with pytest.raises(NotDelivered, match=f"answered {status}") as raised:
        deliver(read_receiver(receiver.address), {})
    assert "sekret" not in str(raised.value)
    assert receiver.messages == []


def test_a_receiver_that_hangs_is_waited_for_so_long_and_no_longer(receiver: Receiver) -> None:
    receiver.answers = [0]
    started = time.monotonic()
    with pytest.raises(NotDelivered):
        deliver(read_receiver(receiver.address), {}, time_limit_s=0.3)
    assert time.monotonic() - started < HANGS_S


def test_nobody_there_is_said_without_the_address() -> None:
    with pytest.raises(NotDelivered, match=r"^not reached: \w+$"):
        deliver(read_receiver("http://127.0.0.1:9/sekret"), {})


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd", "ftp://host/x", "http://", "https:///x", "http://host:x/", "http://a b/", "gopher://host",
        "http://host/\r\nX: y", "'", "  ", "http://host:0/",
    ],
)  # fmt: skip
def test_what_is_neither_an_address_nor_a_command_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="notify"):
        read_receiver(text)


def test_a_command_gets_json_on_its_input_and_no_shell_sees_it(tmp_path: Path) -> None:
    target = tmp_path / "got"
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read() + sys.argv[2])"
    deliver(read_receiver(f"'{sys.executable}' -c \"{code}\" {target} '$(id);`id`'"), {"a": 1})
    assert target.read_text() == '{"a": 1}$(id);`id`'


def test_a_command_that_fails_is_a_failure() -> None:
    with pytest.raises(NotDelivered, match="exit code 3"):
        deliver(read_receiver(f"'{sys.executable}' -c 'raise SystemExit(3)'"), {})
    with pytest.raises(NotDelivered, match="cannot be started"):
        deliver(read_receiver("/nowhere/at/all"), {})


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    # The child holds a pipe open for as long as it lives; whoever opens that to read waits until the child is there.
    pipe = tmp_path / "held by the child"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    listener = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    listener.start()
    code = f"(echo began; exec sleep 600) > {_quoted(str(pipe))} & wait"
    with pytest.raises(NotDelivered, match="did not end within"):
        deliver(read_receiver(f"sh -c {_quoted(code)}"), {}, time_limit_s=1.5)
    listener.join(60)
    assert heard == [b"began\n"]


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def test_what_is_shown_of_a_receiver_holds_no_secret() -> None:
    shown = read_receiver("https://user:pass@host.example:8443/hook/sekret?token=sekret")
    assert shown.shown == "https://host.example:8443/..."
    assert "sekret" not in repr(shown)
    assert read_receiver("/usr/bin/tell --token sekret").shown == "/usr/bin/tell"
    assert read_receiver(shown.shown).shown == shown.shown  # as it is read back from run.json
