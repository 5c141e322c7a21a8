"""Made-up archives of any size, for `bench_scale`: an input tree, and the OUT of a run that scored all of it.

Everything of one study is made in earnest, through the ledger's own way in; its rows are then written for all the
others, with names, keys and times of their own. That takes seconds for what a run would take days for. The files are
hard links to two real ones, and a study's report folder is there without its reports: what a run without news looks at.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.intake.discover import index_file, study_key, walk
from cxrbatch.output.folder.opening import open_output
from cxrbatch.output.ledger.ledger import LEDGER_FILE, Ledger
from cxrbatch.records import EngineDescription, ImageFile, ImageResult, PrintedStudy, StudyResult
from cxrbatch.run.index import INDEX_RULES, index_rules
from tests.factories.intake import blobs, write_dicom

FILES_PER_FOLDER = 100
BEGAN = datetime(2025, 1, 1, tzinfo=timezone.utc)
_UID = "1.2.826.0.1.3680043.10.{kind}.1{number:0>14}"
# A patient has this many studies, most of which have one.
STUDIES_PER_PATIENT = 2


def uid(kind: int, number: int) -> str:
    """Return a UID of always the same length: of kind 5 a study's, of kind 8 an instance's."""
    return _UID.format(kind=kind, number=number)


def patient_id(number: int) -> str:
    """Return whose a study is."""
    return f"P{number // STUDIES_PER_PATIENT:0>12}"


def make_templates(folder: Path) -> tuple[Path, Path]:
    """Write the frontal and the lateral image of study 0, two real DICOM files."""
    folder.mkdir(parents=True, exist_ok=True)
    views = (("PA", 0), ("LL", 1))
    return tuple(  # type: ignore[return-value]
        write_dicom(
            folder / f"{view}.dcm",
            pixels=blobs(64, 64, bits=8),
            ViewPosition=view,
            StudyInstanceUID=uid(5, 0),
            SOPInstanceUID=uid(8, number),
            PatientID=patient_id(0),
            StudyDate="20250101",
        )
        for view, number in views
    )


def make_links(tree: Path, templates: tuple[Path, Path], studies: range) -> None:
    """Fill the tree with hard links to the templates, a frontal and a lateral image of each study."""
    originals: list[Path] = []
    for number in range(2 * studies.start, 2 * studies.stop):
        if not originals or number % (300 * FILES_PER_FOLDER) == 0:
            # A file system allows some ten thousand links to one file.
            originals = [_copy(path, tree.parent / "originals" / f"{number}{path.name}") for path in templates]
        place = tree / f"{number // FILES_PER_FOLDER:06}"
        if number % FILES_PER_FOLDER == 0 or not place.exists():
            place.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % 2], place / f"{number:08}.dcm")


def make_studies(tree: Path, studies: range) -> None:
    """Write real files of these studies into the tree, each with identities of its own."""
    templates = [path.read_bytes() for path in make_templates(tree.parent / "templates")]
    for number in range(2 * studies.start, 2 * studies.stop):
        content = templates[number % 2].replace(uid(5, 0).encode(), uid(5, number // 2).encode())
        content = content.replace(uid(8, number % 2).encode(), uid(8, number).encode())
        content = content.replace(patient_id(0).encode(), patient_id(number // 2).encode())
        place = tree / f"{number // FILES_PER_FOLDER:06}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:08}.dcm").write_bytes(content)


def _copy(path: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(path.read_bytes())
    os.utime(target, ns=(BEGAN_NS, BEGAN_NS))
    return target


BEGAN_NS = int(BEGAN.timestamp()) * 10**9


def make_output(out: Path, tree: Path, engine: EngineDescription, n_studies: int) -> None:
    """Leave in `out` what a run would that had scored all studies of the tree."""
    settings = Settings()
    with open_output(out) as ledger:
        _record_first(ledger, tree, engine, settings)
        ledger.remember(INDEX_RULES, index_rules(settings))
    with closing(sqlite3.connect(out / LEDGER_FILE, isolation_level=None)) as database:
        _multiply(database, n_studies)
    for number in range(n_studies):
        with suppress(FileExistsError):
            (out / "reports" / study_key(uid(5, number))).mkdir(parents=True)


def _record_first(ledger: Ledger, tree: Path, engine: EngineDescription, settings: Settings) -> None:
    found = walk_first(tree)
    ledger.index.record(index_file(tree, file, settings) for file in found)
    (task,) = ledger.queue.take(ledger.queue.pending_keys())
    scores = tuple(0.123456 for _ in engine.labels)
    images = tuple(ImageResult(file.file.path, file.header, file.flags, scores, "0" * 64) for file in task.files)
    result = StudyResult(
        *(task.study_key, task.revision, engine, images, task.refused, "2025-01-01T00:00:00+00:00", "bench"),
        files=task.sources,
    )
    key = task.study_key
    ledger.results.record(PrintedStudy(result, f"reports/{key}/report.html", f"reports/{key}/report.pdf"))


def walk_first(tree: Path) -> list[ImageFile]:
    """Return the files of study 0."""
    files = walk(tree)
    return [next(files), next(files)]


def _multiply(database: sqlite3.Connection, n_studies: int) -> None:
    """Write the rows of study 0 for all others, in the order of their keys, and then the indexes."""
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -200000")
    query = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL"
    dropped = database.execute(query).fetchall()
    database.execute("BEGIN")
    for kind, name, _ in dropped:
        database.execute(f"DROP {kind} {name}")
    database.execute("DELETE FROM patients_due")
    _multiply_table(database, "files", range(n_studies))
    _multiply_table(database, "studies", sorted(range(n_studies), key=lambda number: study_key(uid(5, number))))
    for *_, statement in dropped:
        database.execute(statement)
    database.execute("COMMIT")


def _multiply_table(database: sqlite3.Connection, table: str, numbers: Iterable[int]) -> None:
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    rows = database.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()  # noqa: S608  # our own names
    templates = [dict(zip(columns, row, strict=True)) for row in rows]
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    insert = f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})"  # noqa: S608  # our own names
    database.executemany(insert, (row for number in numbers for row in _rows_like(templates, number)))


def _rows_like(templates: list[dict[str, object]], number: int) -> Iterator[list[object]]:
    """Yield the rows of a study: those of study 0 with the names of this one in their place."""
    minute = (BEGAN + timedelta(seconds=number)).isoformat(timespec="seconds")
    # Any order but that of keys, so that what is read first lies everywhere.
    strength = number * 7919 % 1_000_003 / 1_000_003
    changes = (
        (study_key(uid(5, 0)), study_key(uid(5, number))),
        (uid(5, 0), uid(5, number)),
        *((uid(8, place), uid(8, 2 * number + place)) for place in (1, 0)),
        *((_path(place), _path(2 * number + place)) for place in (1, 0)),
        (patient_id(0), patient_id(number)),
        ("0.123456", f"{strength:.6f}"),
        ("2025-01-01T00:00:00+00:00", minute),
    )
    for row in templates:
        changed = {name: _changed(value, changes) for name, value in row.items()}
        if "arrived_at" in changed:
            changed |= {"arrived_at": minute, "reported_at": minute, "strength": round(strength, 6)}
        yield list(changed.values())


def _path(number: int) -> str:
    return f"{number // FILES_PER_FOLDER:06}/{number:08}.dcm"


def _changed(value: object, changes: tuple[tuple[str, str], ...]) -> object:
    if isinstance(value, bytes):
        return str(_changed(value.decode(), changes)).encode()
    if isinstance(value, str):
        for former, new in changes:
            if former in value:
                value = value.replace(former, new)
    return value
