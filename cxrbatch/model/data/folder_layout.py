"""The layout of class folders: a folder per class, in a folder per part or in one tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.intake.discover import walk
from cxrbatch.model.data.image_facts import PatientFinder, describe_dicom, source_of, split_of
from cxrbatch.model.data.label_choice import is_normal_name, one_hot
from cxrbatch.model.data.label_table import shorten
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.options import DataOptions


@dataclass(frozen=True, slots=True)
class _ClassFolder:
    folder: Path
    split: str


def read_folders(data: Path, options: DataOptions) -> LabelledImages:
    """Read a tree whose folders are classes, below folders train, val and test where there are such.

    The part of an image's path below its class folder says where it came from. Patients are taken from DICOM
    headers, or from file names where those tell.

    Raises:
        UsageError: there are no images, or of one class only.
    """
    folders = list(_class_folders(data))
    finder = PatientFinder(options.patient_pattern)
    read = [(each.folder.name, sample) for each in folders for sample in _read_images(each, finder)]
    images = [(name, described) for name, sample in read if (described := describe_dicom(sample)) is not None]
    if not images:
        raise UsageError(f"{data}: no folder holds images. Expected {data}/CLASS/… or {data}/train/CLASS/….")
    names, targets = one_hot([name for name, _ in images])
    if len(names) < 2:
        raise UsageError(f"{data}: holds images of one class only ({names[0]}); a second one is needed to learn from.")
    rows = zip(images, targets.tolist(), strict=True)
    samples = tuple(replace(sample, targets=tuple(row)) for (_, sample), row in rows)
    skipped = len(read) - len(images)
    return LabelledImages(
        root=data,
        labels=names,
        samples=samples,
        task="multiclass",
        normal_label=next((name for name in names if is_normal_name(name)), ""),
        layout="folders",
        notes=_notes(data, folders, skipped),
    )


def has_class_folders(data: Path) -> bool:
    """Tell whether a folder could be one: it holds at least two folders, or folders called train, val or test."""
    folders = _folders(data)
    return len(folders) >= 2 or any(split_of(folder.name) for folder in folders)


def _class_folders(data: Path) -> Iterator[_ClassFolder]:
    folders = _folders(data)
    parts = [folder for folder in folders if split_of(folder.name)]
    if not parts:
        yield from (_ClassFolder(folder, "") for folder in folders)
    for part in parts:
        yield from (_ClassFolder(folder, split_of(part.name)) for folder in _folders(part))


def _read_images(each: _ClassFolder, finder: PatientFinder) -> Iterator[Sample]:
    for file in walk(each.folder):
        path = each.folder / file.path
        patient = finder.find(path)
        yield Sample(path, each.split, (), patient_id=patient, source=source_of(path, each.folder))


def _folders(folder: Path) -> list[Path]:
    """Return the visible folders of a folder, also linked ones, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _notes(data: Path, folders: list[_ClassFolder], skipped: int) -> tuple[str, ...]:
    used = {each.folder.parent if each.split else each.folder for each in folders}
    others = [folder.name for folder in _folders(data) if folder not in used]
    notes = [f"Folders left out beside train, val and test: {shorten(others)}."] if others else []
    return (*notes, f"{skipped} files left out that are no frontal images.") if skipped else tuple(notes)
