"""Reading labelled data, whichever of the three layouts it has. Start at `read_data`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from cxrbatch.errors import UsageError
from cxrbatch.model.data.folder_layout import has_class_folders, read_folders
from cxrbatch.model.data.label_choice import choose_labels
from cxrbatch.model.data.label_table import read_cells, shorten
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.data.nih_layout import find_table, read_nih
from cxrbatch.model.data.options import DataOptions, Layout
from cxrbatch.model.data.table_layout import TABLE, find_tables, read_csv

_READERS: Mapping[Layout, Callable[[Path, DataOptions], LabelledImages]] = {
    "nih": read_nih,
    "folders": read_folders,
    "csv": read_csv,
}


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
    images = choose_labels(_READERS[options.layout or detect_layout(data)](data, options), options)
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
