"""Finding the files of an input folder, and the study that each belongs to. Start at `walk` and `index_file`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from cxrbatch.config import LOG_FILE, MARKER_FILE, GroupBy, Settings
from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.kind import Kind
from cxrbatch.records import Header, ImageFile, IndexedFile, Rejection, storable_ns

UNFINISHED_SUFFIXES = (".tmp", ".part")
LOCK_FILE = ".lock"
# MIMIC-CXR: p10/p10000032/s50414267/<image>; the folder of a study is named after it.
_MIMIC_STUDY = re.compile(r"(?:^|/)s\d{8}/[^/]+$")
# As PS3.5 section 9.1 spells one, roughly: real ones have been hashed as they are from the beginning.
_UID = re.compile("[0-9.]{1,64}")
# What every output folder holds and nothing else does: its pictures are no radiographs to score. Names alone prove
# nothing, for whoever fills INPUT may give them to empty files; the marker has to say which output folder it is.
OUTPUT_FOLDER_ID = "output_id"
_LARGEST_MARKER = 64 * 1024


def walk(
    root: Path,
    *,
    exclude: Path | None = None,
    on_error: Callable[[OSError], None] | None = None,
    on_hidden: Callable[[Path], None] | None = None,
) -> Iterator[ImageFile]:
    """Yield every regular file below `root`, folder by folder, sorted by name; memory is that of one folder.

    Not met: hidden files and folders, files still being copied (.tmp, .part), DICOMDIR, linked folders,
    links that lead nowhere or in a circle, FIFOs, sockets, devices, and output folders of cxrbatch. A link to
    a file is met; where it leads is `index_file`'s question. A folder that holds a `.lock` file is being written
    by another program, as mercure does, and is passed over until it is gone.

    Args:
        root: the input folder.
        exclude: a folder below it that is left out, such as the output folder.
        on_error: told of every folder below `root` that cannot be listed now or is locked.
        on_hidden: told of every folder below `root` that is left out, with all below it, as an output folder.

    Raises:
        OSError: `root` itself cannot be listed.
    """
    base = root.resolve()
    excluded = str(exclude.resolve()) if exclude is not None else None
    pending = [str(base)]
    while pending:
        folder = pending.pop()
        try:
            entries = _list_sorted(folder)
            if folder != str(base) and is_output_folder(Path(folder)):
                if on_hidden is not None:
                    on_hidden(Path(folder))
                continue
        except OSError as error:
            if folder == str(base) and not isinstance(error, BlockingIOError):
                raise
            if on_error is not None:
                on_error(error)
            continue
        folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        pending.extend(path for path in reversed(folders) if path != excluded)
        # Once per folder: os.path.relpath for every file would be a quarter of a rescan of 200,000.
        within = "" if folder == str(base) else os.path.relpath(folder, base).replace(os.sep, "/") + "/"
        yield from (found for entry in entries if (found := _describe(entry, str(base), within)) is not None)


def describe_file(path: Path) -> Iterator[ImageFile]:
    """Yield a file that was named by itself, as if its folder held nothing else; nothing where it is gone.

    Raises:
        OSError: it cannot be looked at now.
    """
    with suppress(FileNotFoundError):
        status = path.stat()
        if S_ISREG(status.st_mode):
            yield ImageFile(path.name, status.st_size, storable_ns(status.st_mtime_ns))


def index_file(root: Path, file: ImageFile, settings: Settings) -> IndexedFile:
    """Tell from a file's header which study it belongs to and whether it is refused already.

    Raises:
        OSError: the file cannot be read now (no permission, vanished, a share that is gone): defer it, for
            that says nothing about its content. Whatever its content is, nothing else is raised.
    """
    # Decoders and pydicom are for the worker that reads; the process that walks every folder in every run needs none.
    from cxrbatch.intake.read import inspect_file

    path = root / file.path
    if path.is_symlink() and not _leads_inside(str(path), os.path.realpath(root)):
        return _refused(file, ImageRejected(Reason.UNSAFE_PATH, "a link that leads out of the input folder"))
    try:
        kind, inspection = inspect_file(path, settings)
    except ImageRejected as rejected:
        return _refused(file, rejected)
    if inspection.rejection is not None and inspection.rejection.reason is Reason.OWN_OUTPUT:
        # Of no study: to the one that it was made of it would be news, and a new revision, which makes new objects.
        return IndexedFile(file, "", inspection.header, inspection.flags, inspection.rejection)
    if kind is Kind.DICOM:
        key = study_key(inspection.header.study_instance_uid)
    else:
        key = picture_study_key(file.path, settings.group_by)
    return IndexedFile(file, key, inspection.header, inspection.flags, inspection.rejection)


def study_key(study_instance_uid: str) -> str:
    """Return the name that a study has in reports and tables: 16 hex digits, safe in a path, nobody's identity.

    No two identities are hashed as the same bytes, of whichever kind they are: a UID is digits and dots, and all
    else begins with a word for its kind and a zero byte, which neither UIDs nor paths hold.
    """
    is_uid = _UID.fullmatch(study_instance_uid) is not None
    return _hashed(study_instance_uid) if is_uid else _hashed(f"uid\0{study_instance_uid}")


def picture_study_key(path: str, group_by: GroupBy) -> str:
    """Return the same for a picture. A file and a folder of one name, which are there at two times, are two studies."""
    identity = raster_identity(path, group_by)
    return _hashed(f"{'path' if identity == path else 'folder'}\0{identity}")


def raster_identity(path: str, group_by: GroupBy) -> str:
    """Return what stands for a Study Instance UID in a file that has none: its path, or its folder's.

    The images of a study folder of MIMIC-CXR are one study either way.
    """
    return path if group_by == "file" and not _MIMIC_STUDY.search(path) else str(PurePosixPath(path).parent)


def _hashed(identity: str) -> str:
    # Text of a header may hold surrogates that no file name decodes to.
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_output_folder(folder: Path) -> bool:
    """Tell whether cxrbatch wrote this folder: it has a log, and a marker that says which output folder it is.

    Raises:
        OSError: the marker cannot be read now.
    """
    marker = folder / MARKER_FILE
    # What is no file, such as a FIFO that nobody writes to, is no marker.
    if not (folder / LOG_FILE).exists() or not marker.is_file():
        return False
    with marker.open("rb") as stream:
        return _names_an_output_folder(stream.read(_LARGEST_MARKER))


def _names_an_output_folder(marker: bytes) -> bool:
    try:
        said = json.loads(marker)
    except (ValueError, RecursionError):
        return False
    identity = said.get(OUTPUT_FOLDER_ID) if isinstance(said, dict) else None
    return isinstance(identity, str) and re.fullmatch("[0-9a-f]{16}", identity) is not None


def _refused(file: ImageFile, rejected: ImageRejected) -> IndexedFile:
    return IndexedFile(file, "", Header(), rejection=Rejection(rejected.reason, rejected.message))


def _list_sorted(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    if any(entry.name == LOCK_FILE for entry in entries):
        raise BlockingIOError(errno.EBUSY, f"being written by another program ({LOCK_FILE})", folder)
    return [entry for entry in entries if not entry.name.startswith(".")]


def _describe(entry: os.DirEntry[str], base: str, within: str) -> ImageFile | None:
    """Return the file behind an entry; None for what is not one, is not finished, or vanished meanwhile.

    `within` is the path of its folder below `base`, with a slash at the end.
    """
    if entry.name.upper() == "DICOMDIR" or entry.name.lower().endswith(UNFINISHED_SUFFIXES):
        return None
    try:
        if entry.is_dir():
            return None
        # A link that leads out of the tree is described as itself, and refused by index_file.
        if entry.is_symlink() and not _leads_inside(entry.path, base):
            status = entry.stat(follow_symlinks=False)
        elif not S_ISREG((status := entry.stat()).st_mode):
            return None
    except OSError:
        return None
    return ImageFile(within + entry.name, status.st_size, storable_ns(status.st_mtime_ns))


def _leads_inside(path: str, base: str) -> bool:
    return os.path.realpath(path).startswith(base.rstrip(os.sep) + os.sep)
