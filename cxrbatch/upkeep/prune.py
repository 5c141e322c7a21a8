"""Removing reports and rows of older studies together, once their images are gone from INPUT."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.output.folder.opening import open_output, output_errors_explained
from cxrbatch.output.folder.settle import remove_as_ordered
from cxrbatch.output.folder.state import find_state
from cxrbatch.output.ledger.ledger import ENGINE, INPUT, LEDGER_FILE, Ledger
from cxrbatch.output.ledger.old_studies import OldStudy, reported_before
from cxrbatch.output.marks import forget_marks
from cxrbatch.output.sent import forget_sent
from cxrbatch.output.sheets.sheet import remove_old_sheets
from cxrbatch.output.tables import derive_tables
from cxrbatch.records import EngineDescription
from cxrbatch.system.faults import reach
from cxrbatch.system.logbook import log_event
from cxrbatch.system.record_json import from_json

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pruning:
    """Studies reported before `before`: those to remove, those `kept` for their images in INPUT, what was done."""

    before: str
    old: tuple[OldStudy, ...]
    kept: tuple[OldStudy, ...]
    removed: bool


def prune_output(
    out: Path, age: timedelta, *, state: str = "", remove: bool = False, input_emptied: bool = False
) -> Pruning:
    """Find the studies of `out` that were reported longer ago than `age`, and with `remove` forget them.

    A study that has an image in INPUT is kept: the next run would only score it again. Rows go first, then the tables
    are derived anew, then the folders go: whoever is killed in between leaves folders without rows, which the next
    run, or the same command again, removes.

    Raises:
        UsageError: `out` holds no ledger; or INPUT cannot be seen, so that nobody knows what is gone from it.
        RunError: another run holds `out`, or it cannot be written.
    """
    if not (ledger_file := find_state(out, state) / LEDGER_FILE).is_file():
        raise UsageError(f"{out}: no {ledger_file} there, so nothing to prune. Name the output folder of a run.")
    before = (datetime.now(timezone.utc) - age).isoformat(timespec="seconds")
    with open_output(out, state=state) as ledger:
        old = reported_before(ledger.store, before)
        root = _folder_of_input(Path(ledger.fact(INPUT)))
        if remove:
            _refuse_unseen(root, allow_empty=input_emptied)
        gone = tuple(study for study in old if not study.is_present and not _is_back(root, study))
        gone_keys = {study.study_key for study in gone}
        kept = tuple(study for study in old if study.study_key not in gone_keys)
        if remove:
            with output_errors_explained(out, ledger.home):
                _forget(out, ledger, gone)
                remove_old_sheets(out, age)
    return Pruning(before, gone, kept, remove)


def _forget(out: Path, ledger: Ledger, studies: tuple[OldStudy, ...]) -> None:
    reach("prune-forget")
    ledger.results.forget(study.study_key for study in studies)
    reach("prune-forgotten")
    forget_marks(ledger.folder, (study.study_key for study in studies))
    forget_sent(ledger.folder, [study.study_key for study in studies])
    if engine := ledger.fact(ENGINE):
        derive_tables(out, ledger, from_json(engine, EngineDescription))
    reach("prune-remove")
    folders = remove_as_ordered(out, ledger)
    reach("prune-removed")
    log_event("pruned", studies=len(studies), report_folders=folders)


def _folder_of_input(named: Path) -> Path:
    """Return the folder that paths begin at; INPUT may be a single file."""
    return named.parent if named.is_file() else named


def _refuse_unseen(root: Path, *, allow_empty: bool) -> None:
    """Refuse to call anything gone from an input that is not there: a share that is not mounted looks empty."""
    if not root.parts:
        raise UsageError("the ledger does not know its INPUT (it was repaired). Give `cxrbatch run` first.")
    try:
        with os.scandir(root) as entries:
            is_empty = next(entries, None) is None
    except OSError as error:
        is_empty, why = True, f"cannot be listed ({error.strerror})"
    else:
        why = "is empty"
    if is_empty and not allow_empty:
        raise UsageError(
            f"{root}: {why}, so nobody knows what is gone from it. Mount it; or, where images are meant to leave it, "
            "give --input-emptied."
        )


def _is_back(root: Path, study: OldStudy) -> bool:
    """Tell whether an image of the study returned since the last run looked."""
    return any(os.path.lexists(root / path) for path in study.paths)


def tell_pruning(pruning: Pruning, say: Say) -> None:
    """Tell what was removed, or would be, and what is kept."""
    for study in pruning.kept:
        say(f"study {study.study_key}: reported {study.reported_at}; kept, its images are still in INPUT")
    for study in pruning.old:
        say(f"study {study.study_key}: reported {study.reported_at}; {'removed' if pruning.removed else 'to remove'}")
    count = f"{len(pruning.old)} studies reported before {pruning.before}"
    kept = f"; {len(pruning.kept)} are kept, for the next run would score them again" if pruning.kept else ""
    if pruning.removed:
        say(f"Removed {count}, with their reports and rows{kept}.")
    else:
        say(f"{count} would be removed, with their reports and rows{kept}. Nothing was changed; --yes removes them.")
