"""Which studies are being printed: a file for each in OUT, from before the first byte of it until the ledger knows.

A process can be killed anywhere between a report's pictures and the ledger's commit. These files, named after study
keys, are how the next one finds the few studies concerned (`settle`) without looking through all reports.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from cxrbatch.records import StudyResult
from cxrbatch.system import durable
from cxrbatch.system.faults import reach
from cxrbatch.system.record_json import from_json, to_json

PRINTING = ".cxrbatch-printing"
STUDY_KEY = re.compile("[0-9a-f]{16}")
_MARK_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Intent:
    """What is being printed: the mark of the result, which reports, whether earlier ones may stay, which objects."""

    mark: str = ""
    html: bool = False
    pdf: bool = False
    keeps_earlier: bool = True
    dicom: tuple[str, ...] = ()


def result_mark(result: StudyResult) -> str:
    """Return what ties a report to the result that it was printed from: a hash of all it says, and when it was scored.

    It stands in the page's <meta name="cxrbatch-result"> and as the PDF's identifier.
    """
    said = msgspec.to_builtins(replace(result, scored_at="", files=()))
    # What earlier versions did not say is left out where there is nothing to say: the marks of their reports hold.
    if result.pictures:
        del said["pictures"]
    _leave_out(said, "keeps_maps", "keeps_embeddings")
    for image in said["images"]:
        del image["header"]["source"]  # no report says it
        _leave_out(image["header"], "patient_orientation", "scanner")
        _leave_out(image, "maps_file", "geometry", "embedding_file")
        for heatmap in image["heatmaps"]:
            _leave_out(heatmap, "place")
    return f"{hashlib.sha256(to_json(said).encode()).hexdigest()[:_MARK_DIGITS]} {result.scored_at}"


def _leave_out(said: dict[str, Any], *names: str) -> None:
    """Drop members that say nothing."""
    for name in names:
        if not said[name]:
            del said[name]


def begin_printing(out: Path, study_key: str, intent: Intent) -> None:
    """Note on the disk that this study's report folder is about to change."""
    durable.make_folder(out / PRINTING, within=out)
    reach("intent-write")
    path = out / PRINTING / study_key
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, durable.FILE_MODE)
    try:
        os.fchmod(descriptor, durable.FILE_MODE)
        os.write(descriptor, to_json(intent).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    durable.sync_folder(path.parent)
    reach("intent-written")


def end_printing(out: Path, study_key: str) -> None:
    """Forget the note: ledger and report folder agree."""
    reach("intent-remove")
    (out / PRINTING / study_key).unlink(missing_ok=True)
    reach("intent-removed")


def read_intent(out: Path, study_key: str) -> Intent | None:
    """Return what is being printed of this study; None where nothing is."""
    path = out / PRINTING / study_key
    return _read(path) if path.exists() else None


def being_printed(out: Path) -> dict[str, Intent]:
    """Return, by study key, what was being printed when the last process ended; mostly nothing."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(out / PRINTING) as entries:
        return {entry.name: _read(Path(entry.path)) for entry in entries if STUDY_KEY.fullmatch(entry.name)}
    return {}


def tidy_intents(out: Path) -> None:
    """Remove the folder of the notes where it is empty: nothing is being printed."""
    with suppress(OSError):
        (out / PRINTING).rmdir()


def _read(path: Path) -> Intent:
    """Return what a note says; where it was not written to its end, nothing of the report was begun."""
    try:
        return from_json(path.read_text(encoding="utf-8"), Intent)
    except (OSError, ValueError):
        return Intent()
