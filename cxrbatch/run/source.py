"""INPUT: which files are meant, whether they can belong to OUT, and one walk over them.

Start at `check_folders`, which a run begins with, and at `Walk`, which tells the index what is new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cxrbatch.config import Settings
from cxrbatch.errors import UsageError
from cxrbatch.intake.discover import describe_file, is_output_folder, walk
from cxrbatch.intake.walking import MetFolder, WalkManner
from cxrbatch.output.folder.marker import hash_of_folder
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.ledger.folder_table import FolderTable
from cxrbatch.output.ledger.known import KnownFiles
from cxrbatch.output.ledger.ledger import INPUT, INPUT_SHA256, Ledger
from cxrbatch.records import ImageFile
from cxrbatch.run.deidentification import Pseudonyms
from cxrbatch.system.stopping import stop_if_asked

# So many files are compared with what the ledger knows at once: one by one that would cost more than to meet them.
_COMPARED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Source:
    """The files of INPUT: all below `folder`, or `only` the one of that name in it. Paths of rows begin at `folder`."""

    folder: Path
    only: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: these files, into `out`, with these settings, and with `pseudonyms` where no name may stay."""

    source: Source
    out: Path
    settings: Settings
    pseudonyms: Pseudonyms | None = None


def check_folders(root: Path, out: Path, state: str = "") -> Source:
    """Refuse an INPUT whose files would be changed by the run, or that holds results; return which files it means.

    Raises:
        UsageError: it is refused, or is neither a folder nor a file.
    """
    resolved, target = root.resolve(), out.resolve()
    try:
        source = _source(root)
        holds_results = is_output_folder(source.folder.resolve())
    except OSError as error:
        raise UsageError(f"{root}: cannot be looked at ({error.strerror}). Check that it is readable.") from error
    if resolved == target or target in resolved.parents:
        raise UsageError(f"{out}: results cannot go where the images lie, or above them. Choose another output folder.")
    if state and _holds(source, Path(state).resolve()) and Path(state).resolve() != target:
        raise UsageError(f"{state}: the ledger cannot lie where the images are. Choose a --state outside {root}.")
    if holds_results:
        raise UsageError(f"{root}: an output folder of cxrbatch; its pictures are no images to score.")
    return source


def _source(root: Path) -> Source:
    """Tell a folder, which may be gone for now as a share is, from a single file, which is found where a link leads."""
    if root.is_file():
        return Source(root.resolve().parent, root.resolve().name)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: neither a folder nor a file.")
    return Source(root)


def _holds(source: Source, place: Path) -> bool:
    """Tell whether a folder lies where images are looked for; beside a single file that is the file's own folder."""
    folder = source.folder.resolve()
    return folder == place or (not source.only and folder in place.parents)


def refuse_other_input(ledger: Ledger, root: Path) -> None:
    """Refuse a second INPUT: the same relative path would mean two files.

    Raises:
        UsageError: the ledger is that of another one.
    """
    claimed = ledger.fact(INPUT)
    # A repaired ledger knows its input by hash only.
    if (claimed and claimed != str(root.resolve())) or ledger.fact(INPUT_SHA256) not in {"", hash_of_folder(root)}:
        whose = claimed or "another input folder"
        raise UsageError(f"this output folder holds the results of {whose}. Choose another output folder for {root}.")


def claim_input(ledger: Ledger, root: Path, out: Path) -> None:
    """Let ledger and marker know whose results these are; raises what `refuse_other_input` does."""
    refuse_other_input(ledger, root)
    ledger.remember(INPUT, str(root.resolve()))
    with output_errors_explained(out, ledger.home):
        ledger.home.check()
        ledger.home.marker.update(input_sha256=hash_of_folder(root))


@dataclass(slots=True)
class Postponed:
    """Files whose headers could not be read, for whoever looks at the input every few seconds: not tried each time.

    What counts as a run there is one try in `retry_s`. A file that changed is tried at once.
    """

    retry_s: float
    clock: Callable[[], float] = time.monotonic
    _tried: dict[str, tuple[ImageFile, float]] = field(default_factory=dict)

    def note(self, file: ImageFile) -> None:
        """Note that this file was tried now."""
        self._tried[file.path] = (file, self.clock())

    def holds(self, file: ImageFile) -> bool:
        """Tell whether the file was tried too short a time ago."""
        tried, at = self._tried.get(file.path, (None, 0.0))
        if tried == file and self.clock() - at < self.retry_s:
            return True
        self._tried.pop(file.path, None)
        return False


class Walk:
    """One walk over the input, compared with what the ledger knows; `on_met` is told of how many more files."""

    def __init__(
        self,
        order: Order,
        known: KnownFiles,
        *,
        folders: FolderTable | None = None,
        postponed: Postponed | None = None,
        on_met: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._source, self._out, self._known = order.source, order.out, known
        self._folders, self._threads = folders, order.settings.walk_threads
        self._postponed, self._on_met = postponed, on_met
        self.met = self.new = self.unlistable = self.postponed = self.hidden = 0
        self.returned: list[str] = []
        self._hidden: list[str] = []

    def changed_files(self, *, reread: bool, reread_refused: bool) -> Iterator[ImageFile]:
        """Yield the files that are new or changed; on demand every file, or every refused one.

        What it meets, `known` knows from then on.

        Raises:
            UsageError: the input folder itself cannot be listed.
        """
        files = self._files()
        while some := list(islice(files, _COMPARED_AT_ONCE)):
            stop_if_asked()
            self.met += len(some)
            self._on_met(len(some))
            for file, known in self._known.meet(some, tell_refused=reread_refused, tell_all=reread):
                self.new += known is None
                if known is not None and self._postponed is not None and self._postponed.holds(file):
                    self.postponed += 1
                elif reread or known is None or not known.is_same or (reread_refused and known.refused):
                    yield file
                else:
                    self.returned.append(file.path)

    def gone(self) -> list[str]:
        """Return the files that were there at the last walk and were not met by this one.

        What lies in a folder that cannot be listed now, or that was left out, is hidden, not gone.
        """
        hidden = tuple(self._hidden)
        return [path for path in self._known.gone() if not path.startswith(hidden)]

    def refuse_emptied(self) -> None:
        """Refuse an input folder without any file where there were some: a share that is not mounted looks like that.

        Raises:
            UsageError: it is so.
        """
        gone = len(self.gone())
        if gone and not self.met and not self.unlistable:
            raise UsageError(
                f"{self._source.folder}: not one file is there; {gone} were when it was last looked at. "
                "Check that it is mounted. Nothing was changed. If it was emptied on purpose, say so: --input-emptied."
            )

    def _files(self) -> Iterator[ImageFile]:
        folder = self._source.folder
        try:
            if self._source.only:
                yield from describe_file(folder / self._source.only)
                return
            manner, on_error, on_hidden = self._manner(), self._note_unlistable, self._note_hidden
            yield from walk(folder, exclude=self._out, on_error=on_error, on_hidden=on_hidden, manner=manner)
        except OSError as error:
            raise UsageError(
                f"{folder}: cannot be listed ({error.strerror}). Check that it is mounted and readable."
            ) from error

    def _manner(self) -> WalkManner:
        if self._folders is None:
            return WalkManner(self._threads)
        return WalkManner(self._threads, self._folders.remembered, self._note_folder)

    def _note_folder(self, folder: MetFolder) -> None:
        assert self._folders is not None
        unseen = self._folders.meet(folder)
        self.met += unseen
        if unseen:
            stop_if_asked()
            self._on_met(unseen)

    def _note_unlistable(self, error: OSError) -> None:
        self.unlistable += 1
        self._hide(Path(str(error.filename or self._source.folder)))

    def _note_hidden(self, folder: Path) -> None:
        self.hidden += 1
        self._hide(folder)

    def _hide(self, folder: Path) -> None:
        root = self._source.folder.resolve()
        inside = folder.is_relative_to(root) and folder != root
        self._hidden.append(f"{folder.relative_to(root).as_posix()}/" if inside else "")
