"""Finding the files of an input folder, and the study that each belongs to. Start at `walk` and `index_file`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from stat import S_ISREG

from cxrbatch.config import GroupBy, Settings
from cxrbatch.errors import ImageRejected, Reason
from cxrbatch.intake.folders import (
    LOCK_FILE,
    OUTPUT_FOLDER_ID,
    UNFINISHED_SUFFIXES,
    is_output_folder,
    leads_inside,
)
from cxrbatch.intake.kind import Kind
from cxrbatch.intake.walking import walk
from cxrbatch.records import Header, ImageFile, IndexedFile, Rejection, storable_ns

__all__ = ["LOCK_FILE", "OUTPUT_FOLDER_ID", "UNFINISHED_SUFFIXES", "is_output_folder", "walk"]

# MIMIC-CXR: p10/p10000032/s50414267/<image>; the folder of a study is named after it.
_MIMIC_STUDY = re.compile(r"(?:^|/)s\d{8}/[^/]+$")
# As PS3.5 section 9.1 spells one, roughly: real ones have been hashed as they are from the beginning.
_UID = re.compile("[0-9.]{1,64}")


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
    if path.is_symlink() and not leads_inside(str(path), os.path.realpath(root)):
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


def _refused(file: ImageFile, rejected: ImageRejected) -> IndexedFile:
    return IndexedFile(file, "", Header(), rejection=Rejection(rejected.reason, rejected.message))
