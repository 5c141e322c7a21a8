"""What is in one folder of INPUT: which of its entries are files to index, and whether it is one at all."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from stat import S_ISREG

from cxrbatch.config import LOG_FILE, MARKER_FILE
from cxrbatch.records import ImageFile, storable_ns

UNFINISHED_SUFFIXES = (".tmp", ".part")
LOCK_FILE = ".lock"
# What every output folder holds and nothing else does: its pictures are no radiographs to score. Names alone prove
# nothing, for whoever fills INPUT may give them to empty files; the marker has to say which output folder it is.
OUTPUT_FOLDER_ID = "output_id"
_LARGEST_MARKER = 64 * 1024


def is_output_folder(folder: Path) -> bool:
    """Tell whether cxrbatch wrote this folder: it has a log, and a marker that says which output folder it is.

    Raises:
        OSError: the marker cannot be read now.
    """
    marker = folder / MARKER_FILE
    # What is no file, such as a FIFO that nobody writes to, is no marker.
    if not (folder / LOG_FILE).exists() or not marker.is_file():
        return False
    with marker.open("rb") as stream:
        return _names_an_output_folder(stream.read(_LARGEST_MARKER))


def _names_an_output_folder(marker: bytes) -> bool:
    try:
        said = json.loads(marker)
    except (ValueError, RecursionError):
        return False
    identity = said.get(OUTPUT_FOLDER_ID) if isinstance(said, dict) else None
    return isinstance(identity, str) and re.fullmatch("[0-9a-f]{16}", identity) is not None


def list_sorted(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden, by name.

    Raises:
        OSError: it cannot be listed, or another program says that it is writing it.
    """
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    if any(entry.name == LOCK_FILE for entry in entries):
        raise BlockingIOError(errno.EBUSY, f"being written by another program ({LOCK_FILE})", folder)
    return [entry for entry in entries if not entry.name.startswith(".")]


def describe_entry(entry: os.DirEntry[str], base: str, within: str) -> ImageFile | None:
    """Return the file behind an entry; None for what is not one, is not finished, or vanished meanwhile.

    `within` is the path of its folder below `base`, with a slash at the end.
    """
    if entry.name.upper() == "DICOMDIR" or entry.name.lower().endswith(UNFINISHED_SUFFIXES):
        return None
    try:
        if entry.is_dir():
            return None
        # A link that leads out of the tree is described as itself, and refused by index_file.
        if entry.is_symlink() and not leads_inside(entry.path, base):
            status = entry.stat(follow_symlinks=False)
        elif not S_ISREG((status := entry.stat()).st_mode):
            return None
    except OSError:
        return None
    return ImageFile(within + entry.name, status.st_size, storable_ns(status.st_mtime_ns))


def leads_inside(path: str, base: str) -> bool:
    """Tell whether a path leads to something below `base`, links and all."""
    return os.path.realpath(path).startswith(base.rstrip(os.sep) + os.sep)
