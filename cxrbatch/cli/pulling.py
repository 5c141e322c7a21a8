"""The command that fetches what is new in an archive: pull."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import COUNT, FILE, NEW_FOLDER, add_options, split_list
from cxrbatch.cli.peer_options import AE_TITLE, MEGABYTES, PORT, Command, peer_options, read_authorization, read_peer
from cxrbatch.cli.terminal import say
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.system.standard_streams import put_work_first
from cxrbatch.system.stopping import Stopped, stop_at_safe_points

if TYPE_CHECKING:
    from cxrbatch.pacs.archive import Archive
    from cxrbatch.pacs.pull import Wish
    from cxrbatch.pacs.pulled import PullInbox
    from cxrbatch.pacs.receive import TlsFiles

_ADVICE = "the same command goes on where it was"
_TOKEN, _LOGIN = "CXRBATCH_PULL_TOKEN", "CXRBATCH_PULL_LOGIN"


def _wish_options(command: Command) -> Command:
    return add_options(
        [
            click.option("--since", default="24h", show_default=True, metavar="DURATION", help="How far back to look."),
            click.option(
                "--modality",
                "modalities",
                default="CR,DX",
                show_default=True,
                metavar="A,B,...",
                help="Series to fetch; `any` for all that hold images which can be received.",
            ),
            click.option(
                "--timezone",
                "zone",
                default="",
                metavar="ZONE",
                help="The archive's, such as Europe/Zurich, for --since and --hours.  [default: this machine's]",
            ),
            click.option(
                "--hours", default="", metavar="H:MM-H:MM", help="Fetch within these alone, such as 20:00-06:00."
            ),
            click.option("--most-per-hour", type=COUNT, metavar="N", help="Objects in an hour.  [default: any number]"),
            click.option("--every", default="", metavar="DURATION", help="Go on, asking so often, until stopped."),
            click.option(
                "--tries",
                type=click.IntRange(1, 10_000),
                default=5,
                show_default=True,
                help="Failed attempts in a row after which to leave the rest for another time.",
            ),
            click.option(
                "--min-free",
                "least_free_mb",
                type=MEGABYTES,
                default=1024,
                show_default=True,
                metavar="MB",
                help="Take no more objects, for now, where the disk has less left.",
            ),
        ],
        command,
    )


def _receiver_options(command: Command) -> Command:
    return add_options(
        [
            click.option(
                "--aet", type=AE_TITLE, help="The AE title that the archive is to send to.  [default: --calling]"
            ),
            click.option(
                "--listen-host",
                default="127.0.0.1",
                show_default=True,
                help="Address to receive on; 0.0.0.0 for every network of this machine.",
            ),
            click.option("--listen-port", type=PORT, default=11112, show_default=True, help="Port to receive on."),
            click.option(
                "--accept-from",
                type=AE_TITLE,
                multiple=True,
                help="Take objects from this AE title only; may be repeated.",
            ),
            click.option(
                "--listen-tls", is_flag=True, help="Receive by TLS only, with --tls-cert, --tls-key and --tls-ca."
            ),
        ],
        command,
    )


@commands.command(short_help="Fetch what is new in an archive into a folder.")
@click.argument("input_folder", metavar="INPUT", type=NEW_FOLDER)
@click.argument("host", metavar="[HOST", required=False)
@click.argument("port", metavar="PORT]", type=PORT, required=False)
@peer_options
@_wish_options
@_receiver_options
@click.option("--dicomweb", "url", metavar="URL", help="Ask by QIDO-RS and fetch by WADO-RS, not HOST and PORT.")
@click.option("--token-file", type=FILE, help=f"File with the bearer token for it.  [default: {_TOKEN}]")
@click.option("--login-file", type=FILE, help=f"File with user:password for it.  [default: {_LOGIN}]")
def pull(input_folder: Path, host: str | None, port: int | None, url: str | None, **options: Any) -> int:
    """Fetch the radiographs that are new in an archive into INPUT, for `watch` or `run`, each of them once.

    HOST and PORT are asked by C-FIND, and told by C-MOVE to send to this command, which listens meanwhile; the archive
    has to know its AE title. What came is noted in INPUT. Series that cxrbatch made itself stay where they are. Ends
    with exit code 3 where something is left.

    \b
    Examples:
      cxrbatch pull /pacs/incoming pacs.example.org 104 --called PACS --calling CXRBATCH --listen-host 0.0.0.0
      cxrbatch pull /pacs/incoming pacs.example.org 104 --called PACS --since 7d --hours 20:00-06:00 --every 10m
      cxrbatch pull /pacs/incoming --dicomweb https://pacs.example.org/dicom-web --token-file token
    """
    put_work_first()
    from cxrbatch.pacs import require_extra

    require_extra("pynetdicom")
    from cxrbatch.pacs.pace import read_duration
    from cxrbatch.pacs.pulled import PullInbox

    every_s = read_duration(options["every"]).total_seconds() if options["every"] else 0.0
    wish, least_free_bytes = _read_wish(options), options["least_free_mb"] * 2**20
    try:
        with stop_at_safe_points(), PullInbox(input_folder, least_free_bytes=least_free_bytes) as inbox:
            if url is not None:
                return _pull(_web_archive(url, host, options, inbox), inbox, wish, every_s)
            with _receiving(host, port, options, inbox) as archive:
                return _pull(archive, inbox, wish, every_s)
    except Stopped as stopped:
        if every_s:
            return ExitCode.DONE  # as a server that is asked to stop
        raise stopped.advising(_ADVICE) from None


def _pull(archive: Archive, inbox: PullInbox, wish: Wish, every_s: float) -> int:
    from cxrbatch.pacs.pull import Pull

    pull = Pull(archive, inbox, wish, say)
    if every_s:
        pull.go_on(every_s)
    outcome = pull.round()
    pull.report(outcome)
    return ExitCode.DONE if outcome.is_done else ExitCode.SOME_STUDIES_FAILED


def _read_wish(options: dict[str, Any]) -> Wish:
    from cxrbatch.pacs.pace import Pace, read_duration, read_hours
    from cxrbatch.pacs.pull import Wish

    zone = _read_zone(options["zone"])
    modalities = tuple(each.upper() for each in split_list(options["modalities"]))
    if not all(each.replace("_", "").isalnum() and len(each) <= 16 for each in modalities):
        raise UsageError("--modality takes names such as CR,DX, or `any`.")
    return Wish(
        since=read_duration(options["since"]),
        modalities=() if modalities in {(), ("ANY",)} else modalities,
        zone=zone,
        pace=Pace(options["most_per_hour"] or 0),
        hours=read_hours(options["hours"], zone) if options["hours"] else None,
        tries=options["tries"],
    )


def _read_zone(name: str) -> tzinfo | None:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name) if name else None
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise UsageError(
            f"--timezone {name}: no such zone is known here. Name one such as Europe/Zurich or UTC (package tzdata)."
        ) from None


def _web_archive(url: str, host: str | None, options: dict[str, Any], inbox: PullInbox) -> Archive:
    from cxrbatch.pacs import require_extra

    require_extra("dicomweb_client")
    from cxrbatch.pacs.stow import WebPeer, read_url
    from cxrbatch.pacs.web_archive import WebArchive

    if host is not None:
        raise UsageError("--dicomweb takes the place of HOST and PORT.")
    authorization = read_authorization(options["token_file"], options["login_file"], (_TOKEN, _LOGIN))
    certificate = (options["tls_cert"], options["tls_key"]) if options["tls_cert"] and options["tls_key"] else None
    whom = WebPeer(read_url(url), authorization, options["tls_ca"], certificate)
    if whom.is_open:
        say(f"{whom}: http is not encrypted; whoever is on the way reads patients' data and token.", err=True)
    return WebArchive(whom, inbox)


@contextmanager
def _receiving(host: str | None, port: int | None, options: dict[str, Any], inbox: PullInbox) -> Iterator[Archive]:
    from cxrbatch.pacs.query import DicomArchive
    from cxrbatch.pacs.receive import Reception, listening

    if host is None or port is None:
        raise UsageError("name HOST and PORT of the archive, or --dicomweb URL.")
    tls = _listening_tls(options)
    peer = read_peer(host, port, options)
    aet = options["aet"] or peer.calling
    reception = Reception(options["listen_host"], options["listen_port"], aet, options["accept_from"], tls=tls)
    with listening(inbox, reception, _only_refusals):
        yield DicomArchive(peer, aet, inbox.stirred_at)


def _listening_tls(options: dict[str, Any]) -> TlsFiles | None:
    from cxrbatch.pacs.receive import TlsFiles

    if not options["listen_tls"]:
        return None
    if options["tls_cert"] is None or options["tls_key"] is None:
        raise UsageError("--listen-tls needs --tls-cert and --tls-key.")
    return TlsFiles(options["tls_cert"], options["tls_key"], options["tls_ca"])


def _only_refusals(line: str) -> None:
    """Tell what the receiver refused; what came, the pull tells itself."""
    if "refused" in line or "no TLS" in line:
        say(line)
