"""The CSV layout: a table with a row per image, in any of the usual spellings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.model.data.image_facts import (
    PatientFinder,
    age_of,
    describe_dicom,
    is_lateral,
    sex_of,
    source_of,
    split_of,
    view_of,
)
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.labels import (
    LabelTable,
    is_normal_name,
    join_findings,
    label_columns,
    one_hot,
    parse_labels,
    read_label_table,
    shorten,
)
from cxrbatch.model.data.options import DataOptions
from cxrbatch.pages.cells import restored
from cxrbatch.pages.retelling import kept
from cxrbatch.records import Float32, Task

TABLE = "labels.csv"
# CheXpert and its kind: a table per part, in one folder.
_TABLES_BY_PART = ("train.csv", "valid.csv", "val.csv", "calibration.csv", "test.csv")


def find_tables(data: Path) -> tuple[Path, ...]:
    """Return the tables of a CSV layout: the one named, labels.csv of the folder, or one per part."""
    if not data.is_dir():
        return (data,)
    if (data / TABLE).is_file():
        return (data / TABLE,)
    return tuple(path for name in _TABLES_BY_PART if (path := data / name).is_file())


def read_csv(data: Path, options: DataOptions) -> LabelledImages:
    """Read a table of labels, or those of a folder.

    Raises:
        UsageError: a table or an image is missing, or a value makes no sense.
    """
    if not (tables := find_tables(data)):
        raise UsageError(f"{data / TABLE}: not found; a data folder in CSV layout holds its labels there.")
    read = [_read_one(path, options, split_of(path.stem)) for path in tables]
    for path, images in zip(tables, read, strict=True):
        if images.labels != read[0].labels:
            raise UsageError(f"{path}: its labels differ from those of {tables[0]}. Give both the same columns.")
    samples = tuple(sample for images in read for sample in images.samples)
    return replace(read[0], samples=samples, notes=tuple(note for images in read for note in images.notes))


def _read_one(path: Path, options: DataOptions, part: str) -> LabelledImages:
    table = read_label_table(path)
    names, targets, task = _read_targets(table, options)
    listed = _read_rows(table, targets, PatientFinder(options.patient_pattern), part)
    frontal = [sample for sample in listed if not is_lateral(sample.view)]
    _require_files(path, frontal)
    samples = tuple(described for sample in frontal if (described := describe_dicom(sample)) is not None)
    return LabelledImages(
        root=path.parent,
        labels=names,
        samples=samples,
        task=task,
        normal_label=next((name for name in names if is_normal_name(name)), ""),
        layout="csv",
        notes=_note_laterals(path, len(listed) - len(samples)),
    )


def _read_targets(table: LabelTable, options: DataOptions) -> tuple[tuple[str, ...], Float32, Task]:
    """Return the labels' names, float32 [N,C] of 0, 1 and nan, and the kind of task."""
    named = [name for name in (*options.labels, options.binary) if name in table.candidates]
    if classes := _class_cells(table, named):
        return *one_hot(classes), "multiclass"
    if columns := tuple(dict.fromkeys([*_parseable(table, named), *named])):
        ordered = tuple(name for name in table.cells.columns if name in columns)
        return ordered, parse_labels(table, ordered, options.uncertain), "multilabel"
    if table.columns.findings or table.columns.classes:
        return *join_findings(table.texts(table.columns.findings or table.columns.classes)), "multilabel"
    raise UsageError(
        f"{table.path}: no column holds labels: columns of 0 and 1, or one of names such as "
        f"Finding Labels (separated by |) or class; there are {', '.join(table.cells.columns)}."
    )


def _parseable(table: LabelTable, named: list[str]) -> tuple[str, ...]:
    """Return the label columns. Where some were asked for by name, others with stray values are not looked at."""
    columns = label_columns(table)
    if not named:
        return columns
    return tuple(name for name in columns if name in named or _is_clean(table, name))


def _is_clean(table: LabelTable, name: str) -> bool:
    return bool(table.cells[name].isin(["", "0", "1", "-1", "0.0", "1.0", "-1.0"]).all())


def _class_cells(table: LabelTable, named: list[str]) -> list[str]:
    """Return the cells of a column that names one class per image; empty where there is none."""
    column = table.columns.classes
    if not column or column in named or column in label_columns(table):
        return []
    cells = table.texts(column)
    if any("|" in cell for cell in cells):
        return []
    if empty := [f"line {row + 2}" for row, cell in enumerate(cells) if not cell]:
        raise UsageError(f"{table.path}: column {column} is empty in {shorten(empty)}. Name a class in every row.")
    return cells


def _read_rows(table: LabelTable, targets: Float32, finder: PatientFinder, part: str) -> list[Sample]:
    columns, root = table.columns, table.path.parent
    paths = [_locate(name, root) for name in table.texts(columns.path)]
    splits = _read_splits(table) if columns.split else [part] * len(paths)
    return [
        Sample(
            path=path,
            split=split,
            targets=tuple(row),
            patient_id=patient or finder.find(path),
            age=age_of(age),
            sex=sex_of(sex),
            view=view,
            source=source_of(path, root),
            study=study,
            group=finder.find_group(path),
        )
        for path, split, row, patient, study, age, sex, view in zip(
            paths,
            splits,
            targets.tolist(),
            table.texts(columns.patient),
            table.texts(columns.study),
            table.texts(columns.age),
            table.texts(columns.sex),
            _views(table),
            strict=True,
        )
    ]


def _views(table: LabelTable) -> list[str]:
    """Return the view positions; a table that tells laterals apart in a column of its own has the last word."""
    frontal, views = table.texts(table.columns.frontal), table.texts(table.columns.view)
    return [
        view_of(side) if is_lateral(view_of(side)) else view_of(view) for side, view in zip(frontal, views, strict=True)
    ]


def _read_splits(table: LabelTable) -> list[str]:
    cells = table.texts(table.columns.split)
    splits = [split_of(cell) for cell in cells]
    unclear = sorted({cell for cell, split in zip(cells, splits, strict=True) if cell and not split})
    if unclear:
        raise UsageError(f"{table.path}: no part is called {shorten(unclear)}; use train, val, calibration or test.")
    if "" in splits and any(splits):
        empty = [f"line {row + 2}" for row, split in enumerate(splits) if not split]
        raise UsageError(f"{table.path}: column {table.columns.split} is empty in {shorten(empty)}. Fill all or none.")
    return splits


def _locate(name: str, root: Path) -> Path:
    """Return where an image lies; CheXpert's table names it from the folder above, by the data set's full name.

    A table that cxrbatch wrote names an odd path by what makes it inert (`cxrbatch.pages.cells`).
    """
    for written in dict.fromkeys((name, restored(name))):
        plain = Path(*Path(written).parts[1:])
        for path in (root / written, root.parent / written, root / plain):
            if written and _is_file(path):
                return path
    return root / name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a cell that is too long for a name
        return False


def _require_files(table: Path, samples: Sequence[Sample]) -> None:
    missing = [str(sample.path) for sample in samples if not _is_file(sample.path)]
    if missing:
        raise UsageError(
            f"{table}: {len(missing)} of {len(samples)} images are missing, such as {shorten(missing)}. "
            f"Paths are taken from the table's folder; bring the images there or take their rows out."
        )


def _note_laterals(path: Path, laterals: int) -> tuple[str, ...]:
    said = kept("{file}: {count} images left out that are not frontal.")
    return (said.format(file=path.name, count=laterals),) if laterals else ()
