"""Rows of `files` as the tables show them."""

from __future__ import annotations

import os
from typing import Any

from cxrbatch.errors import Flag
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import FileRow, Header

FILE_COLUMNS = (
    "path, status, reason, message, study_key, header, flags, engine, engine_sha256, backend, "
    "precision, probabilities, scored_at, disagreement, distance, places"
)
"""What `file_row` reads, in its order."""

_NOT_SCORED = ("", "", "", "", "[]", "", "[]", None, "[]")


def file_row(store: LedgerStore, row: tuple[Any, ...]) -> FileRow:
    """Return a row of `files`; of what is not scored now, what an earlier engine said stays untold."""
    path, status, reason, message, study_key, header, flags, *scoring = row
    engine, engine_sha256, backend, precision, probabilities, scored_at, disagreement, distance, places = (
        scoring if status == "scored" else _NOT_SCORED
    )
    return FileRow(
        path=os.fsdecode(path),
        status=status,
        reason=reason,
        message=message,
        study_key=study_key,
        header=store.parse(header, Header),
        flags=store.parse(flags, tuple[Flag, ...]),
        engine=engine,
        engine_sha256=engine_sha256,
        backend=backend,
        precision=precision,
        probabilities=store.parse(probabilities, tuple[float, ...]),
        scored_at=scored_at,
        disagreement=store.parse(disagreement, tuple[float, ...]),
        distance=distance,
        places=store.parse(places, tuple[tuple[str, str], ...]),
    )
