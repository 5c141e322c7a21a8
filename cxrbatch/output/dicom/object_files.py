"""Which DICOM objects lie in a report folder, whose they are, and which should: nothing is made or parsed in here.

Each object says in its file meta information which result it was made of, as reports do (PS3.10 7.1: Private
Information). That stays here: what is sent to a PACS leaves its file meta information behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cxrbatch.output.report.intent import result_mark
from cxrbatch.records import ImageResult, StudyResult
from cxrbatch.system.durable import keep_copy

DICOM_FOLDER = "dicom"
SR, OVERLAY, DOCUMENT = "sr.dcm", "overlay-{}.dcm", "report.dcm"
_MARK = re.compile(rb"cxrbatch-result ([0-9a-f]{32} [0-9T:+-]+)")
# Preamble and file meta information are well within this.
_MARK_WITHIN = 1024
_EARLIER = re.compile(r"sr-r(\d+)\.dcm")
# As PS3.5 9.1 spells one, but for leading zeros, which some equipment writes.
_UID = re.compile(r"\d+(\.\d+)+")
_LONGEST_UID = 64


def object_folder(folder: Path) -> Path:
    """Return where the objects of a report folder lie."""
    return folder / DICOM_FOLDER


def mark_of(result: StudyResult) -> bytes:
    """Return what ties an object to the result that it was made of, as it stands in the file."""
    return f"cxrbatch-result {result_mark(result)}".encode()


def is_object_of(path: Path, result: StudyResult) -> bool:
    """Tell whether an object is there and was made of this result."""
    try:
        with path.open("rb") as stream:
            return is_mark_of(stream.read(_MARK_WITHIN), result)
    except OSError:
        return False


def is_mark_of(content: bytes, result: StudyResult) -> bool:
    """Tell whether an object, or its beginning, says that it was made of this result."""
    found = _MARK.search(content[:_MARK_WITHIN])
    return found is not None and found[1] == result_mark(result).encode()


def referable_images(result: StudyResult) -> list[tuple[int, ImageResult]]:
    """Return the images that objects can refer to, with their numbers; none of PNG and JPEG, nor of de-identified ones.

    Each has UIDs of its study, series, instance and SOP class; of those that share an instance UID the first.
    """
    if result.deidentified:
        return []
    study, seen = result.header.study_instance_uid, set[str]()
    found = []
    for number, image in enumerate(result.images, start=1):
        header = image.header
        uids = (study, header.series_instance_uid, header.sop_instance_uid, header.sop_class_uid)
        if all(map(_is_uid, uids)) and header.sop_instance_uid not in seen:
            seen.add(header.sop_instance_uid)
            found.append((number, image))
    return found


def has_foreign_objects(folder: Path, result: StudyResult) -> bool:
    """Tell whether any object but those of earlier revisions is not of this result."""
    return not all(is_object_of(path, result) for path in _current(folder))


def objects_of(folder: Path, result: StudyResult) -> tuple[str, ...]:
    """Return the names of the objects in a report folder that are of this result."""
    return tuple(path.name for path in _current(folder) if is_object_of(path, result))


def current_objects(folder: Path) -> list[Path]:
    """Return the objects in a report folder, but those of earlier revisions."""
    return _current(folder)


def keep_earlier_object(folder: Path, revision: int) -> None:
    """Keep the structured report of an earlier revision under its own name: the next one says that it follows it."""
    objects = object_folder(folder)
    if (objects / SR).is_file():
        keep_copy(objects / SR, objects / f"sr-r{revision}.dcm")


def predecessor(folder: Path, *, revision: int, former: int | None) -> Path | None:
    """Return the structured report of the latest revision before `revision`; None where there is none.

    `former` is the revision that result.json says: until that is replaced, sr.dcm is of it.
    """
    objects = object_folder(folder)
    found = {number: path for number, path in _earlier(objects) if number < revision}
    if former is not None and former < revision and (objects / SR).is_file():
        found.setdefault(former, objects / SR)
    return found[max(found)] if found else None


def tidy_objects(folder: Path, keep: Iterable[str]) -> None:
    """Remove the objects that are not to be kept; those of earlier revisions stay."""
    kept = set(keep)
    for path in _current(folder):
        if path.name not in kept:
            path.unlink(missing_ok=True)
    _remove_if_empty(folder)


def remove_earlier_objects(folder: Path, *, since: int = 0) -> None:
    """Remove the kept structured reports of earlier revisions, from revision `since` on."""
    for number, path in _earlier(object_folder(folder)):
        if number >= since:
            path.unlink(missing_ok=True)
    _remove_if_empty(folder)


def _current(folder: Path) -> list[Path]:
    paths = sorted(object_folder(folder).glob("*.dcm"))
    return [path for path in paths if not _EARLIER.fullmatch(path.name)]


def _earlier(objects: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted(objects.glob("sr-r*.dcm")):
        if named := _EARLIER.fullmatch(path.name):
            yield int(named[1]), path


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        object_folder(folder).rmdir()


def _is_uid(text: str) -> bool:
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None
