"""Whether the command that a container runs is well: `python -m cxrbatch.upkeep.probe`, exit code 0 or 1.

Container engines and Kubernetes ask by a command, since a daemon answers on 127.0.0.1 only. What runs is read from the
command line of process 1, so ports stand in one place; a command that serves nothing is well for as long as it runs.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

LOCALHOST = "127.0.0.1"
_EVERYWHERE = "0.0.0.0"  # noqa: S104  # asked for, not listened on
_TIMEOUT_S = 5.0
_FIRST_PROCESS = Path("/proc/1/cmdline")
_RECEIVING_PORT = 11112
# A daemon that waits for INPUT is not mended by starting it again; one that has gone silent may be.
_NOT_ALIVE = {"stale"}


def probe(command_line: Sequence[str], *, alive: bool = False) -> str:
    """Return what is wrong with a command of cxrbatch that runs here; empty where nothing is.

    Args:
        command_line: of the process that was started.
        alive: ask only whether starting it anew may help, not whether it can do its work now.
    """
    command, options = _command(command_line)
    if command == "receive":
        host = options.get("--host", LOCALHOST)
        return _listens(LOCALHOST if host == _EVERYWHERE else host, _number(options, "--port") or _RECEIVING_PORT)
    if command == "watch" and (port := _number(options, "--metrics-port")):
        return _tells_that_it_is_well(port, alive=alive)
    return ""


def main() -> int:
    """Probe what process 1 is; `--alive` asks only whether it should be started anew."""
    command_line = _FIRST_PROCESS.read_bytes().decode(errors="replace").split("\0")
    wrong = probe(command_line, alive="--alive" in sys.argv[1:])
    print(wrong or "ok")  # noqa: T201  # what a container engine keeps of it
    return 1 if wrong else 0


def _command(command_line: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return which command of cxrbatch this is, and the value behind each word that may be an option."""
    names = [Path(word).name for word in command_line]
    words = command_line[names.index("cxrbatch") + 1 :] if "cxrbatch" in names else []
    options = dict(pairwise(words)) | dict(word.split("=", 1) for word in words if "=" in word)
    return next(iter(words), ""), options


def _number(options: Mapping[str, str], name: str) -> int:
    text = options.get(name, "")
    return int(text) if text.isdecimal() else 0


def _listens(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except OSError as error:
        return f"nothing listens on port {port} ({error.strerror or error})"
    return ""


def _tells_that_it_is_well(port: int, *, alive: bool) -> str:
    connection = http.client.HTTPConnection(LOCALHOST, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        status = str(json.loads(answer.read()).get("status"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"/healthz on port {port} does not answer ({type(error).__name__})"
    finally:
        connection.close()
    is_well = status not in _NOT_ALIVE if alive else answer.status == http.client.OK
    return "" if is_well else f"the daemon says that it is {status}"


if __name__ == "__main__":
    sys.exit(main())
