"""What became of the studies of a shard: finished.jsonl, to which its worker appends and which a merge reads meanwhile.

A line is on the disk before the next study is recorded, and counts once it ends: one that a kill cut off is cut away by
the worker that goes on, and not looked at by a merge.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cxrbatch.errors import UsageError
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.folder.place import Place
from cxrbatch.output.report.intent import Intent, being_printed, end_printing, read_intent
from cxrbatch.output.report.report_files import report_folder
from cxrbatch.run.stages import FinishedStudy
from cxrbatch.system.durable import FILE_MODE, close_for_good, remove_temporaries, sync_folder
from cxrbatch.system.record_json import from_json, to_json

FINISHED_FILE = "finished.jsonl"
_READ_BYTES = 1 << 16

Line = TypeVar("Line")


@dataclass(frozen=True, slots=True)
class Entry:
    """A study that is done with, and what was noted on the disk as its report folder began to change."""

    study: FinishedStudy
    intent: Intent | None = None


@dataclass(frozen=True, slots=True)
class _Key:
    study_key: str


@dataclass(frozen=True, slots=True)
class _Keyed:
    study: _Key


class Journal:
    """The journal of one shard, as the worker that holds it writes it."""

    def __init__(self, folder: Path, place: Place) -> None:
        """Open it, cut what a killed worker left of a line, and set right what that one had in hand.

        Args:
            folder: that of the shard.
            place: where reports go; its fence is asked before each line.
        """
        self._folder, self._place = folder, place
        with output_errors_explained(folder):
            self._descriptor = os.open(folder / FINISHED_FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
            os.fchmod(self._descriptor, FILE_MODE)
            os.ftruncate(self._descriptor, _end_of_lines(self._descriptor))
            sync_folder(folder)
        self.done = {entry.study.study_key for entry in _lines(folder, _Keyed)}

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        close_for_good(self._descriptor)

    def tidy(self) -> None:
        """Remove what a worker that was ended left half written; what it had begun is begun anew."""
        with output_errors_explained(self._place.out), self._place.writing():
            for study_key in being_printed(self._folder):
                remove_temporaries(report_folder(self._place.out, study_key))
                if study_key in self.done:
                    end_printing(self._folder, study_key)

    def append(self, study: FinishedStudy) -> None:
        """Record a study; whoever works for another session by now records nothing.

        Raises:
            OutputNotWritable: it cannot be written, or somebody else holds the shard.
        """
        line = to_json(Entry(study, read_intent(self._folder, study.study_key))) + "\n"
        with output_errors_explained(self._folder), self._place.writing():
            left = memoryview(line.encode("ascii"))
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
            self.done.add(study.study_key)
            end_printing(self._folder, study.study_key)


def read_journal(folder: Path) -> Iterator[Entry]:
    """Yield what is done in a shard, also while somebody works on it.

    Raises:
        UsageError: a line is damaged.
    """
    return _lines(folder, Entry)


def count_done(folder: Path) -> int:
    """Return how many studies of a shard are done with."""
    try:
        with (folder / FINISHED_FILE).open("rb") as file:
            return sum(content.count(b"\n") for content in iter(lambda: file.read(_READ_BYTES), b""))
    except FileNotFoundError:
        return 0


def _lines(folder: Path, kind: type[Line]) -> Iterator[Line]:
    path = folder / FINISHED_FILE
    if not path.exists():
        return
    with path.open(encoding="ascii") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield from_json(line, kind)
            except ValueError as error:
                raise UsageError(
                    f"{path}: line {number} is damaged ({error}). Remove that line, and work on the shard again."
                ) from error


def _end_of_lines(descriptor: int) -> int:
    """Return where the last whole line ends."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - _READ_BYTES)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
