"""Where a new engine grows, and moves to once it is whole: neither a reader nor a crash ever finds half of one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrbatch.engine.bundle import ENGINE_FILE
from cxrbatch.engine.manifest import EngineFile, Precision
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError, UsageError
from cxrbatch.system import durable

# What is left of a file name's 255 for what is put before it while a bundle grows.
_LONGEST_NAME = 200


def entry_of(path: Path, precision: Precision) -> EngineFile:
    """Return the manifest's entry for a file that was just written."""
    return EngineFile(path.name, sha256_of_file(path), precision)


@contextmanager
def growing(place: Path) -> Iterator[Path]:
    """Yield an empty folder beside `place`; on success it moves there, on error it is gone."""
    folder = Path(tempfile.mkdtemp(prefix=durable.TEMPORARY_PREFIX, dir=place.parent))
    try:
        yield folder
        folder.chmod(durable.FOLDER_MODE)
        _replace_folder(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    durable.sync_folder(place.parent)


def _replace_folder(folder: Path, place: Path) -> None:
    if not place.exists():
        folder.rename(place)
        return
    # A folder cannot be renamed over a full one. A reader in between finds no engine, never half of one.
    outgoing = Path(tempfile.mkdtemp(prefix=durable.TEMPORARY_PREFIX, dir=place.parent))
    place.rename(outgoing / place.name)
    folder.rename(place)
    shutil.rmtree(outgoing)


def require_free(place: Path) -> None:
    """Check that at `place` is nothing, or an engine that may be replaced.

    Raises:
        EngineError: something else is there.
    """
    if place.exists() and not (place / ENGINE_FILE).is_file():
        raise EngineError(f"{place}: is there and is no engine; move it away or choose another name.")


def require_name(name: str) -> None:
    """Check that an engine can have this name, which is its folder's.

    Raises:
        UsageError: it cannot.
    """
    allowed = name and not name.startswith((".", "-")) and all(sign.isalnum() or sign in "._-" for sign in name)
    if not allowed or len(name.encode()) > _LONGEST_NAME:
        raise UsageError(
            f"engine name {name[:_LONGEST_NAME]!r}: use letters, digits, '.', '_' and '-', neither '.' nor '-' at the "
            f"front, at most {_LONGEST_NAME} bytes."
        )
