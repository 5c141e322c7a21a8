r"""images.csv and studies.csv, written from rows of the ledger; `derive_tables` writes the worklist along with them.

Read them with `pandas.read_csv(path, dtype={"patient_id": str, "accession_number": str, "study_date": str})`.

Text cells hold what strangers wrote into files and headers, so they are made harmless: `cxrbatch.pages.cells` says
how, and how to read them back. Numbers are never touched.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cxrbatch import __version__
from cxrbatch.locales import known_locale
from cxrbatch.output.ledger.changes import Changed
from cxrbatch.output.ledger.ledger import LOCALE, Ledger
from cxrbatch.output.ledger.priors import WithPrior
from cxrbatch.output.ledger.schema_growth import DERIVED
from cxrbatch.output.table_patch import TablePatch, Unfit, patch_table
from cxrbatch.output.worklist import INDEX_HTML, write_worklist
from cxrbatch.output.worklist_data import DATA_FOLDER
from cxrbatch.output.worklist_patch import WorklistPatch, patch_worklist
from cxrbatch.pages.cells import LIST_SEPARATOR, harmless, list_cell, restored, write_rows
from cxrbatch.pages.language import speaking
from cxrbatch.pages.own_templates import in_use
from cxrbatch.records import Calls, EngineDescription, FileRow, StudyRow, Verdict, call_image, now_text
from cxrbatch.system.durable import replacing
from cxrbatch.system.faults import reach
from cxrbatch.system.record_json import from_json, to_json

IMAGES_CSV = "images.csv"
STUDIES_CSV = "studies.csv"

__all__ = ["IMAGES_CSV", "LIST_SEPARATOR", "STUDIES_CSV", "harmless", "read_table", "write_tables"]

_IMAGE_COLUMNS_BEFORE = (
    *("path", "status", "reason", "message", "study_key", "study_uid", "series_uid", "sop_uid", "patient_id"),
    *("accession_number", "study_date", "modality", "body_part", "view", "rows", "columns", "photometric"),
    *("transfer_syntax", "flags", "engine", "engine_sha256", "backend", "precision"),
)
# Behind the scores, whose number varies: what reads cells by their place finds them where they were.
_DISTANCE, _PLACES = "distance", "places"
_STUDY_COLUMNS_BEFORE = (
    *("study_key", "study_uid", "patient_id", "accession_number", "study_date", "revision", "status"),
    *("n_images", "n_scored", "priority", "findings", "n_judged", "n_labels"),
)

Cell = str | int
Key = TypeVar("Key", bytes, str)

_NO_SCORES: tuple[tuple[float, ...], Calls, tuple[float, ...]] = ((), (), ())


def refresh_tables(out: Path, ledger: Ledger, engine: EngineDescription) -> None:
    """Bring the tables and the worklist up to date; where they lie as they were written, only what changed since.

    Raises:
        OutputNotWritable: `out` is no longer where it was.
    """
    ledger.home.check()
    derived = ledger.fact(DERIVED)
    if derived and derived == _as_derived(out, ledger, engine):
        changed = ledger.changes.since_derived()
        if changed is not None and (not changed or _patch_tables(out, ledger, engine, changed)):
            return
    derive_tables(out, ledger, engine)


def derive_tables(out: Path, ledger: Ledger, engine: EngineDescription) -> None:
    """Write images.csv, studies.csv and index.html from the ledger, in this engine's columns.

    Raises:
        OutputNotWritable: `out` is no longer where it was.
    """
    ledger.home.check()
    ledger.changes.unsettled()
    write_tables(out, ledger.results.file_rows(), ledger.results.study_rows(), engine)
    ledger.home.check()
    studies, with_prior = ledger.results.study_rows_by_arrival(), WithPrior(ledger.priors)
    with speaking(known_locale(ledger.fact(LOCALE))):
        shards = write_worklist(out, studies, engine=engine, generated_at=now_text(), with_prior=with_prior)
    ledger.changes.settled(_as_derived(out, ledger, engine), shards)


def _patch_tables(out: Path, ledger: Ledger, engine: EngineDescription, changed: Changed) -> bool:
    """Bring the tables and the worklist up to date with what changed; return whether they could be."""
    shards = ledger.changes.shards()
    if not shards:
        return False
    try:
        patch_table(out / IMAGES_CSV, _image_patch(ledger, engine, changed.files))
        patch_table(out / STUDIES_CSV, _study_patch(ledger, engine, sorted(changed.studies)))
    except Unfit:
        return False
    ledger.home.check()
    patch = WorklistPatch(shards, changed.studies)
    with speaking(known_locale(ledger.fact(LOCALE))):
        written = patch_worklist(out, ledger, patch, engine=engine, generated_at=now_text())
    ledger.changes.settled(_as_derived(out, ledger, engine), written)
    return True


def _image_patch(ledger: Ledger, engine: EngineDescription, paths: Sequence[bytes]) -> TablePatch:
    patch = TablePatch()
    places = _unchanged_behind(ledger, paths, "SELECT path FROM files WHERE path > ? ORDER BY path LIMIT 1")
    for path, before in zip(paths, places, strict=True):
        patch.drop(os.fsdecode(path))
        for row in ledger.results.file_rows(path):
            patch.add(_image_cells(row, engine), os.fsdecode(before) if before is not None else None)
    return patch


def _study_patch(ledger: Ledger, engine: EngineDescription, study_keys: Sequence[str]) -> TablePatch:
    patch = TablePatch()
    query = "SELECT study_key FROM studies WHERE study_key > ? ORDER BY study_key LIMIT 1"
    for key, before in zip(study_keys, _unchanged_behind(ledger, study_keys, query), strict=True):
        patch.drop(key)
        for row in ledger.results.study_rows(key):
            patch.add(_study_cells(row, engine), before)
    return patch


def _unchanged_behind(ledger: Ledger, changed: Sequence[Key], query: str) -> list[Key | None]:
    """Return for each key, which are sorted, the next one that did not change; None where there is none."""
    found: list[Key | None] = []
    names, behind = set(changed), dict[Key, Key | None]()
    for key in reversed(changed):
        after = ledger.store.value(query, (key,))
        behind[key] = behind[after] if after in names else after
        found.append(behind[key])
    return found[::-1]


def _as_derived(out: Path, ledger: Ledger, engine: EngineDescription) -> str:
    """Return what tells whether all files are as this version wrote them for this engine; '' if not all are there."""
    try:
        paths = [out / IMAGES_CSV, out / STUDIES_CSV, out / INDEX_HTML, *sorted((out / DATA_FOLDER).iterdir())]
        files = [(path.name, (state := path.stat()).st_size, state.st_mtime_ns) for path in paths]
    except OSError:
        return ""
    spoken = known_locale(ledger.fact(LOCALE))
    # As the ledger gives it back: a number that was written as 0 is one that is 0.0 there.
    described = to_json(from_json(to_json(engine), EngineDescription))
    return hashlib.sha256(f"{__version__}{in_use().mark} {spoken} {files} {described}".encode()).hexdigest()


def write_tables(out: Path, files: Iterable[FileRow], studies: Iterable[StudyRow], engine: EngineDescription) -> None:
    """Write both tables, each whole or not at all, a row at a time.

    Args:
        out: the output folder.
        files: one row for every file the walk met, also refused ones.
        studies: one row for every study.
        engine: its findings give the columns prob_ and positive_, of an ensemble also disagreement_. What another
            engine scored has a row without scores: its findings are not these, even where they have the same names.
    """
    _write_table(out / IMAGES_CSV, _image_columns(engine), (_image_cells(row, engine) for row in files))
    _write_table(out / STUDIES_CSV, _study_columns(engine), (_study_cells(row, engine) for row in studies))


def read_table(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a table, its column names first, every cell as the text that it was made of.

    Raises:
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.reader(stream):
            yield [restored(cell) for cell in row]


def _write_table(target: Path, columns: Sequence[str], rows: Iterator[list[Cell]]) -> None:
    with replacing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        reach("table-write")
        write_rows(stream, [columns])
        write_rows(stream, rows)
        reach("table-written")


def _image_columns(engine: EngineDescription) -> list[str]:
    return [*_IMAGE_COLUMNS_BEFORE, *score_columns(engine), "scored_at", _DISTANCE, _PLACES]


def _study_columns(engine: EngineDescription) -> list[str]:
    return [*_STUDY_COLUMNS_BEFORE, *score_columns(engine), "report_html", "report_pdf", "reported_at", _DISTANCE]


def score_columns(engine: EngineDescription) -> list[str]:
    """Return the columns of what an engine says, in the order of both tables."""
    kinds = ("prob", "positive", *(("disagreement",) if "disagreement" in engine.extra_outputs else ()))
    return [f"{kind}_{label.name}" for kind in kinds for label in engine.labels]


def _image_cells(row: FileRow, engine: EngineDescription) -> list[Cell]:
    header = row.header
    probabilities = row.probabilities if row.engine_sha256 == engine.sha256 else ()
    calls = call_image(engine.labels, engine.verdict_rule, probabilities) if probabilities else ()
    return [
        *(row.path, row.status, row.reason, row.message, row.study_key, header.study_instance_uid),
        *(header.series_instance_uid, header.sop_instance_uid, header.patient_id, header.accession_number),
        *(header.study_date, header.modality, header.body_part, header.view),
        *(header.rows or "", header.columns or "", header.photometric, header.transfer_syntax),
        LIST_SEPARATOR.join(flag.value for flag in row.flags),
        *(row.engine, row.engine_sha256, row.backend, row.precision),
        *_score_cells(probabilities, calls, row.disagreement, engine),
        row.scored_at,
        _distance_cell(row.distance if row.engine_sha256 == engine.sha256 else None),
        _places_cell(row, engine),
    ]


def _places_cell(row: FileRow, engine: EngineDescription) -> str:
    """Return where heatmaps have their peaks, as LABEL=PLACE; only of labels whose heatmaps are validated."""
    if row.engine_sha256 != engine.sha256 or not row.places:
        return ""
    validated = {label.name for label in engine.labels if label.has_validated_maps}
    return list_cell([f"{label}={place}" for label, place in row.places if label in validated])


def _study_cells(row: StudyRow, engine: EngineDescription) -> list[Cell]:
    header, result = row.header, row.result
    verdict = result.verdict if result else None
    is_own = result is not None and result.engine.sha256 == engine.sha256
    scores = (result.probabilities, verdict.calls, result.disagreement) if result and verdict and is_own else _NO_SCORES
    return [
        *(row.study_key, header.study_instance_uid, header.patient_id, header.accession_number, header.study_date),
        *(row.revision, row.status, row.n_images, row.n_scored, verdict.priority if verdict else row.priority),
        *_verdict_cells(verdict),
        *_score_cells(*scores, engine),
        *(row.report_html, row.report_pdf, row.reported_at),
        _distance_cell(result.distance if result and is_own else None),
    ]


def _distance_cell(distance: float | None) -> str:
    return "" if distance is None else f"{distance:.3f}"


def _verdict_cells(verdict: Verdict | None) -> list[Cell]:
    if verdict is None:
        return ["", "", ""]
    return [list_cell([label.name for label in verdict.findings]), len(verdict.judged), len(verdict.asked)]


def _score_cells(
    probabilities: Sequence[float], calls: Calls, disagreement: Sequence[float], engine: EngineDescription
) -> list[Cell]:
    columns = len(score_columns(engine))
    if not probabilities:
        return [""] * columns
    cells: list[Cell] = [
        *(f"{probability:.6f}" for probability in probabilities),
        *("" if call is None else int(call) for call in calls),
        *(f"{spread:.6f}" for spread in disagreement),
    ]
    # Of a result that was stored without it nothing can be told.
    return [*cells, *[""] * columns][:columns]
