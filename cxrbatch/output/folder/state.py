"""Where the ledger and the lock of an output folder lie: in the folder itself, or in a --state of their own.

OUT/.cxrbatch.json says where, so that every command finds the ledger again; the ledger says whose it is, so that two
output folders never share one.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cxrbatch.errors import LedgerDamaged, OutputLocked, UsageError
from cxrbatch.output.folder.marker import Marker, create_marker, read_marker, update_marker
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.records import MARKER_FILE

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
    marker = read_marker(out)
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


def claim_output(out: Path, state: Path) -> None:
    """Be the one of several first runs that begins with `out`: its marker is made in one step, and says where.

    Raises:
        OutputLocked: another run was faster, and keeps its ledger elsewhere.
        UsageError: the same, where that run has come further.
    """
    inside = state.resolve() == out.resolve()
    place = "" if inside else str(state.resolve())
    if create_marker(out, Marker(state=place, claimed=True)):
        return
    marker = read_marker(out)
    if marker.claimed and marker.state != place:
        raise OutputLocked(
            f"{out}: another run began with it at the same moment, and keeps its ledger in {marker.state or out}. "
            "Wait for it, and give the same --state as it did."
        )
    find_state(out, str(state), may_be_missing=True)


def is_foreign_ledger(out: Path, ledger: Ledger) -> bool:
    """Tell whether another ledger than this one worked on `out` last: this one is a backup, or an earlier state."""
    session = read_marker(out).session
    return bool(session and ledger.fact(OUTPUT)) and session not in {ledger.fact(SESSION), ledger.fact(UNFINISHED)}


def begin_session(out: Path, ledger: Ledger, session: str) -> None:
    """Let ledger and marker know this run, in an order in which no kill makes them strangers."""
    ledger.remember(UNFINISHED, session, durable=True)
    update_marker(out, session=session)
    ledger.remember(SESSION, session, durable=True)


def refuse_foreign(out: Path, state: Path, ledger: Ledger) -> None:
    """Check that the ledger in `state` is that of this output folder, or of none yet.

    A folder that was moved is known again by its id, as long as nothing with that id is left where it was.

    Raises:
        UsageError: it is that of another output folder.
    """
    identity, owner, place = read_marker(out).output_id, ledger.fact(OUTPUT), str(out.resolve())
    inside = state.resolve() == out.resolve()
    was_moved = ledger.fact(OUTPUT_ID) == identity != "" and not _is_there(Path(owner), identity)
    if owner not in {"", place} and not inside and not was_moved:
        raise UsageError(f"{state}: holds the ledger of {owner}. Every output folder needs a --state of its own.")


def claim_state(out: Path, state: Path, ledger: Ledger) -> None:
    """Let the ledger in `state` and the output folder know each other; raises what `refuse_foreign` does."""
    refuse_foreign(out, state, ledger)
    inside = state.resolve() == out.resolve()
    identity = read_marker(out).output_id or ledger.fact(OUTPUT_ID) or secrets.token_hex(8)
    ledger.remember(OUTPUT, str(out.resolve()))
    ledger.remember(OUTPUT_ID, identity)
    update_marker(out, state="" if inside else str(state.resolve()), output_id=identity, claimed=False)


def _is_there(out: Path, identity: str) -> bool:
    try:
        return read_marker(out).output_id == identity
    except (OSError, LedgerDamaged):
        return False
