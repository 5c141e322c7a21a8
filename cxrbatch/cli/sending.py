"""The command that brings DICOM objects to an archive: send."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.cli.group import commands
from cxrbatch.cli.options import FILE, FOLDER, NumberRange, state_option
from cxrbatch.cli.peer_options import PORT, peer_options, read_address, read_authorization, read_kinds, read_peer
from cxrbatch.cli.terminal import say
from cxrbatch.errors import ExitCode, UsageError
from cxrbatch.system.standard_streams import put_work_first
from cxrbatch.system.stopping import Stopped, stop_at_safe_points

if TYPE_CHECKING:
    from cxrbatch.output.sent import SentObjects
    from cxrbatch.pacs.peer import Peer
    from cxrbatch.pacs.send import Errand, Outcome
    from cxrbatch.pacs.stow import WebPeer


_LEDGER_LOOK_S = 1.0


@commands.command(short_help="Send the DICOM objects to an archive.")
@click.argument("out", metavar="OUT", type=FOLDER)
@click.argument("host", metavar="[HOST", required=False)
@click.argument("port", metavar="PORT]", type=PORT, required=False)
@peer_options
@click.option("--dicomweb", "url", metavar="URL", help="Send by STOW-RS to this address, in place of HOST and PORT.")
@click.option("--token-file", type=FILE, help="File with the bearer token for it.  [default: CXRBATCH_SEND_TOKEN]")
@click.option("--login-file", type=FILE, help="File with user:password for it.  [default: CXRBATCH_SEND_LOGIN]")
@click.option("--kinds", metavar="KIND,...", default="sr,sc,pdf", show_default=True, help="What to send.")
@click.option("--follow", is_flag=True, help="Go on sending as studies finish, until it is stopped.")
@click.option("--dry-run", is_flag=True, help="Only count what would be sent.")
@click.option("--retry-refused", is_flag=True, help="Send again what the peer refused before.")
@click.option(
    "--tries",
    type=click.IntRange(1, 10_000),
    default=5,
    show_default=True,
    help="Failed attempts in a row after which to leave the rest for another time; with --follow there is no end.",
)
@click.option(
    "--pause",
    "first_pause_s",
    type=NumberRange(0.01, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait after the first failed attempt; then twice as long each time.",
)
@click.option(
    "--commitment/--no-commitment", default=True, help="Ask for storage commitment where offered.  [default: ask]"
)
@click.option(
    "--commit-at", metavar="[HOST:]PORT", help="Listen here for answers about commitment.  [default: nowhere]"
)
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
@state_option
def send(out: Path, host: str | None, port: int | None, url: str | None, state: str | None, **options: Any) -> int:
    """Send the DICOM objects of OUT (`--dicom`) to an archive, each of them once.

    To HOST and PORT by C-STORE, or by DICOMweb. A run or the daemon may be at work on OUT meanwhile. What is sent
    already is noted beside the ledger, for each peer; what failed for now is tried again, in this call and the next.
    Ends with exit code 3 where something is left, or was refused just now.

    \b
    Examples:
      cxrbatch send /results pacs.example.org 104 --called PACS --calling CXRBATCH
      cxrbatch send /results pacs.example.org 2762 --called PACS --tls-ca ca.pem --tls-cert our.pem --tls-key our.key
      cxrbatch send /results --dicomweb https://pacs.example.org/dicom-web --token-file token
    """
    put_work_first()
    from cxrbatch.output.sent import SentObjects
    from cxrbatch.pacs import require_extra

    for module in ("pynetdicom", "requests"):
        require_extra(module)
    is_dry, follows = options.pop("dry_run"), options.pop("follow")
    whom = _read_whom(host, port, url, options)
    try:
        with stop_at_safe_points(), ExitStack() as stack:
            folder = _find_ledger(out, state or "", waits=follows)
            sent = stack.enter_context(SentObjects(folder, str(whom), only_to_read=is_dry))
            return _work(stack, _Wanted(out, folder, whom, options), sent, is_dry=is_dry, follows=follows)
    except Stopped as stopped:
        if follows:
            return ExitCode.DONE  # what is asked to stop, and would never end, has done what it should
        raise stopped.advising("the same command goes on where it was") from None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to send where: the output folder, the folder of its ledger, the peer, the options not read yet."""

    out: Path
    folder: Path
    whom: Peer | WebPeer
    options: dict[str, Any]


def _find_ledger(out: Path, state: str, *, waits: bool) -> Path:
    """Return the folder of the ledger; whoever follows may have begun before the first run did."""
    from cxrbatch.output.folder.state import find_state
    from cxrbatch.output.ledger.ledger import LEDGER_FILE
    from cxrbatch.pacs.send import sleep_unless_stopped

    while not (ledger := find_state(out, state) / LEDGER_FILE).is_file():
        if not waits:
            raise UsageError(f"{out}: no {ledger} there, so nothing to send. Name the output folder of a run.")
        sleep_unless_stopped(_LEDGER_LOOK_S)
    return ledger.parent


def _work(stack: ExitStack, wanted: _Wanted, sent: SentObjects, *, is_dry: bool, follows: bool) -> int:
    from cxrbatch.pacs.dispatch import Committing, open_dispatch, send_as_they_finish, send_once
    from cxrbatch.pacs.due import DueStudies
    from cxrbatch.pacs.send import Errand, Persistence, count_due

    options, at = wanted.options, wanted.options["commit_at"]
    committing = Committing(options["commitment"] and not is_dry, read_address(at) if at and not is_dry else None)
    dispatch = open_dispatch(stack, wanted.whom, sent, committing)
    persistence = Persistence(1 if follows else options["tries"], options["first_pause_s"], rests=follows)
    due = DueStudies(wanted.out, wanted.folder)
    errand = Errand(due, sent, dispatch.courier, read_kinds(options["kinds"]), persistence, say)
    if is_dry:
        return _tell_due(errand.courier.peer, count_due(errand))
    if options["retry_refused"]:
        say(f"{sent.retry_refused()} objects that were refused are tried again")
    if options["until_stdin_closes"]:
        errand.is_over = _end_of_input()
    if follows:
        send_as_they_finish(errand, dispatch)
        return ExitCode.DONE
    return _tell(errand, send_once(errand, dispatch))


def _read_whom(host: str | None, port: int | None, url: str | None, options: dict[str, Any]) -> Peer | WebPeer:
    """Return the peer that the command line names; what it says of it is taken out of the options."""
    from cxrbatch.pacs.stow import WebPeer, read_url

    token, login = options.pop("token_file"), options.pop("login_file")
    peer = read_peer(host or "", port or 0, options)
    if url is None:
        if host is None or port is None:
            raise UsageError("send needs HOST and PORT of the archive, or --dicomweb URL.")
        return peer
    if host is not None:
        raise UsageError("HOST and PORT do not go with --dicomweb.")
    tls = peer.tls
    certificate = (tls.certificate, tls.key) if tls and tls.certificate and tls.key else None
    whom = WebPeer(read_url(url), read_authorization(token, login), tls.authority if tls else None, certificate)
    if whom.is_open:
        say(f"{whom}: http is not encrypted; whoever is on the way reads patients' data and token.", err=True)
    return whom


def _tell_due(peer: str, due: Outcome) -> int:
    from cxrbatch.pages.wording import counts

    say(f"{peer}: due are {counts(due.objects)}, of {due.studies} studies")
    if due.studies_left:
        say(f"{due.studies_left} studies are being printed, or their objects are not those of their results")
    return ExitCode.DONE


def _tell(errand: Errand, outcome: Outcome) -> int:
    """Say what became of it, and return the exit code."""
    from cxrbatch.pages.wording import counts

    peer, facts = errand.courier.peer, errand.sent.facts()
    say(f"{peer}: {counts(outcome.objects)}, of {outcome.studies} studies; {outcome.studies_left} studies left")
    if facts.objects.get("refused"):
        say(f"in all {counts(facts.objects)}; what was refused is sent again with --retry-refused")
    if outcome.trouble:
        say(outcome.trouble, err=True)
    return ExitCode.DONE if outcome.is_all_stored else ExitCode.SOME_STUDIES_FAILED


def _end_of_input() -> Callable[[], bool]:
    """Return what tells that standard input was closed: whoever began this process ended."""
    closed = threading.Event()

    def wait() -> None:
        # Not by sys.stdin: a thread that waits in it keeps Python from ending.
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        closed.set()

    threading.Thread(target=wait, name="waiting for the end", daemon=True).start()
    return closed.is_set
