"""OUT/.cxrbatch.json: what must be known of an output folder when its ledger cannot be read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.errors import LedgerDamaged
from cxrbatch.records import MARKER_FILE
from cxrbatch.system.durable import FILE_MODE, new_temporary, replace_text, sync_folder
from cxrbatch.system.faults import reach
from cxrbatch.system.record_json import from_json, to_json


@dataclass(frozen=True, slots=True)
class Marker:
    """Where the ledger is, and facts that `repair` gives back to one that it makes anew.

    `state`: the folder that the ledger lies in, '' where that is OUT; `output_id`: which OUT this is, wherever it
    is moved. `input_sha256`: which INPUT the results are of, as a hash, since folders may be named after patients.
    `index_rules`: the rules that the files were indexed by; without them every file would be read again.
    `session`: which run opened the folder last; a ledger that does not know it is not the one that was at work here.
    `claimed`: a first run has begun, and may not have come to make a ledger.
    `deidentified`: DEIDENTIFIED of the ledger.
    """

    state: str = ""
    output_id: str = ""
    input_sha256: str = ""
    index_rules: str = ""
    session: str = ""
    claimed: bool = False
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


def create_marker(out: Path, marker: Marker) -> bool:
    """Make the marker of `out` in one step, as the first of several processes; False where there is one already.

    A hard link under the name either is made or finds it taken, on NFS too, where only the count of links tells
    whether the answer to a request that was sent twice was the first one's.
    """
    path, content = out / MARKER_FILE, to_json(marker, indent=2) + "\n"
    if path.exists():
        return False
    with new_temporary(path, content.encode()) as temporary:
        reach("marker-link")
        try:
            os.link(temporary, path)
        except FileExistsError:
            made = temporary.stat().st_nlink == 2
        except OSError:
            made = _create_alone(path, content)
        else:
            made = True
    reach("marker-linked")
    sync_folder(out)
    return made


def _create_alone(path: Path, content: str) -> bool:
    """Make the marker where the file system has no hard links (SMB, FAT)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, content.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def update_marker(out: Path, **facts: str | bool) -> None:
    """Change these facts in the marker of `out`; it is written only where that changes anything."""
    known = read_marker(out)
    if (changed := replace(known, **facts)) != known:  # type: ignore[arg-type]
        replace_text(out / MARKER_FILE, to_json(changed, indent=2) + "\n")


def hash_of_folder(folder: Path) -> str:
    """Return what stands for a folder, or a single file, where its name must not: SHA-256 of its resolved path."""
    return hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
