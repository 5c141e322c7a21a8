"""The options that say which DICOM peer a command speaks with as a client, and as whom."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cxrbatch.cli.options import FILE, add_options
from cxrbatch.config import OBJECT_KINDS
from cxrbatch.errors import ConfigurationError, UsageError
from cxrbatch.system.ae_title import is_ae_title

if TYPE_CHECKING:
    from cxrbatch.pacs.peer import ClientTls, Peer

Command = TypeVar("Command", bound=Callable[..., Any])

PORT = click.IntRange(1, 65_535)
MEGABYTES = click.IntRange(0, 2**40)
TOKEN_VARIABLE, LOGIN_VARIABLE = "CXRBATCH_SEND_TOKEN", "CXRBATCH_SEND_LOGIN"


class AeTitle(click.types.StringParamType):
    r"""An application entity title (PS3.5 6.2, AE): up to 16 characters of ASCII, no control and no backslash."""

    name = "AET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the title, or end with what is wrong with it."""
        title = str(value).strip()
        if not is_ae_title(title):
            self.fail(f"{value!r} is no AE title: 1 to 16 ASCII characters without backslash.", param, ctx)
        return title


AE_TITLE = AeTitle()


def peer_options(command: Command) -> Command:
    """Add --called, --calling and the TLS options; `read_peer` makes a peer of what they say."""
    options = [
        click.option("--called", type=AE_TITLE, default="ANY-SCP", show_default=True, help="The peer's AE title."),
        click.option("--calling", type=AE_TITLE, default="CXRBATCH", show_default=True, help="Our AE title."),
        click.option("--tls", "uses_tls", is_flag=True, help="Secure the connection by TLS; any of the next says so."),
        click.option(
            "--tls-ca", type=FILE, help="The authority (PEM) of the peer's certificate.  [default: this machine's]"
        ),
        click.option("--tls-name", metavar="NAME", help="The name in the peer's certificate.  [default: HOST]"),
        click.option("--tls-cert", type=FILE, help="Our certificate (PEM), for a peer that asks for one."),
        click.option("--tls-key", type=FILE, help="Its private key (PEM)."),
    ]
    return add_options(options, command)


def sending_options(command: Command) -> Command:
    """Add the options by which a daemon sends what it finishes."""
    options = [
        click.option(
            "--send-to",
            metavar="[AET@]HOST:PORT",
            help="Send DICOM objects there as studies finish, or to a DICOMweb address; needs --dicom.",
        ),
        click.option("--send-as", metavar="AET", help="Our AE title for that.  [default: CXRBATCH]"),
    ]
    return add_options(options, command)


def read_peer(host: str, port: int, options: dict[str, Any]) -> Peer:
    """Return the peer, taking what `peer_options` added out of a command's options.

    Raises:
        UsageError: TLS files do not go together.
    """
    from cxrbatch.pacs.peer import Peer

    tls = _read_tls(**{name: options.pop(name) for name in ("uses_tls", "tls_ca", "tls_name", "tls_cert", "tls_key")})
    return Peer(host, port, called=options.pop("called"), calling=options.pop("calling"), tls=tls)


def _read_tls(
    *, uses_tls: bool, tls_ca: Path | None, tls_name: str | None, tls_cert: Path | None, tls_key: Path | None
) -> ClientTls | None:
    from cxrbatch.pacs.peer import ClientTls

    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together.")
    if not (uses_tls or tls_ca or tls_name or tls_cert):
        return None
    return ClientTls(tls_ca, tls_name or "", tls_cert, tls_key)


def read_address(text: str) -> tuple[str, int]:
    """Return host and port of `[HOST:]PORT`; without a host this machine alone.

    Raises:
        UsageError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UsageError(f"{text!r} is no [HOST:]PORT.")
    return host.strip("[]") or "127.0.0.1", int(port)


def read_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds of objects that a list names.

    Raises:
        UsageError: one is none of them, or there is none.
    """
    kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip())
    if not kinds or (unknown := sorted(set(kinds) - set(OBJECT_KINDS))):
        raise UsageError(f"--kinds: {unknown[0] if kinds else 'nothing'!r} is none of {', '.join(OBJECT_KINDS)}.")
    return kinds


def read_authorization(
    token_file: Path | None, login_file: Path | None, variables: tuple[str, str] = (TOKEN_VARIABLE, LOGIN_VARIABLE)
) -> str:
    """Return the Authorization header (RFC 6750, RFC 7617) that files or variables say; empty where none does.

    Raises:
        UsageError: both are said.
        ConfigurationError: a file cannot be read, or holds nothing of the kind.
    """
    token_variable, login_variable = variables
    token = _secret(token_file, token_variable)
    login = _secret(login_file, login_variable)
    if token and login:
        raise UsageError("token and login exclude each other.")
    if login:
        if ":" not in login:
            raise ConfigurationError(f"{login_file or login_variable}: must hold user:password.")
        return f"Basic {base64.b64encode(login.encode()).decode()}"
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigurationError(f"{token_file or token_variable}: must hold a token and nothing else.")
    return f"Bearer {token}" if token else ""


def _secret(path: Path | None, variable: str) -> str:
    if path is None:
        return os.environ.get(variable, "").strip()
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error}).") from None
    if not found or "\n" in found:
        raise ConfigurationError(f"{path}: must hold one line.")
    return found
