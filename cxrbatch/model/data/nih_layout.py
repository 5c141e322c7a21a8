"""The layout of NIH ChestX-ray14 (Wang et al. 2017): its own table beside all or a few of its images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.model.data.image_facts import age_of, sex_of, source_of, view_of
from cxrbatch.model.data.label_choice import join_findings
from cxrbatch.model.data.label_table import read_cells
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.options import DataOptions

# The corrected table of 2020 first: where both are there, it is the better one.
TABLES = tuple(f"Data_Entry_2017{version}.csv{packed}" for version in ("_v2020", "") for packed in ("", ".gz"))
TRAIN_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"

_NAME, _FINDINGS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
_AGES, _SEXES, _VIEW = ("Patient Age",), ("Patient Sex", "Patient Gender"), "View Position"


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
    note = f"{len(samples)} of the {listed} images of {table.name} are there." if len(samples) < listed else ""
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
    """Return where each file lies, by name: in the root, in a folder of it, or in that one's folder images."""
    folders = [root, *_folders(root)]
    folders += [nested for folder in folders[1:] if (nested := folder / "images").is_dir()]
    return {path.name: path for folder in reversed(folders) for path in folder.iterdir() if path.suffix == ".png"}


def _folders(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))


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
