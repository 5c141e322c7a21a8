"""Whether a machine sees the INPUT that another one indexed: a share that is not mounted is an empty folder, or none.

Who works on studies elsewhere would find none of their files, and fail them all, faster than anybody else scores one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.run.source import Source

# Some may be moved away while others look for them.
_NAMES = 16


def names_in(source: Source) -> tuple[str, ...]:
    """Return some of what is in INPUT, by which another machine knows the folder; nothing where it cannot be listed."""
    if source.only:
        return (source.only,)
    with suppress(OSError), os.scandir(source.folder) as entries:
        # Hidden ones are there wherever something is mounted: snapshots, marks of the server.
        return tuple(islice((entry.name for entry in entries if not entry.name.startswith(".")), _NAMES))
    return ()


def not_seen(folder: Path, names: tuple[str, ...], tasks: Iterable[StudyTask]) -> str:
    """Say in words why a folder is not the INPUT that names and tasks are from; '' where any of them is there."""
    if not folder.is_dir():
        return f"{folder}: INPUT cannot be seen there; is the share mounted?"
    if not names or any(os.path.lexists(folder / name) for name in names):
        return ""
    if any(os.path.lexists(folder / file.file.path) for task in tasks for file in task.files):
        return ""
    return f"{folder}: is not INPUT there, for nothing of it is in that folder; is the share mounted?"
