"""INPUT and OUT: which files are meant, and whether the two can belong together. Start at `check_folders`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.intake.discover import is_output_folder
from cxrbatch.output.folder.marker import hash_of_folder
from cxrbatch.output.folder.opening import output_errors_explained
from cxrbatch.output.ledger.ledger import INPUT, INPUT_SHA256, Ledger


@dataclass(frozen=True, slots=True)
class Source:
    """The files of INPUT: all below `folder`, or `only` the one of that name in it. Paths of rows begin at `folder`."""

    folder: Path
    only: str = ""


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
    with output_errors_explained(out):
        ledger.home.check()
        ledger.home.marker.update(input_sha256=hash_of_folder(root))
