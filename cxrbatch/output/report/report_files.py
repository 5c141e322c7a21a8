"""What lies in the report folder of a study: which file is what, whose it is, and whether it is whole.

Nothing is drawn or rendered in here. So whoever only looks after folders that are finished, as every run does first,
loads nothing that draws or renders. A picture's name ends in a hash of its content: see `pictures`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cxrbatch.errors import StudyFailed
from cxrbatch.output.dicom.object_files import remove_earlier_objects, tidy_objects
from cxrbatch.output.report.intent import STUDY_KEY, end_printing, read_intent, result_mark
from cxrbatch.records import PrintedStudy, StudyResult
from cxrbatch.system.faults import reach

REPORTS = "reports"
RESULT_JSON = "result.json"
REPORT_HTML = "report.html"
REPORT_PDF = "report.pdf"
EARLIER_REPORTS = "report-r*.pdf"
"""The PDFs of earlier revisions, which are kept beside the new one."""
COULD_NOT_PRINT = "the report could not be printed"
_MARKS = re.compile(rb"(?:<meta name=\"cxrbatch-result\" content=\"|/ID \[\()([0-9a-f]{32} [^\")]*)")
# The page's head and the PDF's trailer are well within this.
_MARK_WITHIN = 4096
_NAMED_BY_CONTENT = re.compile(
    r"(?:image-\d+|thumb-\d+|heatmap-\d+-[A-Za-z0-9_]+|maps-\d+|embedding-\d+)-(?P<hash>[0-9a-f]{12})\.(?:jpg|npy)"
)
_OF_RESULTS = {".jpg": ("image-", "thumb-", "heatmap-"), ".npy": ("maps-", "embedding-")}


def report_folder(out: Path, study_key: str) -> Path:
    """Return the folder that holds everything about one study."""
    return out / REPORTS / study_key


def report_folders(out: Path) -> Iterator[Path]:
    """Yield the folders of `out` that hold reports, in no order."""
    return (report_folder(out, name) for name in report_folder_names(out))


def report_folder_names(out: Path) -> Iterator[str]:
    """Yield the names of these folders, which are study keys; of a million, paths would take a minute."""
    with suppress(FileNotFoundError), os.scandir(out / REPORTS) as entries:
        for entry in entries:
            if STUDY_KEY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield entry.name


def is_report_of(report: Path, result: StudyResult) -> bool:
    """Tell whether report.html or report.pdf is there and was printed from this result.

    Those of earlier versions do not say; they are believed where the pictures are of an earlier version too.
    """
    try:
        content = report.read_bytes()
    except OSError:
        return False
    marks = _MARKS.findall(content[:_MARK_WITHIN] if report.suffix == ".html" else content[-_MARK_WITHIN:])
    if not marks:
        return not any(map(is_named_by_content, picture_names(result)))
    return result_mark(result).encode() in marks


def tidy_report(out: Path, printed: PrintedStudy) -> None:
    """Remove what is stale in a report folder, now that the ledger has this result.

    That is the pictures of an earlier revision, reports and objects that were not asked for, and, of a de-identified
    result, what may name the patient.
    """
    result = printed.result
    folder = report_folder(out, result.study_key)
    reach("tidy")
    if is_drawn(result):
        remove_stale_pictures(result, folder)
    for name, listed in ((REPORT_HTML, printed.report_html), (REPORT_PDF, printed.report_pdf)):
        if not listed:
            (folder / name).unlink(missing_ok=True)
    tidy_objects(folder, printed.dicom)
    intent = read_intent(out, result.study_key)
    if intent is not None and not intent.keeps_earlier:
        remove_earlier_reports(folder)
    end_printing(out, result.study_key)
    reach("tidied")


def remove_earlier_reports(folder: Path, *, since: int = 0) -> None:
    """Remove the kept reports of earlier revisions, from revision `since` on."""
    for report in folder.glob(EARLIER_REPORTS):
        number = report.stem.removeprefix("report-r")
        if number.isdecimal() and int(number) >= since:
            reach("earlier-remove")
            report.unlink(missing_ok=True)
            reach("earlier-removed")
    remove_earlier_objects(folder, since=since)


def picture_names(result: StudyResult) -> list[str]:
    """Return the file names of all pictures that the result names."""
    names = []
    for image in result.images:
        names += [image.image_file, image.thumbnail_file, *(heatmap.file for heatmap in image.heatmaps)]
    return [name for name in names if name]


def kept_names(result: StudyResult) -> list[str]:
    """Return the file names of all pictures and arrays that the result names."""
    arrays = (name for image in result.images for name in (image.maps_file, image.embedding_file))
    return [*picture_names(result), *filter(None, arrays)]


def is_drawn(result: StudyResult) -> bool:
    """Tell whether the result names what is to be kept of it: one that could not be printed lacks some."""
    has_pictures = not result.pictures or all(image.image_file for image in result.images)
    has_maps = not result.keeps_maps or all(image.maps_file for image in result.images)
    has_embeddings = not result.keeps_embeddings or all(image.embedding_file for image in result.images)
    return has_pictures and has_maps and has_embeddings


def named_by_content(name: str, content: bytes) -> str:
    """Return the name of a picture with a hash of its content: image-1.jpg becomes image-1-<12 hex digits>.jpg."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}{dot}{suffix}"


def is_named_by_content(name: str) -> bool:
    """Tell whether a picture's name has the hash of its content; those of earlier versions have none."""
    return _NAMED_BY_CONTENT.fullmatch(name) is not None


def read_pictures(result: StudyResult, folder: Path) -> dict[str, bytes]:
    """Read the pictures that an earlier run left for this result.

    Raises:
        StudyFailed: one is missing, or is not the one that was drawn for it; the study has to be run again.
    """
    names = picture_names(result)
    if not result.pictures:
        raise StudyFailed(without_pictures(result))
    if not is_drawn(result):
        raise StudyFailed(
            f"study {result.study_key}: its result names no pictures, so it was never printed. "
            "Run `cxrbatch run` on its input again."
        )
    return {name: read_kept(folder / name, result.study_key) for name in names}


def without_pictures(result: StudyResult) -> str:
    """Say of a result that is to have no pictures why it cannot be printed, and what to do."""
    return (
        f"study {result.study_key}: it was scored without pictures (--no-pictures), and a report shows them. "
        "Run `cxrbatch run` on its input again, without --no-pictures: it scores the study again, draws and prints it."
    )


def are_pictures_whole(result: StudyResult, folder: Path) -> bool:
    """Tell whether every picture and array of a printed result is in `folder`, with the content that it was made with.

    Nothing is missing of a result that is to have none.
    """
    try:
        if result.pictures:
            read_pictures(result, folder)
        for name in kept_names(result):
            if name.endswith(".npy"):
                read_kept(folder / name, result.study_key)
    except StudyFailed:
        return False
    return True


def remove_stale_pictures(result: StudyResult, folder: Path) -> None:
    """Remove the pictures of an earlier revision that the current result no longer names."""
    current = set(kept_names(result))
    with suppress(FileNotFoundError):
        for picture in folder.iterdir():
            name = picture.name
            if name not in current and name.startswith(_OF_RESULTS.get(picture.suffix, ())):
                reach("stale-remove")
                picture.unlink(missing_ok=True)
                reach("stale-removed")


def read_kept(path: Path, study_key: str) -> bytes:
    """Read one picture or array of a study.

    Raises:
        StudyFailed: it is missing, or is not the one that the result names.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StudyFailed(
            f"study {study_key}: the picture {path.name} is missing or unreadable ({error.strerror}). "
            "Run `cxrbatch run` on its input again: it draws the pictures anew."
        ) from error
    named = _NAMED_BY_CONTENT.fullmatch(path.name)
    if named and not hashlib.sha256(content).hexdigest().startswith(named["hash"]):
        raise StudyFailed(
            f"study {study_key}: {path.name} is not the picture that was drawn for its scores; it was changed or "
            "exchanged. Nothing is printed of it. Remove it, then run `cxrbatch run` on its input again."
        )
    return content
