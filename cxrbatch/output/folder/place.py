"""Where an output folder and its ledger are: a run whose folder is moved, removed or replaced notices, and ends.

A path may come to mean something else while a run is at work: the folder is renamed, a share is unmounted, somebody
tidies up. What is written to the path then is lost, or lands in a folder of somebody else's. And the run itself may be
over, while somebody still works for it: then the folder is another run's (`fence`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.errors import OutputNotWritable
from cxrbatch.output.folder.fence import FENCE_FILE, inside_fence, raise_fence, token_of
from cxrbatch.output.folder.marker import HeldMarker
from cxrbatch.system.durable import close_for_good


@dataclass(frozen=True, slots=True)
class _Landmark:
    """A file or folder by name, and the device and inode that must lie there."""

    path: Path
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class NodeFence:
    """The fence of one node of a cluster, a file in OUT, and what it says as long as that node is counted on."""

    name: str
    token: str


@dataclass(frozen=True, slots=True)
class Place:
    """What a run found as it began, in a form that crosses to worker processes.

    `token` is what the fence says while the run lasts; '' where nobody holds the folder, as in a test.
    `session` is the folder that the fence lies in, and notes of what is being printed: `out`, but for a shard.
    `node`: who works for the run from another machine is kept out once it was given up.
    """

    out: Path
    landmarks: tuple[_Landmark, ...]
    token: str = ""
    session: Path | None = None
    node: NodeFence | None = None

    @property
    def notes(self) -> Path:
        """The folder for fence and notes."""
        return self.session or self.out

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write below OUT: within this block nobody else begins to.

        Raises:
            OutputNotWritable: something was moved, removed or replaced, or the run is over.
        """
        if not self.token:
            self.check()
            yield
            return
        with ExitStack() as stack:
            try:
                token = stack.enter_context(inside_fence(self.notes))
                given_up = self.node and stack.enter_context(inside_fence(self.out, self.node.name)) != self.node.token
            except OSError as error:
                raise self._fence_is_gone(error) from error
            self._refuse_other("" if given_up else token)
            self._check_landmarks()
            yield

    def check(self) -> None:
        """Look whether everything still lies where it was, and is this run's.

        Raises:
            OutputNotWritable: something was moved, removed or replaced, or the run is over.
        """
        self._check_landmarks()
        if self.token:
            try:
                self._refuse_other(token_of(self.notes))
            except OSError as error:
                raise self._fence_is_gone(error) from error

    def _refuse_other(self, token: str) -> None:
        if token != self.token:
            raise OutputNotWritable(
                f"{self.out}: another run holds it by now, or this process was given up by its own: it is no longer to "
                "write there. Nothing more is written; others do what was left to do."
            )

    def _fence_is_gone(self, error: OSError) -> OutputNotWritable:
        return _moved(self.out, self.notes / FENCE_FILE, f"is gone ({error.strerror})")

    def _check_landmarks(self) -> None:
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

    def raise_fence(self, session: Path | None = None) -> None:
        """Begin to work in the folder, alone: whoever worked for an earlier run writes no more.

        Args:
            session: the folder of a shard, whose worker keeps out those of the same shard only.
        """
        self.place = replace(self.place, token=raise_fence(session or self.out), session=session)

    def __enter__(self) -> HeldOutput:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            close_for_good(descriptor)
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
            self.place = replace(self.place, landmarks=(*self.place.landmarks, mark))

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
