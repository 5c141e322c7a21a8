"""Where the ledger and the lock of an output folder lie: in the folder itself, or in a --state of their own.

OUT/.cxrbatch.json says where, so that every command finds the ledger again; the ledger says whose it is, so that two
output folders never share one.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cxrbatch.config import MARKER_FILE
from cxrbatch.errors import LedgerDamaged, OutputLocked, UsageError
from cxrbatch.output.folder.marker import Marker, read_marker
from cxrbatch.output.folder.place import HeldOutput
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger

OUTPUT, OUTPUT_ID = "output", "output_id"
UNFINISHED, SESSION = "unfinished", "session"


def find_state(out: Path, wanted: str = "", *, may_be_missing: bool = False) -> Path:
    """Return the folder that holds, or will hold, the ledger of `out`.

    Args:
        out: the output folder; it need not exist yet.
        wanted: what --state names, if anything.
        may_be_missing: whether a ledger that was somewhere may be there no longer, as `repair` allows.

    Raises:
        UsageError: the ledger is elsewhere, or is not where it was.
        LedgerDamaged: the marker in `out` cannot be understood.
    """
    return choose_state(out, read_marker(out), wanted, may_be_missing=may_be_missing)


def choose_state(out: Path, marker: Marker, wanted: str, *, may_be_missing: bool) -> Path:
    """Return the folder for the ledger of `out`, whose marker says this; arguments and errors are `find_state`'s."""
    known = marker.state
    recorded = Path(known) if known else out.resolve()
    chosen = Path(wanted).expanduser().resolve() if wanted else recorded
    if chosen != recorded and (recorded / LEDGER_FILE).exists():
        raise UsageError(
            f"{out}: its ledger lies in {recorded}, not in {chosen}. Leave --state out; or, to move it, move "
            f"{recorded / LEDGER_FILE} there first, while nothing runs."
        )
    if marker.claimed and chosen != recorded:
        raise UsageError(
            f"{out}: a run has begun to keep its ledger in {recorded}, not in {chosen}. Wait for it, and give the same "
            f"--state as it did. If it was killed before it began, remove {out / MARKER_FILE}."
        )
    is_expected = bool(known) or (marker.output_id != "" and chosen != recorded)
    if is_expected and not marker.claimed and not may_be_missing and not (chosen / LEDGER_FILE).exists():
        raise UsageError(
            f"{out}: its ledger was in {recorded}, and is not in {chosen}. Mount that folder again, or say with "
            "--state DIR where the ledger lies now; `cxrbatch repair OUT` makes a lost one anew."
        )
    return out if chosen == out.resolve() else chosen


def claim_output(home: HeldOutput) -> None:
    """Be the one of several first runs that begins with `out`: its marker is made in one step, and says where.

    Raises:
        OutputLocked: another run was faster, and keeps its ledger elsewhere.
        UsageError: the same, where that run has come further.
    """
    out, place = home.out, _recorded_state(home)
    if home.marker.create(Marker(state=place, claimed=True)):
        return
    # Read afresh: it may have been made since this process looked for it, by a run whose lock lies elsewhere, or
    # written by the one that held this lock until now.
    marker = home.marker.reread()
    if marker.claimed and marker.state != place:
        raise OutputLocked(
            f"{out}: another run began with it at the same moment, and keeps its ledger in {marker.state or out}. "
            "Wait for it, and give the same --state as it did."
        )
    choose_state(out, marker, str(home.state), may_be_missing=True)


def is_foreign_ledger(ledger: Ledger) -> bool:
    """Tell whether another ledger than this one worked on OUT last: this one is a backup, or an earlier state."""
    session = ledger.home.marker.known.session
    return bool(session and ledger.fact(OUTPUT)) and session not in {ledger.fact(SESSION), ledger.fact(UNFINISHED)}


def begin_session(ledger: Ledger, session: str) -> None:
    """Let ledger and marker know this run, in an order in which no kill makes them strangers."""
    ledger.remember(UNFINISHED, session, durable=True)
    ledger.home.marker.update(session=session)
    ledger.remember(SESSION, session, durable=True)


def refuse_foreign(ledger: Ledger) -> None:
    """Check that the ledger is that of the output folder it was opened for, or of none yet.

    A folder that was moved is known again by its id, as long as nothing with that id is left where it was.

    Raises:
        UsageError: it is that of another output folder.
    """
    home, owner = ledger.home, ledger.fact(OUTPUT)
    if owner in {"", str(home.out.resolve())} or home.keeps_ledger_inside:
        return
    identity = home.marker.known.output_id
    was_moved = ledger.fact(OUTPUT_ID) == identity != "" and not _is_there(Path(owner), identity)
    if not was_moved:
        raise UsageError(f"{home.state}: holds the ledger of {owner}. Every output folder needs a --state of its own.")


def claim_state(ledger: Ledger) -> None:
    """Let ledger and output folder know each other, where `refuse_foreign` found nothing against it."""
    home = ledger.home
    identity = home.marker.known.output_id or ledger.fact(OUTPUT_ID) or secrets.token_hex(8)
    ledger.remember(OUTPUT, str(home.out.resolve()))
    ledger.remember(OUTPUT_ID, identity)
    home.marker.update(state=_recorded_state(home), output_id=identity, claimed=False)


def _recorded_state(home: HeldOutput) -> str:
    """Return what the marker says of where the ledger lies."""
    return "" if home.keeps_ledger_inside else str(home.state.resolve())


def _is_there(out: Path, identity: str) -> bool:
    try:
        return read_marker(out).output_id == identity
    except (OSError, LedgerDamaged):
        return False
