"""What the daemon tells systemd, one datagram to $NOTIFY_SOCKET at a time; nothing where there is none.

Written from sd_notify(3) and systemd.service(5), which need no library. A daemon that cannot tell goes on: what
systemd makes of silence is systemd's business.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
# A manager that does not read must not hold up the work.
SEND_TIMEOUT_S = 1.0

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def notify_address(environment: Mapping[str, str]) -> bytes | None:
    """Return where to send: a path, or an abstract socket (its name begins with NUL); None where nobody listens.

    systemd writes an abstract name with a leading @ (sd_notify(3)); addresses of other kinds (vsock) are left alone.
    """
    name = environment.get(SOCKET_VARIABLE, "")
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return os.fsencode(name) if name.startswith("/") else None


def status_line(text: str) -> str:
    """Return the assignment that `systemctl status` shows; of several lines, one is made, of what is unseen a `?`."""
    line = " ".join(text.split())
    return f"STATUS={''.join(sign if sign.isprintable() else '?' for sign in line)}"


def reloading_lines(now_ns: int) -> str:
    """Return what announces a reload; `now_ns` is CLOCK_MONOTONIC, so that systemd tells this reload from another."""
    return f"RELOADING=1\nMONOTONIC_USEC={now_ns // 1000}"


def watchdog_interval_s(environment: Mapping[str, str], process_id: int) -> float | None:
    """Return how long systemd waits for a sign of life of this process, in seconds; None where it does not wait.

    WATCHDOG_PID may name another process, which was started with the same environment (sd_watchdog_enabled(3)).
    """
    if environment.get("WATCHDOG_PID", str(process_id)) != str(process_id):
        return None
    interval = environment.get("WATCHDOG_USEC", "")
    return int(interval) / 1e6 if interval.isdecimal() and int(interval) > 0 else None


class ServiceManager:
    """Tells systemd how the daemon is; without systemd, every call does nothing and returns False."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = notify_address(environment)

    def tell_ready(self, status: str = "") -> bool:
        """Tell that the daemon works from now on; also after a reload."""
        return self._tell(READY, *_status(status))

    def tell_status(self, status: str) -> bool:
        """Tell what the daemon does now: never a patient, a path or a study key, for the journal keeps it."""
        return self._tell(status_line(status))

    def tell_reloading(self) -> bool:
        """Tell that the configuration is read again; `tell_ready` ends that."""
        return self._tell(reloading_lines(time.clock_gettime_ns(time.CLOCK_MONOTONIC)))

    def tell_stopping(self, status: str = "") -> bool:
        """Tell that the daemon is ending on purpose."""
        return self._tell(STOPPING, *_status(status))

    def tell_alive(self) -> bool:
        """Tell that the daemon can do its work; `Watchdog` knows when it is time to."""
        return self._tell(ALIVE)

    def _tell(self, *lines: str) -> bool:
        """Send one datagram; return whether it went off."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(SEND_TIMEOUT_S)
                channel.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), self._address)
        except OSError:
            return False
        return True


class Watchdog:
    """When the next sign of life is due: systemd ends a service that misses one (WatchdogSec=).

    Feed it only after the engine has scored something: a daemon that runs and cannot score is better started anew.
    """

    def __init__(
        self,
        manager: ServiceManager,
        environment: Mapping[str, str] = os.environ,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager, self._clock = manager, clock
        interval_s = watchdog_interval_s(environment, os.getpid())
        # Half the interval, as sd_watchdog_enabled(3) recommends.
        self.period_s = None if interval_s is None else interval_s / 2
        self._fed_at = clock()

    def due(self) -> bool:
        """Tell whether it is time to show that the daemon can do its work; never where nobody waits for that."""
        return self.period_s is not None and self._clock() - self._fed_at >= self.period_s

    def feed(self) -> None:
        """Tell systemd that the daemon can do its work; nothing where nobody waits for that."""
        if self.period_s is not None:
            self._manager.tell_alive()
            self._fed_at = self._clock()


def _status(status: str) -> tuple[str, ...]:
    return (status_line(status),) if status else ()
