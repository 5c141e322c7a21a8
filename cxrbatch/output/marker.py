"""OUT/.cxrbatch.json: what must be known of an output folder when its ledger cannot be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.durable import replace_text
from cxrbatch.errors import LedgerDamaged
from cxrbatch.record_json import from_json, to_json

MARKER_FILE = ".cxrbatch.json"


@dataclass(frozen=True, slots=True)
class Marker:
    """Where the ledger is, and facts that `repair` gives back to one that it makes anew.

    `state`: the folder that the ledger lies in, '' where that is OUT; `output_id`: which OUT this is, wherever it
    is moved. `input_sha256`: which INPUT the results are of, as a hash, since folders may be named after patients.
    `index_rules`: the rules that the files were indexed by; without them every file would be read again.
    `deidentified`: DEIDENTIFIED of the ledger.
    """

    state: str = ""
    output_id: str = ""
    input_sha256: str = ""
    index_rules: str = ""
    deidentified: str = ""


def read_marker(out: Path) -> Marker:
    """Return what the marker of `out` says; an empty one where there is none.

    Raises:
        LedgerDamaged: it is there and cannot be understood.
    """
    path = out / MARKER_FILE
    try:
        return from_json(path.read_text(encoding="utf-8"), Marker)
    except (FileNotFoundError, NotADirectoryError):
        return Marker()
    except ValueError as error:
        raise LedgerDamaged(
            f"{path}: damaged ({error}). Remove it, then `cxrbatch repair OUT`, with --state where you use it."
        ) from error


def update_marker(out: Path, **facts: str) -> None:
    """Change these facts in the marker of `out`; it is written only where that changes anything."""
    known = read_marker(out)
    if (changed := replace(known, **facts)) != known:
        replace_text(out / MARKER_FILE, to_json(changed, indent=2) + "\n")


def hash_of_folder(folder: Path) -> str:
    """Return what stands for a folder where its name must not: SHA-256 of its resolved path."""
    return hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
