"""Whether an output folder is true: ledger, result.json, pictures, reports and tables say the same of every study."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cxrbatch.output.dicom.object_files import has_foreign_objects
from cxrbatch.output.report.intent import PRINTING, result_mark
from cxrbatch.output.report.report import render_report
from cxrbatch.output.report.report_files import is_drawn, kept_names
from cxrbatch.records import PriorStudy, StudyResult
from cxrbatch.system.durable import TEMPORARY_PREFIX
from cxrbatch.system.record_json import from_json
from tests.factories.ledgers import stored_result
from tests.factories.studies import read_rows

_HASHED = re.compile(r".*-([0-9a-f]{12})\.(?:jpg|npy)")
_STUDIES = "SELECT study_key, status, revision, report_html, report_pdf, result, priors FROM studies ORDER BY study_key"
_FILES = "SELECT CAST(path AS TEXT), status, engine_sha256, probabilities FROM files WHERE study_key = ?"


def disagreements(out: Path, *, ledger: Path | None = None) -> list[str]:
    """Return everything in which what a finished command left contradicts itself; nothing is to be found."""
    with closing(sqlite3.connect(f"{(ledger or out / 'ledger.sqlite').as_uri()}?mode=ro", uri=True)) as database:
        return list(_disagreements(out, database))


def finished_reports(out: Path) -> dict[str, tuple[int, str]]:
    """Return, by study key, revision and engine of every result of which result.json and all pictures are there."""
    found = {}
    for record in out.glob("reports/*/result.json"):
        result = from_json(record.read_text(), StudyResult)
        if not list(_false_pictures(record.parent, result)):
            found[record.parent.name] = (result.revision, result.engine.sha256)
    return found


def _disagreements(out: Path, database: sqlite3.Connection) -> Iterator[str]:
    yield from (f"left over: {path}" for path in out.rglob(f"{TEMPORARY_PREFIX}*"))
    yield from (f"still being printed: {path}" for path in out.glob(PRINTING))
    table = {row["study_key"]: row for row in read_rows(out / "studies.csv")}
    folders = {path.name for path in (out / "reports").glob("*")}
    known = set()
    for key, status, revision, html, pdf, text, priors in database.execute(_STUDIES):
        known.add(key)
        row = table.pop(key, None)
        if row is None or (row["status"], row["revision"]) != (status, str(revision)):
            yield f"{key}: studies.csv says {row}, the ledger {status}, {revision}"
            continue
        if (row["report_html"], row["report_pdf"]) != (html, pdf):
            yield f"{key}: studies.csv names other reports than the ledger"
        result = stored_result(database, text) if text else None
        if result is None or not is_drawn(result):
            yield from [f"{key}: a report folder without a result"] if key in folders else []
            continue
        if status == "reported" and result.revision != revision:
            yield f"{key}: revision {revision} with the result of {result.revision}"
        yield from (f"{key}: {what}" for what in _of_folder(out, result, html, pdf, priors))
        yield from (f"{key}: {what}" for what in _of_rows(result, database, row))
    yield from (f"{key}: in studies.csv and not in the ledger" for key in table)
    yield from (f"{key}: a report folder that nobody knows" for key in folders - known)


def _of_folder(out: Path, result: StudyResult, html: str, pdf: str, priors: str) -> Iterator[str]:
    folder = out / "reports" / result.study_key
    if not (folder / "result.json").exists():
        yield "no result.json"
        return
    if from_json((folder / "result.json").read_text(), StudyResult) != result:
        yield "result.json is not what the ledger has"
    yield from _false_pictures(folder, result)
    expected = {"result.json", *kept_names(result)} | {Path(report).name for report in (html, pdf) if report}
    present = {path.name for path in folder.iterdir() if not re.fullmatch(r"report-r\d+\.pdf|dicom", path.name)}
    if present != expected:
        yield f"there is {sorted(present - expected)}, and there is not {sorted(expected - present)}"
        return
    named = from_json(priors or "[]", tuple[PriorStudy, ...])
    if html and (out / html).read_text() != render_report(result, priors=named):
        yield "report.html is not that of the result"
    if pdf and result_mark(result).encode() not in (out / pdf).read_bytes():
        yield "report.pdf is not that of the result"
    yield from _false_objects(folder, result)


def _false_objects(folder: Path, result: StudyResult) -> Iterator[str]:
    for kept in (*folder.glob("report-r*.pdf"), *folder.glob("dicom/sr-r*.dcm")):
        if int(kept.stem.rpartition("-r")[2]) >= result.revision:
            yield f"{kept.name} beside revision {result.revision}"
    if has_foreign_objects(folder, result):
        yield "an object is of another result"


def _false_pictures(folder: Path, result: StudyResult) -> Iterator[str]:
    for name in kept_names(result):
        hashed = _HASHED.fullmatch(name)
        if not (folder / name).exists():
            yield f"{name} is missing"
        elif hashed and not hashlib.sha256((folder / name).read_bytes()).hexdigest().startswith(hashed[1]):
            yield f"{name} is another picture"


def _of_rows(result: StudyResult, database: sqlite3.Connection, row: dict[str, str]) -> Iterator[str]:
    scores = {image.path: image.probabilities for image in result.images}
    for path, status, engine, text in database.execute(_FILES, (result.study_key,)):
        is_of_result = status == "scored" and engine == result.engine.sha256 and path in scores

        if is_of_result and tuple(from_json(text, list[float])) != scores[path]:
            yield f"{path}: the ledger has other scores than the result"
    for label, probability in zip(result.engine.labels, result.probabilities, strict=True):
        cell = row.get(f"prob_{label.name}")
        if cell and cell != f"{probability:.6f}":
            yield f"studies.csv has {cell} for {label.name}, the result {probability:.6f}"
