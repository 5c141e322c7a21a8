"""Which objects of an output folder a peer is to have, and their bytes, also while a run or daemon works on it.

What is due are the objects of each study's current revision. Of an earlier one that was never sent nothing is: the
current one takes its place. A study that waits, or failed, is not done with: it is due once it is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.uid import UID

from cxrbatch.output.dicom.object_files import DOCUMENT, SR, current_objects, is_mark_of, object_folder
from cxrbatch.output.ledger.engine_table import read_result_of
from cxrbatch.output.ledger.ledger import LEDGER_FILE
from cxrbatch.output.ledger.view import opened_to_read, read_patiently
from cxrbatch.output.report.intent import read_intent
from cxrbatch.output.report.report_files import report_folder
from cxrbatch.records import StudyResult

_WANTED = ["SOPClassUID", "SOPInstanceUID"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """One object to send: what it is, and its file, whole (PS3.10 7)."""

    study_key: str
    revision: int
    kind: str
    uid: str
    sop_class: UID
    transfer_syntax: UID
    content: bytes


class NotReady(Exception):
    """The objects of a study are not those of its result now: it is being printed, or another hand was at them."""


class DueStudies:
    """What an output folder has to send; its ledger is only read."""

    def __init__(self, out: Path, state: Path) -> None:
        """Take the output folder, and the folder that its ledger lies in."""
        self.out, self.ledger = out, state / LEDGER_FILE

    def look(self, settled: dict[str, int]) -> Iterator[str]:
        """Yield the keys of all studies that have objects, but those that are as they were when all was sent.

        Raises:
            UsageError: there is no ledger.
            RunError: it cannot be read.
        """
        for study_key in self._reported():
            stamp = stamp_of(self.out, study_key)
            if stamp is not None and settled.get(study_key) != stamp:
                yield study_key

    def read(self, study_key: str) -> list[Parcel] | None:
        """Return the objects of a study's current revision, read once; None where it waits to be reported again.

        Each must say that it was made of the very result that the ledger has: what is written meanwhile, or was
        changed by another hand, is not sent.

        Raises:
            NotReady: it is not so now.
            RunError: the ledger cannot be read.
        """
        if (result := self._result(study_key)) is None:
            return None
        parcels = []
        self._require_rest(study_key)
        for path in current_objects(report_folder(self.out, study_key)):
            try:
                content = path.read_bytes()
            except OSError:
                raise NotReady from None
            if path.is_symlink() or not is_mark_of(content, result):
                raise NotReady
            try:
                parcels.append(_parcel(result, path.name, content))
            except Exception:  # noqa: BLE001  # whatever pydicom makes of a damaged file
                raise NotReady from None
        self._require_rest(study_key)
        return parcels

    def state(self) -> int:
        """Return what changes with whatever is written to the ledger; 0 where there is none."""
        found = []
        for path in (self.ledger, self.ledger.with_name(f"{self.ledger.name}-wal")):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return hash(tuple(found)) if found else 0

    def _require_rest(self, study_key: str) -> None:
        if read_intent(self.out, study_key) is not None:
            raise NotReady

    def _reported(self) -> list[str]:
        """Return the keys of all studies that are reported: an index holds them, so no result is read."""

        def read(path: Path) -> list[str]:
            with opened_to_read(path) as database:
                query = "SELECT study_key FROM studies WHERE status = 'reported' ORDER BY study_key"
                return [key for (key,) in database.execute(query)]

        return read_patiently(self.ledger, read)

    def _result(self, study_key: str) -> StudyResult | None:
        def read(path: Path) -> StudyResult | None:
            with opened_to_read(path) as database:
                query = "SELECT result FROM studies WHERE status = 'reported' AND study_key = ?"
                row = database.execute(query, (study_key,)).fetchone()
                return read_result_of(database, row[0]) if row and row[0] else None

        return read_patiently(self.ledger, read)


def stamp_of(out: Path, study_key: str) -> int | None:
    """Return what changes with any object of a study that is written or removed; None where it has no objects.

    That is when its folder last changed (nanoseconds): objects are only ever renamed into it.
    """
    with suppress(OSError):
        return object_folder(report_folder(out, study_key)).stat().st_mtime_ns
    return None


def _parcel(result: StudyResult, name: str, content: bytes) -> Parcel:
    with pydicom.dcmread(BytesIO(content), specific_tags=_WANTED, stop_before_pixels=True) as found:
        return Parcel(
            study_key=result.study_key,
            revision=result.revision,
            kind={SR: "sr", DOCUMENT: "pdf"}.get(name, "sc"),
            uid=str(found.SOPInstanceUID),
            sop_class=UID(found.SOPClassUID),
            transfer_syntax=UID(found.file_meta.TransferSyntaxUID),
            content=content,
        )
