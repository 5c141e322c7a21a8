"""Telling another program something: JSON by POST to an address, or on the standard input of a command.

Neither can hold up or end whoever asks: it takes so long at most, follows no redirect, runs no shell, and reads no
answer but its status. What is wrong is told without the address or the command, which may hold a secret.
"""

from __future__ import annotations

import base64
import json
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from cxrbatch.errors import ConfigurationError
from cxrbatch.system.worker_handle import leave_signals_to_the_main_thread

TIME_LIMIT_S = 10.0
_CONNECT_S = 5.0
_SCHEMES = ("http", "https")
_ANSWERED_WELL = range(200, 300)


class NotDelivered(Exception):
    """What a message was sent to did not take it; says why without naming it."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where messages go: an address, or the words of a command. Shown, and kept in run.json, as `shown` alone."""

    address: str = ""
    command: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Receiver({self.shown!r})"

    @property
    def shown(self) -> str:
        """What may be said of it anywhere: scheme and host, or the name of the program."""
        if self.command:
            return self.command[0]
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/..."


def read_receiver(text: str) -> Receiver:
    """Read what `notify` says: an http or https address, or a command with its arguments.

    Raises:
        ConfigurationError: it is neither.
    """
    if "://" in text.split(" ", 1)[0]:
        return Receiver(address=_checked_address(text))
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigurationError(f"notify: the command cannot be read: {error}.") from None
    if not words:
        raise ConfigurationError("notify: names neither an address nor a command.")
    return Receiver(command=words)


def _checked_address(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_sound = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_sound = False
    if not is_sound or any(character <= " " for character in text):
        raise ConfigurationError(
            "notify: must be an address that begins with http:// or https:// and names a host, or a command."
        )
    return text


def deliver(receiver: Receiver, message: Mapping[str, Any], *, time_limit_s: float = TIME_LIMIT_S) -> None:
    """Send a message, and wait so long at most until it is taken.

    Raises:
        NotDelivered: it was not, or nobody knows.
    """
    content = json.dumps(message).encode()
    failed: list[str] = []

    def send() -> None:
        leave_signals_to_the_main_thread()
        try:
            if receiver.command:
                _run(receiver.command, content, time_limit_s)
            else:
                _post(receiver.address, content, min(time_limit_s, _CONNECT_S))
        except NotDelivered as error:
            failed.append(str(error))
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the run, nor name the address
            failed.append(type(error).__name__)

    # In a thread of its own, since who answers a byte at a time would be waited for without end.
    thread = threading.Thread(target=send, name="telling", daemon=True)
    thread.start()
    thread.join(time_limit_s + 1)
    if thread.is_alive():
        raise NotDelivered(f"no answer within {time_limit_s:g} s")
    if failed:
        raise NotDelivered(failed[0])


def _post(address: str, content: bytes, timeout_s: float) -> None:
    # Loaded here: a run that tells nobody of anything does without.
    from urllib import request
    from urllib.error import HTTPError, URLError

    # No handler for redirects, files or FTP: what answers may send nobody elsewhere.
    opener = request.OpenerDirector()
    for handler in (
        *(request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler),
        *(request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor),
    ):
        opener.add_handler(handler())
    place, headers = _without_credentials(address)
    headers |= {"Content-Type": "application/json", "User-Agent": "cxrbatch"}
    try:
        with opener.open(request.Request(place, content, headers, method="POST"), timeout=timeout_s) as answer:  # noqa: S310  # http or https, as was checked
            status = answer.status
    except HTTPError as error:
        status = error.code
        error.close()
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise NotDelivered(f"not reached: {type(reason).__name__}") from None
    if status not in _ANSWERED_WELL:
        raise NotDelivered(
            f"answered {status}" + (", a redirect, which is not followed" if 300 <= status < 400 else "")
        )


def _without_credentials(address: str) -> tuple[str, dict[str, str]]:
    """Return the address without user and password, and the header that says them instead (RFC 7617)."""
    parts = urlsplit(address)
    if parts.username is None:
        return address, {}
    host = parts.netloc.rpartition("@")[2]
    told = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return parts._replace(netloc=host).geturl(), {"Authorization": f"Basic {base64.b64encode(told).decode()}"}


def _run(command: tuple[str, ...], content: bytes, time_limit_s: float) -> None:
    try:
        process = subprocess.Popen(  # noqa: S603  # the words of the setting, without a shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise NotDelivered(f"the command cannot be started: {error.strerror}") from None
    try:
        process.communicate(content, timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        with suppress(OSError):
            _end(process)
        raise NotDelivered(f"the command did not end within {time_limit_s:g} s, and was ended") from None
    except OSError:  # it did not read all of it
        process.wait()
    if process.returncode:
        raise NotDelivered(f"the command ended with exit code {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command with all that it started."""
    import os

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
