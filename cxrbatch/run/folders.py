"""Refusing an input and an output folder that cannot belong together."""

from __future__ import annotations

from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.intake.discover import is_output_folder
from cxrbatch.output.folder.marker import hash_of_folder, update_marker
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.ledger.ledger import INPUT, INPUT_SHA256, Ledger


def check_folders(root: Path, out: Path, state: str = "") -> None:
    """Refuse an INPUT whose files would be changed by the run, or that holds results instead of films."""
    source, target = root.resolve(), out.resolve()
    if source == target or target in source.parents:
        raise UsageError(f"{out}: results cannot go where the films lie, or above them. Choose another output folder.")
    if state and source in ((place := Path(state).resolve()), *place.parents) and place != target:
        raise UsageError(f"{state}: the ledger cannot lie where the films are. Choose a --state outside {root}.")
    try:
        holds_results = is_output_folder(source)
    except OSError as error:
        raise UsageError(f"{root}: cannot be looked at ({error.strerror}). Check that it is readable.") from error
    if holds_results:
        raise UsageError(f"{root}: an output folder of cxrbatch; its pictures are no films to score.")


def claim_input(ledger: Ledger, root: Path, out: Path) -> None:
    """Refuse a second input folder: the same relative path would mean two files."""
    resolved, hashed = str(root.resolve()), hash_of_folder(root)
    claimed = ledger.fact(INPUT)
    # A repaired ledger knows its input by hash only.
    if (claimed and claimed != resolved) or ledger.fact(INPUT_SHA256) not in {"", hashed}:
        whose = claimed or "another input folder"
        raise UsageError(f"this output folder holds the results of {whose}. Choose another output folder for {root}.")
    ledger.remember(INPUT, resolved)
    with output_errors_explained(out):
        ledger.home.check()
        update_marker(out, input_sha256=hashed)
