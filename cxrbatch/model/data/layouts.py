"""Reading labelled data, whichever of the three layouts it has. Start at `read_data`.

Class folders and NIH ChestX-ray14 are read here, tables in `table_layout`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.intake.discover import walk
from cxrbatch.model.data.image_facts import PatientFinder, age_of, describe_dicom, sex_of, source_of, split_of, view_of
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.labels import choose_labels, is_normal_name, join_findings, one_hot, read_cells, shorten
from cxrbatch.model.data.options import DataOptions, Layout
from cxrbatch.model.data.table_layout import TABLE, find_tables, read_csv
from cxrbatch.pages.retelling import kept

# The corrected table of 2020 first: where both are there, it is the better one.
TABLES = tuple(f"Data_Entry_2017{version}.csv{packed}" for version in ("_v2020", "") for packed in ("", ".gz"))
TRAIN_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"

_NAME, _FINDINGS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
_AGES, _SEXES, _VIEW = ("Patient Age",), ("Patient Sex", "Patient Gender"), "View Position"


def read_data(data: Path, options: DataOptions) -> LabelledImages:
    """Read labelled images and choose their labels; splits are those that the data brings along, if any.

    Args:
        data: a folder, or the table of one.
        options: the layout, if it shall not be detected, and the labels.

    Raises:
        UsageError: it cannot be read; what is missing or wrong is named.
    """
    if not data.exists():
        raise UsageError(f"{data}: no such folder or table.")
    readers = {"nih": read_nih, "folders": read_folders, "csv": read_csv}
    images = choose_labels(readers[options.layout or detect_layout(data)](data, options), options)
    _require_images_once(images)
    return images


def detect_layout(data: Path) -> Layout:
    """Tell how data lies on disk.

    A labels.csv decides for the CSV layout; else the NIH table for NIH's; else a table per part for CSV;
    else folders are classes. A single table is NIH's if it has its columns.

    Raises:
        UsageError: none of them fits.
    """
    if data.is_file():
        return "nih" if _is_nih_table(data) else "csv"
    if (data / TABLE).is_file():
        return "csv"
    if find_table(data):
        return "nih"
    if find_tables(data):
        return "csv"
    if has_class_folders(data):
        return "folders"
    raise UsageError(
        f"{data}: no known layout. Expected a {TABLE}, the NIH table Data_Entry_2017_v2020.csv, or a folder per class."
    )


def _is_nih_table(table: Path) -> bool:
    return find_table(table) is not None or {"Image Index", "Finding Labels"} <= set(read_cells(table).columns)


def _require_images_once(images: LabelledImages) -> None:
    if not images.samples:
        raise UsageError(f"{images.root}: no image is left for {', '.join(images.labels)}. {' '.join(images.notes)}")
    counts = Counter(sample.path for sample in images.samples)
    if doubled := [str(path) for path, count in counts.items() if count > 1]:
        raise UsageError(f"{images.root}: listed more than once: {shorten(doubled)}. Keep one row for each image.")


# --------------------------------------------------------------------------- class folders


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
        group = finder.find_group(path)
        yield Sample(path, each.split, (), patient_id=patient, source=source_of(path, each.folder), group=group)


def _folders(folder: Path) -> list[Path]:
    """Return the visible folders of a folder, also linked ones, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _notes(data: Path, folders: list[_ClassFolder], skipped: int) -> tuple[str, ...]:
    used = {each.folder.parent if each.split else each.folder for each in folders}
    others = [folder.name for folder in _folders(data) if folder not in used]
    notes = (
        [kept("Folders left out beside train, val and test: {names}.").format(names=shorten(others))] if others else []
    )
    return (
        (*notes, kept("{count} files left out that are no frontal images.").format(count=skipped))
        if skipped
        else tuple(notes)
    )


# --------------------------------------------------------------------------- NIH ChestX-ray14 (Wang et al. 2017)


def find_table(data: Path) -> Path | None:
    """Return the NIH table that DATA is or holds."""
    if not data.is_dir():
        return data if data.name in TABLES else None
    return next((data / name for name in TABLES if (data / name).is_file()), None)


def read_nih(data: Path, options: DataOptions) -> LabelledImages:
    """Read the official table for those images that are there.

    With both official lists beside it, their patients stay apart: test is theirs, train and val are cut
    from train_val.

    Raises:
        UsageError: table or images are missing, or a row makes no sense.
    """
    del options
    table = find_table(data) or (data if data.is_file() else None)
    if table is None:
        raise UsageError(f"{data}: holds no NIH table ({', '.join(TABLES)}). Put it beside the images.")
    samples, listed, labels = _read_samples(table)
    if not samples:
        raise UsageError(
            f"{table.parent}: none of the {listed} images of {table.name} is there; they are looked for in the folder "
            f"itself and in folders such as images or images_001/images."
        )
    few = kept("{count} of the {listed} images of {file} are there.")
    note = few.format(count=len(samples), listed=listed, file=table.name) if len(samples) < listed else ""
    return LabelledImages(
        table.parent, labels, tuple(samples), task="multilabel", layout="nih", notes=(note,) if note else ()
    )


def _read_samples(table: Path) -> tuple[list[Sample], int, tuple[str, ...]]:
    """Return the images that are there, how many the table lists, and the names of all its findings."""
    cells = read_cells(table)
    if missing := [name for name in (_NAME, _FINDINGS, _PATIENT) if name not in cells.columns]:
        raise UsageError(f"{table}: has no column {', '.join(missing)}, so it is not the NIH table.")
    labels, targets = join_findings(list(cells[_FINDINGS]))
    images, splits = _index_images(table.parent), _read_lists(table.parent)

    def column(*names: str) -> list[str]:
        return next((list(cells[name]) for name in names if name in cells.columns), [""] * len(cells))

    rows = zip(
        cells[_NAME], cells[_PATIENT], column(*_AGES), column(*_SEXES), column(_VIEW), targets.tolist(), strict=True
    )
    samples = [
        Sample(
            path=path,
            split=splits.get(name, "") if splits else "",
            targets=tuple(target),
            patient_id=patient,
            age=age_of(age),
            sex=sex_of(sex),
            view=view_of(view),
            source=source_of(path, table.parent),
        )
        for name, patient, age, sex, view, target in rows
        if (path := images.get(name)) is not None
    ]
    _require_listed(table.parent, samples, splits)
    return samples, len(cells), labels


def _index_images(root: Path) -> dict[str, Path]:
    """Return where each image lies, by name: in the root, in a folder of it, or in that one's folder images."""
    folders = [root, *_folders(root)]
    folders += [nested for folder in folders[1:] if (nested := folder / "images").is_dir()]
    return {path.name: path for folder in reversed(folders) for path in folder.iterdir() if path.suffix == ".png"}


def _read_lists(root: Path) -> dict[str, str]:
    """Return the part of each image in the official lists; empty unless both are there."""
    if not ((root / TRAIN_LIST).is_file() and (root / TEST_LIST).is_file()):
        return {}
    parts = dict.fromkeys((root / TRAIN_LIST).read_text().split(), "train")
    return parts | dict.fromkeys((root / TEST_LIST).read_text().split(), "test")


def _require_listed(root: Path, samples: list[Sample], splits: dict[str, str]) -> None:
    unlisted = [sample.path.name for sample in samples if not sample.split]
    if splits and unlisted:
        raise UsageError(
            f"{root}: {len(unlisted)} images, such as {unlisted[0]}, are in neither {TRAIN_LIST} nor {TEST_LIST}. "
            f"Complete the lists, or take both away to have the images split anew."
        )
