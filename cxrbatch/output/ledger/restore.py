"""Rows of a new ledger for results found on disk, such that the next run scores nothing again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from cxrbatch.errors import Reason
from cxrbatch.output.ledger.store import LedgerStore
from cxrbatch.records import Header, ImageResult, RefusedImage, SourceFile, StudyResult
from cxrbatch.system.record_json import to_json

UNKNOWN = -1
"""mtime_ns of a file whose result.json does not say it: the next index reads it again."""

TAKEN_OVER = "one of its files belongs to another study now"


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study as its report folder tells: its result, its reports relative to OUT, and why it is to be done again."""

    result: StudyResult
    report_html: str
    report_pdf: str
    reported_at: str
    failure: str = ""


@dataclass(slots=True)
class Restorer:
    """Puts studies into an empty ledger, one by one, in any order; what is in two results goes to the later one."""

    store: LedgerStore
    scored_at: dict[str, str] = field(default_factory=dict)
    overruled: set[str] = field(default_factory=set)

    def put(self, study: FoundStudy) -> None:
        """Put the study and its files into the ledger."""
        result = study.result
        self.scored_at[result.study_key] = result.scored_at
        self._put_study(study)
        for source in _sources(result):
            if self._is_ours(source.path, result):
                self._put_file(source, result)

    def finish(self) -> int:
        """Let studies that lost a file to a later one be done again; return how many studies there are."""
        for key in self.overruled:
            self.store.execute(
                "UPDATE studies SET status = 'failed', message = ?, revision = max(revision - 1, 0) "
                "WHERE study_key = ? AND status = 'reported'",
                (TAKEN_OVER, key),
            )
        self.store.execute(
            "DELETE FROM studies WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.study_key = studies.study_key)"
        )
        return int(self.store.value("SELECT count(*) FROM studies"))

    def _is_ours(self, path: str, result: StudyResult) -> bool:
        other = self.store.value("SELECT study_key FROM files WHERE path = ?", (os.fsencode(path),))
        if other is None or other == result.study_key:
            return True
        later = self.scored_at[other] <= result.scored_at
        self.overruled.add(other if later else result.study_key)
        return later

    def _put_study(self, study: FoundStudy) -> None:
        result = study.result
        self.store.execute(
            "INSERT INTO studies (study_key, status, revision, message, engine_sha256, report_html, report_pdf, "
            "reported_at, result) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                result.study_key,
                "failed" if study.failure else "reported",
                result.revision - 1 if study.failure else result.revision,
                study.failure,
                result.engine.sha256,
                study.report_html,
                study.report_pdf,
                study.reported_at,
                to_json(result),
            ),
        )

    def _put_file(self, source: SourceFile, result: StudyResult) -> None:
        image = next((image for image in result.images if image.path == source.path), None)
        refusal = next((image for image in result.refused if image.path == source.path), None)
        said = _scored(image, result) if image else _refused(refusal, source)
        columns = {
            "path": os.fsencode(source.path),
            "size_bytes": source.size_bytes,
            "mtime_ns": source.mtime_ns,
            "study_key": result.study_key,
            # What had gone before it could be scored is gone still, or comes back and is queued.
            "present": refusal is None or refusal.reason != Reason.VANISHED.value,
            "refused_by_header": source.refused_by_header,
            "header": to_json(source.header or (image.header if image else Header())),
            **said,
        }
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        self.store.execute(f"INSERT OR REPLACE INTO files ({names}) VALUES ({places})", tuple(columns.values()))


def _sources(result: StudyResult) -> Iterator[SourceFile]:
    """Yield every file of a study; of a result that does not know them, its paths, as files to be read again."""
    if result.files:
        yield from result.files
        return
    paths = [*(image.path for image in result.images), *(image.path for image in result.refused)]
    yield from (SourceFile(path, 0, UNKNOWN) for path in paths)


def _scored(image: ImageResult, result: StudyResult) -> dict[str, str]:
    engine = result.engine
    return {
        "status": "scored",
        "flags": to_json(image.flags),
        "engine": engine.name,
        "engine_sha256": engine.sha256,
        "backend": engine.backend,
        "precision": engine.precision,
        "probabilities": to_json(image.probabilities),
        "scored_at": result.scored_at,
    }


def _refused(refusal: RefusedImage | None, source: SourceFile) -> dict[str, str]:
    if refusal is None:
        return {"status": "pending", "flags": to_json(source.flags)}
    message = refusal.message.encode("utf-8", "backslashreplace").decode()
    return {
        "status": refusal.status,
        "reason": refusal.reason,
        "message": message,
        "flags": to_json(source.flags),
    }
