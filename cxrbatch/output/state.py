"""Where the ledger and the lock of an output folder lie: in the folder itself, or in a --state of their own.

OUT/.cxrbatch.json says where, so that every command finds the ledger again; the ledger says whose it is, so that two
output folders never share one.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cxrbatch.errors import LedgerDamaged, UsageError
from cxrbatch.output.ledger import LEDGER_FILE, Ledger
from cxrbatch.output.marker import read_marker, update_marker

OUTPUT, OUTPUT_ID = "output", "output_id"


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
    known = read_marker(out).state
    recorded = Path(known) if known else out.resolve()
    chosen = Path(wanted).expanduser().resolve() if wanted else recorded
    if chosen != recorded and (recorded / LEDGER_FILE).exists():
        raise UsageError(
            f"{out}: its ledger lies in {recorded}, not in {chosen}. Leave --state out; or, to move it, move "
            f"{recorded / LEDGER_FILE} there first, while nothing runs."
        )
    if known and not may_be_missing and not (chosen / LEDGER_FILE).exists():
        raise UsageError(
            f"{out}: its ledger was in {recorded}, and is not in {chosen}. Mount that folder again, or say with "
            "--state DIR where the ledger lies now; `cxrbatch repair OUT` makes a lost one anew."
        )
    return out if chosen == out.resolve() else chosen


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
    update_marker(out, state="" if inside else str(state.resolve()), output_id=identity)


def _is_there(out: Path, identity: str) -> bool:
    try:
        return read_marker(out).output_id == identity
    except (OSError, LedgerDamaged):
        return False
