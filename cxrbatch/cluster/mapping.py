"""Paths that mean the same on every machine of a cluster, though a share may be mounted elsewhere on some.

A node whose mounts lie elsewhere has CXRBATCH_PATHS in its environment: `/pacs=/mnt/pacs;/results=/data/out`, what the
driver calls a folder, and what it is called there.
"""

from __future__ import annotations

import os
from pathlib import Path

from cxrbatch.errors import ConfigurationError

VARIABLE = "CXRBATCH_PATHS"


def mapped(path: Path, said: str | None = None) -> Path:
    """Return what a folder of the driver's is called here; the longest of the names that it begins with counts.

    Raises:
        ConfigurationError: the variable says something else than pairs of absolute paths.
    """
    pairs = _pairs(os.environ.get(VARIABLE, "") if said is None else said)
    for there, here in sorted(pairs, key=lambda pair: -len(pair[0].parts)):
        if path.is_relative_to(there):
            return here / path.relative_to(there)
    return path


def _pairs(said: str) -> list[tuple[Path, Path]]:
    pairs = []
    for part in filter(None, said.split(";")):
        there, equals, here = part.partition("=")
        if not equals or not Path(there).is_absolute() or not Path(here).is_absolute():
            raise ConfigurationError(f"{VARIABLE}: {part!r} is not /PATH/OF/DRIVER=/PATH/HERE.")
        pairs.append((Path(there), Path(here)))
    return pairs
