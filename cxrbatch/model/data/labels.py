"""Labels: found in a table by the meaning of its columns, read from its cells, and chosen as a person wishes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrbatch.errors import UsageError
from cxrbatch.model.data.labelled import LabelledImages
from cxrbatch.model.data.options import DataOptions, Uncertain
from cxrbatch.pages.retelling import kept
from cxrbatch.records import Float32, Task

# By meaning, the names a column may have once its letters are small and its signs gone; the first found wins.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "path": ("path", "imageindex", "imagepath", "filepath", "filename", "file", "imagefile", "image", "imagename"),
    "patient": ("patientid", "patient", "subjectid", "subject", "pid"),
    "study": ("studyinstanceuid", "studyuid", "studyid", "study"),
    "split": ("split", "part", "partition", "subset", "set", "datasplit"),
    "view": ("view", "viewposition", "appa", "projection"),
    "frontal": ("frontallateral",),
    "sex": ("sex", "patientsex", "gender", "patientgender"),
    "age": ("age", "patientage", "ageyears"),
    "findings": ("findinglabels", "findings", "labels"),
    "classes": ("class", "label", "category", "diagnosis", "finding", "target"),
}
_NO_LABELS = frozenset({"followup", "studyid", "seriesid", "studydate", "studyinstanceuid", "dicomid", "study"})
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column means what; "" where the table has none."""

    path: str = ""
    patient: str = ""
    study: str = ""
    split: str = ""
    view: str = ""
    frontal: str = ""
    sex: str = ""
    age: str = ""
    findings: str = ""
    classes: str = ""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """One table: its cells as text, stripped, and which column means what."""

    path: Path
    cells: pd.DataFrame
    columns: Columns

    def texts(self, column: str) -> list[str]:
        """Return a column's cells; empty ones where the table has no such column."""
        return list(self.cells[column]) if column else [""] * len(self.cells)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The columns that may be labels: those that mean nothing else."""
        known = {getattr(self.columns, meaning) for meaning in _SYNONYMS if meaning != "classes"}
        return tuple(name for name in self.cells.columns if name not in known and _plain(name) not in _NO_LABELS)

    @property
    def leaves_unmentioned_empty(self) -> bool:
        """Whether an empty cell means absent. It does in CheXpert's tables, which are known by Frontal/Lateral.

        Their labels come from reports, and reports don't list what is not there (Irvin et al. 2019).
        """
        return bool(self.columns.frontal)


def read_label_table(path: Path) -> LabelTable:
    """Read a CSV table, gzipped or not.

    Raises:
        UsageError: it cannot be read, has no rows or no column of paths.
    """
    cells = read_cells(path)
    columns = _recognise(tuple(cells.columns))
    if not columns.path:
        raise UsageError(
            f"{path}: no column names the image files (one of {', '.join(_SYNONYMS['path'])}); "
            f"there are {', '.join(cells.columns)}."
        )
    return LabelTable(path, cells, columns)


def read_cells(path: Path) -> pd.DataFrame:
    """Return the table's cells as text, stripped.

    Raises:
        UsageError: it is missing, is no CSV or has no rows.
    """
    try:
        # index_col: the NIH table of 2017 has a comma after its last column.
        cells = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: not found; a data folder in CSV layout holds its labels there.") from None
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as CSV: {error}") from error
    if cells.empty:
        raise UsageError(f"{path}: has no rows.")
    named = [name for name in cells.columns if not name.startswith("Unnamed:")]
    stripped: pd.DataFrame = cells[named].apply(lambda column: column.str.strip())
    return stripped


def parse_labels(table: LabelTable, names: tuple[str, ...], uncertain: Uncertain) -> Float32:
    """Return what the label columns say.

    Args:
        table: the table.
        names: its label columns.
        uncertain: what -1 stands for.

    Returns:
        float32 [N,C]: 0, 1, or nan where not known.

    Raises:
        UsageError: a cell holds something else; named with its line.
    """
    numbers: Float32 = np.array(table.cells[list(names)].apply(pd.to_numeric, errors="coerce"), np.float32)
    empty = (table.cells[list(names)] == "").to_numpy()
    wrong = ~empty & ~np.isin(numbers, (-1.0, 0.0, 1.0))
    if wrong.any():
        raise UsageError(_describe_wrong(table, names, wrong))
    numbers[numbers == -1.0] = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}[uncertain]
    if table.leaves_unmentioned_empty:
        numbers[empty] = 0.0
    return numbers


def label_columns(table: LabelTable) -> tuple[str, ...]:
    """Return the columns that hold a label: at least one 0, 1 or -1, and anything else only by mistake."""
    return tuple(name for name in table.candidates if _may_be_label(table, table.cells[name]))


def _may_be_label(table: LabelTable, cells: pd.Series[str]) -> bool:
    some = bool(cells.isin(["0", "1", "-1", "0.0", "1.0", "-1.0"]).any())
    return some or (table.leaves_unmentioned_empty and bool((cells == "").all()))


def shorten(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _describe_wrong(table: LabelTable, names: tuple[str, ...], wrong: np.ndarray) -> str:
    places = [
        f"line {row + 2}, {names[column]}: {table.cells.iloc[row][names[column]]!r}"
        for row, column in np.argwhere(wrong)
    ]
    return (
        f"{table.path}: a label must be 0, 1, -1 (uncertain) or empty (not known): {shorten(places)}. "
        f"If such a column is no label, name those that are with --labels."
    )


def _recognise(names: tuple[str, ...]) -> Columns:
    plain = {_plain(name): name for name in reversed(names)}
    found = {
        meaning: next((plain[synonym] for synonym in synonyms if synonym in plain), "")
        for meaning, synonyms in _SYNONYMS.items()
    }
    return Columns(**found)


def _plain(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


ABNORMAL = "Abnormal"
NO_FINDING = "No Finding"
SEPARATOR = "|"

_NORMAL_NAMES = frozenset({"normal", "nofinding", "nofindings", "healthy", "negative"})


# --------------------------------------------------------------------------- choosing


def is_normal_name(name: str) -> bool:
    """Tell whether a label's or class's name means that nothing was found."""
    return "".join(sign for sign in name.casefold() if sign.isalnum()) in _NORMAL_NAMES


def join_findings(cells: Sequence[str]) -> tuple[tuple[str, ...], Float32]:
    """Read cells such as `Effusion|Mass` or `No Finding`.

    Returns:
        The findings' names, sorted, and float32 [N,C] of 0 and 1; nan in the row of an empty cell.
    """
    found = [[part.strip() for part in cell.split(SEPARATOR) if part.strip()] for cell in cells]
    names = tuple(sorted({name for row in found for name in row if not is_normal_name(name)}))
    column = {name: index for index, name in enumerate(names)}
    targets = np.zeros((len(cells), len(names)), np.float32)
    for target, row in zip(targets, found, strict=True):
        target[[column[name] for name in row if name in column]] = 1.0
        if not row:
            target[:] = np.nan
    return names, targets


def one_hot(classes: Sequence[str]) -> tuple[tuple[str, ...], Float32]:
    """Return the classes' names, sorted, and float32 [N,C] with one 1 a row."""
    names, indices = np.unique(np.array(classes, dtype=object).astype(str), return_inverse=True)
    return tuple(names.tolist()), np.eye(len(names), dtype=np.float32)[indices]


def choose_labels(images: LabelledImages, options: DataOptions) -> LabelledImages:
    """Pick and order the labels, or make them normal against abnormal; leave out images of which nothing is known.

    Without a wish, findings are all but "No Finding", and two classes of which one is normal become one
    label: the other. A "No Finding" that no column holds is what has no finding.

    Raises:
        UsageError: a label is unknown.
    """
    targets = np.array([sample.targets for sample in images.samples], np.float32).reshape(len(images.samples), -1)
    if options.binary:
        normal = _column(images, targets, options.binary)
        return _with_targets(images, (ABNORMAL,), 1.0 - normal[:, np.newaxis], "binary")
    names = options.labels or _usual_labels(images)
    chosen = np.stack([_column(images, targets, name) for name in names], axis=1)
    if images.task == "multiclass" and len(names) > 1:
        # An image of a class that was not asked for has no 1 left.
        chosen[chosen.sum(axis=1) == 0.0] = np.nan
        return _with_targets(images, names, chosen, "multiclass")
    return _with_targets(images, names, chosen, "binary" if len(names) == 1 else "multilabel")


def _usual_labels(images: LabelledImages) -> tuple[str, ...]:
    findings = tuple(name for name in images.labels if name != images.normal_label)
    if images.task == "multiclass" and len(findings) > 1:
        return images.labels
    return findings or images.labels


def _column(images: LabelledImages, targets: Float32, name: str) -> Float32:
    """Return one label's targets, float32 [N]."""
    if name in images.labels:
        column: Float32 = targets[:, images.labels.index(name)]
        return column
    if images.task == "multilabel" and is_normal_name(name):
        return _without_finding(targets)
    known = [*images.labels, *([NO_FINDING] if images.task == "multilabel" and not images.normal_label else [])]
    raise UsageError(f"{images.root}: there is no label {name}; there are {', '.join(known)}.")


def _without_finding(targets: Float32) -> Float32:
    """Return 1 where every finding is absent, 0 where one is present, nan where that is not known."""
    some, unclear = (targets == 1.0).any(axis=1), np.isnan(targets).any(axis=1)
    return np.where(some, 0.0, np.where(unclear, np.nan, 1.0)).astype(np.float32)


def _with_targets(images: LabelledImages, names: tuple[str, ...], targets: Float32, task: Task) -> LabelledImages:
    known = [not all(map(math.isnan, row)) for row in targets.tolist()]
    samples = tuple(
        replace(sample, targets=tuple(row))
        for sample, row, kept in zip(images.samples, targets.tolist(), known, strict=True)
        if kept
    )
    left_out = len(known) - len(samples)
    said = kept("{count} images left out: nothing is known of them on {names}.")
    note = (said.format(count=left_out, names=", ".join(names)),) if left_out else ()
    normal = next((name for name in names if is_normal_name(name)), "")
    return replace(images, labels=names, samples=samples, task=task, normal_label=normal, notes=images.notes + note)
