"""The records that tables, worklist and queue are made of, read from the ledger's store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

from cxrbatch.errors import Flag
from cxrbatch.output.ledger.store import LedgerStore, damaged_ledger
from cxrbatch.records import FileRow, Header, StudyResult, StudyRow
from cxrbatch.system.record_json import from_json

Parsed = TypeVar("Parsed")


def parse(store: LedgerStore, text: str, kind: type[Parsed]) -> Parsed:
    """Return the record that a cell holds.

    Raises:
        RunError: the cell was damaged or changed by another hand.
    """
    try:
        return from_json(text, kind)
    except ValueError as error:
        raise damaged_ledger(store.path, f"{kind.__name__}: {error}") from error


def file_rows(store: LedgerStore) -> Iterator[FileRow]:
    """Yield one row per file that was ever met, by path."""
    rows = store.rows(
        "SELECT path, status, reason, message, study_key, header, flags, engine, engine_sha256, backend, "
        "precision, probabilities, scored_at FROM files ORDER BY path"
    )
    for path, status, reason, message, study_key, header, flags, *scoring in rows:
        engine, engine_sha256, backend, precision, probabilities, scored_at = (
            scoring if status == "scored" else ("", "", "", "", "[]", "")
        )
        yield FileRow(
            path=os.fsdecode(path),
            status=status,
            reason=reason,
            message=message,
            study_key=study_key,
            header=parse(store, header, Header),
            flags=parse(store, flags, tuple[Flag, ...]),
            engine=engine,
            engine_sha256=engine_sha256,
            backend=backend,
            precision=precision,
            probabilities=parse(store, probabilities, tuple[float, ...]),
            scored_at=scored_at,
        )


def study_rows(store: LedgerStore, study_key: str = "") -> Iterator[StudyRow]:
    """Yield one row per study, by key; with `study_key`, that one only."""
    chosen = ("WHERE study_key = ?", (study_key,)) if study_key else ("", ())
    rows = store.rows(
        "SELECT study_key, status, revision, message, report_html, report_pdf, reported_at, result FROM studies "
        f"{chosen[0]} ORDER BY study_key",
        chosen[1],
    )
    for key, status, revision, message, html, pdf, reported_at, result in rows:
        files = list(store.rows("SELECT status, reason, header FROM files WHERE study_key = ? ORDER BY path", (key,)))
        known = parse(store, result, StudyResult) if result else None
        yield StudyRow(
            study_key=key,
            header=known.header if known else parse(store, files[0][2], Header) if files else Header(),
            revision=revision,
            status=status,
            n_images=len(files),
            n_scored=sum(file_status == "scored" for file_status, _, _ in files),
            reasons=tuple(sorted({reason for _, reason, _ in files if reason})),
            message=message,
            report_html=html,
            report_pdf=pdf,
            thumbnail=_thumbnail(known) if known else "",
            reported_at=reported_at,
            result=known,
        )


def _thumbnail(result: StudyResult) -> str:
    name = result.images[0].thumbnail_file
    return f"reports/{result.study_key}/{name}" if name else ""
