"""Who may ask, and by which name: options of the server, checked before anything listens."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

from cxrbatch.errors import ConfigurationError, UsageError

LOCALHOST = "127.0.0.1"
SHORTEST_TOKEN = 32
# Listens on all addresses, and is none of them, though browsers take it for this machine.
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared, not bound


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the server listens, and who gets in.

    `names` are the hosts by which a browser may ask, beside those of this machine; `tls` the certificate and its key.
    `behind_proxy`: somebody else does TLS in front of this server.
    """

    host: str = LOCALHOST
    port: int = 8765
    names: tuple[str, ...] = ()
    tls: tuple[Path, Path] | None = None
    behind_proxy: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def is_encrypted(self) -> bool:
        """Whether what a browser says is encrypted on its way, so that its cookie may demand that."""
        return self.tls is not None or self.behind_proxy

    @property
    def allowed_names(self) -> frozenset[str]:
        """The names by which a browser may ask for this server, without a port, in lower case.

        A page of a stranger can let its own name lead here (DNS rebinding), but cannot change the name.
        """
        own = {"localhost", LOCALHOST, "::1"} if is_loopback(self.host) else {self.host} - _EVERYWHERE
        return frozenset(name.lower() for name in own | set(self.names))

    def on_port(self, port: int) -> Doors:
        """Return the same on the port that was had."""
        return replace(self, port=port)

    def check(self) -> None:
        """Refuse to be reached by others without encryption, or without a name.

        Raises:
            UsageError: it would be.
        """
        if self.behind_proxy and self.tls:
            raise UsageError("--behind-proxy and --tls-cert exclude each other: one of the two does TLS.")
        if not is_loopback(self.host) and not self.is_encrypted:
            raise UsageError(
                f"--host {self.host}: others could read what is sent. Give --tls-cert and --tls-key, or --behind-proxy "
                "where a reverse proxy does TLS."
            )
        needs_name = self.behind_proxy or self.host in _EVERYWHERE
        if needs_name and not self.names:
            raise UsageError(
                "Give --name HOST, the name under which browsers ask for it; it may be given several times."
            )


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """Return the token that a file holds, so that it stays the same when the server starts again.

    Raises:
        ConfigurationError: it cannot be read, others may read it, or it is too short to be one.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path}: others may read or write it. `chmod 600` it.")
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error}).") from error
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum():
        raise ConfigurationError(
            f"{path}: a token has at least {SHORTEST_TOKEN} letters, digits, - or _. Make one: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token
