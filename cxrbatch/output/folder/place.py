"""Where an output folder and its ledger are: a run whose folder is moved, removed or replaced notices, and ends.

A path may come to mean something else while a run is at work: the folder is renamed, a share is unmounted, somebody
tidies up. What is written to the path then is lost, or lands in a folder of somebody else's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import OutputNotWritable
from cxrbatch.output.folder.marker import HeldMarker


@dataclass(frozen=True, slots=True)
class _Landmark:
    """A file or folder by name, and the device and inode that must lie there."""

    path: Path
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Place:
    """What a run found as it began, in a form that crosses to worker processes."""

    out: Path
    landmarks: tuple[_Landmark, ...]

    def check(self) -> None:
        """Look whether everything still lies where it was.

        Raises:
            OutputNotWritable: something was moved, removed or replaced.
        """
        for mark in self.landmarks:
            try:
                status = mark.path.stat()
            except OSError as error:
                raise _moved(self.out, mark.path, f"is gone ({error.strerror})") from error
            if (status.st_dev, status.st_ino) != (mark.device, mark.inode):
                raise _moved(self.out, mark.path, "was replaced by another one")

    def is_same(self) -> bool:
        """Tell whether everything still lies where it was."""
        try:
            self.check()
        except OutputNotWritable:
            return False
        return True


class HeldOutput:
    """An output folder as the process that holds it knows it: where it lies, where its ledger does, what marks it.

    Its landmarks are kept open, so that no other file gets their inode.
    """

    def __init__(self, out: Path) -> None:
        self.out, self.marker = out, HeldMarker(out)
        self.state = out
        """The folder that the ledger and the lock lie in."""
        self._descriptors: list[int] = []
        self.place = Place(out, ())

    def __enter__(self) -> HeldOutput:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def add(self, *paths: Path) -> None:
        """Remember where these files or folders are, those that are not remembered yet."""
        for path in (path.absolute() for path in paths):
            if path in {mark.path for mark in self.place.landmarks}:
                continue
            # O_PATH: closing any other descriptor would drop the locks that SQLite has on its file.
            self._descriptors.append(os.open(path, os.O_PATH))
            status = os.fstat(self._descriptors[-1])
            mark = _Landmark(path, status.st_dev, status.st_ino)
            self.place = Place(self.out, (*self.place.landmarks, mark))

    @property
    def keeps_ledger_inside(self) -> bool:
        """Whether the ledger lies in the output folder itself."""
        return self.state.resolve() == self.out.resolve()

    def check(self) -> None:
        """Look whether everything still lies where it was; raises what `Place.check` does."""
        self.place.check()


def _moved(out: Path, path: Path, what: str) -> OutputNotWritable:
    return OutputNotWritable(
        f"{out}: {path} {what} while this run was at work: it was moved, removed or unmounted. Nothing more is "
        "written. Put it back where it was, or name the place where it is now, then run the same command again."
    )
