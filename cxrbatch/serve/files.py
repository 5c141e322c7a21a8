"""Which files of an output folder a reader needs, and reading them without following links. Start at `read_file`."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cxrbatch.output.worklist import INDEX_HTML

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".pdf": "application/pdf",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
"""What is served, by the end of its name: no ledger, no table, no log, no result.json, which names input paths."""

_NAME = r"\w[\w.-]*"
_SERVED = re.compile(rf"worklist/{_NAME}\.js|reports/{_NAME}/{_NAME}|runs/{_NAME}")


def read_file(out: Path, path: str) -> tuple[bytes, str] | None:
    """Return content and type of a file of `out`; None where there is none that may be read.

    Every step of the way is opened by itself, without following links: what leads out of `out` is not there, also
    where it is put there while this looks.
    """
    kind = TYPES.get(PurePosixPath(path).suffix)
    if kind is None or not (path == INDEX_HTML or _SERVED.fullmatch(path)):
        return None
    *folders, name = path.split("/")
    descriptors = []
    try:
        descriptors.append(os.open(out, os.O_RDONLY | os.O_DIRECTORY))
        for folder in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            descriptors.append(os.open(folder, flags, dir_fd=descriptors[-1]))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptors.append(os.open(name, flags, dir_fd=descriptors[-1]))
        if not stat.S_ISREG(os.fstat(descriptors[-1]).st_mode):
            return None
        with open(descriptors[-1], "rb", closefd=False) as file:
            return file.read(), kind
    except OSError:
        return None
    finally:
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)
