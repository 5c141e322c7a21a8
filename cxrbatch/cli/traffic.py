"""The commands that speak DICOM with a PACS: receive."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FILE, NEW_FOLDER
from cxrbatch.cli.peer_options import AE_TITLE, MEGABYTES, PORT
from cxrbatch.cli.terminal import say
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.system.standard_streams import put_work_first
from cxrbatch.system.stopping import Stopped

if TYPE_CHECKING:
    from cxrbatch.pacs.receive import TlsFiles


@commands.command(short_help="Receive radiographs by DICOM into a folder.")
@click.argument("input_folder", metavar="INPUT", type=NEW_FOLDER)
@click.option("--port", type=PORT, default=11112, show_default=True, help="TCP port to listen on.")
@click.option(
    "--aet", type=AE_TITLE, default="CXRBATCH", show_default=True, help="Our AE title, which senders have to name."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for every network of this machine. DICOM without TLS is not encrypted.",
)
@click.option(
    "--accept-from", type=AE_TITLE, multiple=True, help="Take objects from this AE title only; may be repeated."
)
@click.option(
    "--max-associations",
    "most_associations",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Senders at a time.",
)
@click.option(
    "--min-free",
    "least_free_mb",
    type=MEGABYTES,
    default=1024,
    show_default=True,
    metavar="MB",
    help="Refuse objects, for now, where the disk has less left.",
)
@click.option("--tls-cert", type=FILE, help="Our certificate (PEM): only connections by TLS.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM).")
@click.option("--tls-ca", type=FILE, help="Take only clients whose certificate this authority signed (PEM).")
def receive(input_folder: Path, least_free_mb: int, **options: Any) -> int:
    """Receive radiographs by C-STORE into INPUT, for `watch` or `run`, until it is stopped.

    CR, DX and secondary capture images are taken, in every transfer syntax that can be read. Each is acknowledged once
    it is on the disk, as STUDY/IMAGE.dcm named by their UIDs; what comes again is not kept twice.

    \b
    Examples:
      cxrbatch receive /pacs/incoming --port 11112 --aet CXRBATCH
      cxrbatch receive /pacs/incoming --host 0.0.0.0 --accept-from ROUTER --tls-cert cert.pem --tls-key key.pem
    """
    put_work_first()
    from cxrbatch.pacs import require_extra

    require_extra("pynetdicom")
    from cxrbatch.pacs.inbox import Inbox
    from cxrbatch.pacs.receive import Reception, receive as receive_objects

    tls = _tls_files(options.pop("tls_cert"), options.pop("tls_key"), options.pop("tls_ca"))
    with Inbox(input_folder, least_free_bytes=least_free_mb * 2**20) as inbox, suppress(Stopped):
        receive_objects(inbox, Reception(**options, tls=tls), say)
    return ExitCode.DONE  # a server that is asked to stop has done what it should


def _tls_files(certificate: Path | None, key: Path | None, authority: Path | None) -> TlsFiles | None:
    from cxrbatch.pacs.receive import TlsFiles

    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise UsageError("TLS needs --tls-cert and --tls-key; --tls-ca goes with both.")
    return TlsFiles(certificate, key, authority)
