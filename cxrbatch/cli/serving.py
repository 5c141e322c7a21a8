"""The command that serves the worklist to browsers."""

from __future__ import annotations

from pathlib import Path

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FILE, FOLDER, state_option
from cxrbatch.cli.speaking import page_locale_option
from cxrbatch.cli.terminal import say
from cxrbatch.errors import ConfigurationError, UsageError
from cxrbatch.system.standard_streams import put_work_first


@commands.command(short_help="Serve worklist and reports to browsers.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option("--name", "names", multiple=True, metavar="HOST", help="A name under which browsers ask for it; several.")
@click.option("--tls-cert", type=FILE, help="Certificate (PEM), with those between it and its authority.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM).")
@click.option("--behind-proxy", is_flag=True, help="A reverse proxy does TLS in front of it.")
@click.option("--token-file", type=FILE, help="File that holds the token, so that it outlives a restart.")
@state_option
@page_locale_option
def serve(  # noqa: PLR0913, PLR0917  # an argument per option
    out: Path,
    port: int,
    host: str,
    names: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    state: str | None,
    *,
    behind_proxy: bool,
) -> None:
    """Serve the worklist and the reports of OUT to browsers on this machine, with read marks and notes that are shared.

    Prints an address that holds a token; whoever opens it gets in, nobody else does. A run or the daemon may be at work
    on OUT meanwhile, and pages show what is new by themselves. Other machines get in only with --host and TLS, or
    through a reverse proxy. /api/docs says what programs may ask for.

    \b
    Examples:
      cxrbatch serve /results
      cxrbatch serve /results --host 0.0.0.0 --name cxr.example.org --tls-cert cert.pem --tls-key key.pem
      cxrbatch serve /results --behind-proxy --name cxr.example.org --token-file token
    """
    put_work_first()
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together.")
    try:
        from cxrbatch.serve.doors import Doors, read_token
        from cxrbatch.serve.server import serve_output
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"serve needs {error.name}: pip install 'cxrbatch[serve]'") from error
    tls = (tls_cert, tls_key) if tls_cert and tls_key else None
    known = {"token": read_token(token_file)} if token_file else {}
    doors = Doors(host, port, names, tls, behind_proxy, **known)
    serve_output(out, doors, say, state=state or "")
