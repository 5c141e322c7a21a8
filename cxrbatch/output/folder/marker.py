"""OUT/.cxrbatch.json: what must be known of an output folder when its ledger cannot be read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.config import MARKER_FILE
from cxrbatch.errors import LedgerDamaged
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


class HeldMarker:
    """The marker of an output folder as this process read or wrote it last: whoever holds the folder reads it once.

    Before the lock is held it tells where that lies, and somebody else may write it: `reread` comes after the lock.
    From there on it is this process that writes it.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._known: Marker | None = None

    @property
    def known(self) -> Marker:
        """What it says, as far as this process knows."""
        return self.reread() if self._known is None else self._known

    def reread(self) -> Marker:
        """Return what it says now; raises what `read_marker` does."""
        self._known = read_marker(self._out)
        return self._known

    def create(self, marker: Marker) -> bool:
        """Make it, as the first of several processes; False where there is one already, which is to be read."""
        made = create_marker(self._out, marker)
        self._known = marker if made else None
        return made

    def update(self, **facts: str | bool) -> None:
        """Change these facts; it is written only where that changes anything."""
        if (changed := replace(self.known, **facts)) != self._known:  # type: ignore[arg-type]
            replace_text(self._out / MARKER_FILE, to_json(changed, indent=2) + "\n")
            self._known = changed


def hash_of_folder(folder: Path) -> str:
    """Return what stands for a folder, or a single file, where its name must not: SHA-256 of its resolved path."""
    return hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
