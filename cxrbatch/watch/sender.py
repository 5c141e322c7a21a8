"""A daemon's sending: `cxrbatch send --follow` in a process of its own, begun with the daemon and ended with it.

So no archive, however slow or broken, holds up scoring or ends the daemon, and what is sent is known to that process
alone (`output/sent.py`). One that ends is begun again, after longer and longer pauses; one whose daemon is killed ends
by itself, since its standard input closes.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from cxrbatch.config import Settings
from cxrbatch.errors import ConfigurationError
from cxrbatch.system.ae_title import is_ae_title
from cxrbatch.system.logbook import log_event
from cxrbatch.system.worker_handle import leave_signals_to_the_main_thread

ENDS_WITHIN_S = 10.0
"""So long a process that is asked to end may take for what is on its way."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0


class Sender:
    """Sends what a daemon finishes, where `send_to` names an archive; else there is nothing to it."""

    def __init__(self, out: Path, settings: Settings, *, once: bool = False) -> None:
        """Take the output folder, and whom to send to.

        Args:
            out: the output folder; its ledger has to be there when this is entered.
            settings: `send_to` and `send_as` say to whom and as whom.
            once: send when left, once, instead of all the time.

        Raises:
            ConfigurationError: `send_to` names nobody, nothing is there to be sent, or what sends is not installed.
        """
        self._command = send_command(out, settings, *(() if once else ("--follow",)))
        self._once = once
        self._ending = threading.Event()
        self._guard = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep_at_work, name="sending", daemon=True)

    def __enter__(self) -> Sender:
        if self._command and not self._once:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._command and self._once and kind is None:
            self._run(self._command)
        with self._guard:
            process = self._process
        if process is not None:
            _end(process)
        if self._thread.is_alive():
            self._thread.join(ENDS_WITHIN_S)

    def _keep_at_work(self) -> None:
        leave_signals_to_the_main_thread()
        pause_s = _FIRST_PAUSE_S
        while not self._ending.is_set():
            code = self._run(self._command)
            if self._ending.is_set():
                return
            log_event("sending ended; it begins again", level=logging.ERROR, exit_code=code, pause_s=pause_s)
            self._ending.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _run(self, command: list[str]) -> int:
        """Run a process to its end, and log what it says; return its exit code."""
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(  # noqa: S603  # our own command, without a shell
                command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
        except OSError as error:
            log_event("sending cannot begin", level=logging.ERROR, error=error.strerror)
            return -1
        with self._guard:
            self._process = process
        if self._ending.is_set() and not self._once:
            _end(process)
        assert process.stdout is not None, "or nobody hears it"
        try:
            with process.stdout:
                for line in process.stdout:
                    log_event("sending", said=line.strip())
            return process.wait()
        finally:
            _end(process)


def send_command(out: Path, settings: Settings, *flags: str) -> list[str]:
    """Return the command that sends what is in `out`, as `send_to` asks; an empty one where it asks for nothing.

    Raises:
        ConfigurationError: as `Sender` does.
    """
    if not settings.send_to:
        return []
    if not settings.object_kinds:
        raise ConfigurationError("send_to: there is nothing to send without DICOM objects. Ask for them with --dicom.")
    for module in ("pynetdicom", "requests"):
        if find_spec(module) is None:
            raise ConfigurationError(f"send_to needs {module}: pip install 'cxrbatch[pacs]'")
    command = [
        sys.executable,
        "-m",
        "cxrbatch",
        "send",
        "--until-stdin-closes",
        *flags,
        *_whom(settings),
        "--kinds",
        settings.dicom,
    ]
    return [*command, *(["--state", settings.state] if settings.state else []), "--", str(out), *_where(settings)]


def _whom(settings: Settings) -> list[str]:
    if "://" in settings.send_to:
        return ["--dicomweb", settings.send_to]
    called, at, _ = settings.send_to.rpartition("@")
    for name, title in (("send_to", called), ("send_as", settings.send_as)):
        if not is_ae_title(title) and (at or name == "send_as"):
            raise ConfigurationError(f"{name}: {title!r} is no AE title: 1 to 16 ASCII characters without backslash.")
    return [*(["--called", called] if called else []), "--calling", settings.send_as]


def _where(settings: Settings) -> list[str]:
    """Return host and port of [AET@]HOST:PORT."""
    if "://" in settings.send_to:
        return []
    host, _, port = settings.send_to.rpartition("@")[2].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigurationError(
            f"send_to = {settings.send_to!r}: must be [AET@]HOST:PORT, or the http or https address of a DICOMweb "
            "service."
        )
    return [host.strip("[]"), port]


def _end(process: subprocess.Popen[str]) -> None:
    """Let a process finish the study that is on its way, and end it if it does not; no signal that it may ignore."""
    assert process.stdin is not None, "or it does not know when to end"
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
