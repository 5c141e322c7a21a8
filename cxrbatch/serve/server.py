"""`cxrbatch serve`: opens the door, says where, and answers until told to stop. Start at `serve_output`."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import uvicorn

from cxrbatch.errors import ConfigurationError, UsageError
from cxrbatch.output.folder.marker import read_marker
from cxrbatch.output.folder.state import find_state
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.output.marks import Marks
from cxrbatch.serve.app import Served, make_app
from cxrbatch.serve.doors import Doors
from cxrbatch.system.stopping import Stopped

MOST_CONNECTIONS = 256
SLOW_CLIENT_S = 5
STOPS_WITHIN_S = 3


def serve_output(out: Path, doors: Doors, say: Callable[[str], None], *, state: str = "") -> None:
    """Serve the worklist and the reports of `out` until a signal asks to stop.

    A run or a daemon may be at work on it: its lock is not asked for, its ledger not opened.

    Raises:
        UsageError: `out` holds no ledger, or others could read what is sent.
        ConfigurationError: the address cannot be had, or the certificate not be read.
        OutputNotWritable: marks cannot be kept.
    """
    doors.check()
    folder = find_state(out, state)
    if not (folder / LEDGER_FILE).is_file():
        raise UsageError(
            f"{out}: no {folder / LEDGER_FILE} there, so nothing to serve. Name the output folder of a run."
        )
    with listen(doors) as listening:
        doors = doors.on_port(listening.getsockname()[1])
        served = Served(out, Marks(folder), may_note=not read_marker(out).deidentified)
        server = uvicorn.Server(_configured(served, doors))
        served.is_stopping = lambda: server.should_exit
        say(f"The worklist, for whoever has this address: {address(doors)}")
        say("Ctrl-C stops.")
        try:
            server.run(sockets=[listening])
        except Stopped:
            return  # uvicorn raises what stopped it once more, when all is closed


def listen(doors: Doors) -> socket.socket:
    """Return a socket that listens where the doors are.

    Raises:
        ConfigurationError: the address is no address of this machine, or somebody else has it.
    """
    try:
        family = socket.getaddrinfo(doors.host, doors.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((doors.host, doors.port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"{doors.host}, port {doors.port}: cannot be listened on ({error}). Choose another one with --port."
        ) from error


def address(doors: Doors) -> str:
    """Return the address that a browser opens first: it holds the token, and is told to nobody else."""
    name = (*doors.names, doors.host)[0]
    shown = f"[{name}]" if ":" in name else name
    port = "" if doors.behind_proxy else f":{doors.port}"
    return f"{'https' if doors.is_encrypted else 'http'}://{shown}{port}/?token={quote(doors.token)}"


def _configured(served: Served, doors: Doors) -> uvicorn.Config:
    # What is asked for names studies, and the first request the token: nothing of it is logged.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    certificate, key = doors.tls or (None, None)
    config = uvicorn.Config(
        make_app(served, doors),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        lifespan="off",
        ws="none",
        http="h11",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=SLOW_CLIENT_S,
        timeout_graceful_shutdown=STOPS_WITHIN_S,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{certificate}, {key}: no certificate and key in PEM ({error}).") from error
    return config
