"""What two evaluations said of the very same images: predictions.csv read back, and set beside each other."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbatch.errors import UsageError
from cxrbatch.model.evaluate.report import PREDICTIONS_CSV
from cxrbatch.model.figures.figures import number_patients
from cxrbatch.model.figures.intervals import Patients
from cxrbatch.pages.cells import restored
from cxrbatch.records import Float32

_KNOWN = "patient:"
_TARGET, _PROBABILITY, _CALL = "target_", "prob_", "positive_"


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one evaluation said of its N images: by label `targets`, `probabilities`, float32 [N,C], nan where unknown.

    `images` and `patients` are keys as the table has them; `calls`, float32 [N,C], is 1 or 0, nan without a verdict.
    """

    images: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str, ...]
    targets: Float32
    probabilities: Float32
    calls: Float32


@dataclass(frozen=True, slots=True)
class SharedImages:
    """The N images that two evaluations share, in one order, and the C labels that both judged.

    `targets`, float32 [N,C], is nan where one of them does not know, or both contradict each other, which happened
    `contradictions` times. `probabilities` and `calls` are those of the first and the second. `patients`, int64 [N],
    numbers them, `patient_keys` names them. `only_first` and `only_second` count the images that were left out.
    """

    labels: tuple[str, ...]
    targets: Float32
    probabilities: tuple[Float32, Float32]
    calls: tuple[Float32, Float32]
    patient_keys: tuple[str, ...]
    patients: Patients
    only_first: int
    only_second: int
    contradictions: int

    @property
    def known_patients(self) -> frozenset[str]:
        """The keys of the patients who are known."""
        return frozenset(filter(_is_known, self.patient_keys))

    @property
    def of_unknown(self) -> int:
        """How many images are of nobody knows whom."""
        return sum(not _is_known(key) for key in self.patient_keys)


def read_predictions(folder: Path) -> Predictions | None:
    """Read the table that `cxrbatch evaluate` left in a folder; None where it is gone.

    Raises:
        UsageError: it cannot be read.
    """
    place = folder / PREDICTIONS_CSV
    if not place.is_file():
        return None
    try:
        with place.open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["status"] == "scored"]
        return _as_predictions(rows)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(
            f"{place}: damaged, or not what evaluate wrote ({type(error).__name__}: {error}). "
            f"Evaluate again: cxrbatch evaluate MODEL DATA -o {folder}"
        ) from None


def _as_predictions(rows: Sequence[dict[str, str]]) -> Predictions:
    columns = [column for column in (rows[0] if rows else ()) if column.startswith(_TARGET)]
    cells = [restored(column).removeprefix(_TARGET) for column in columns]

    def read(kind: str) -> Float32:
        names = [kind + column.removeprefix(_TARGET) for column in columns]
        values = [[float(row[name]) if row[name] else np.nan for name in names] for row in rows]
        return np.array(values, np.float32).reshape(len(rows), len(names))

    return Predictions(
        images=tuple(row["path"] for row in rows),
        patients=tuple(_patient(row) for row in rows),
        labels=tuple(cells),
        targets=read(_TARGET),
        probabilities=read(_PROBABILITY),
        calls=read(_CALL),
    )


def _patient(row: dict[str, str]) -> str:
    """Return who is on the image, as `Sample.patient` groups; tables of earlier versions have no column group."""
    if row["patient_id"]:
        return f"{_KNOWN}{row['patient_id']}"
    return f"group:{row['group']}" if row.get("group") else f"file:{row['path']}"


def _is_known(key: str) -> bool:
    return key.startswith(_KNOWN)


def share_images(first: Predictions, second: Predictions) -> SharedImages:
    """Set beside each other what both said of the same images: of one name below the data, and of one patient."""
    places = {key: at for at, key in enumerate(zip(second.images, second.patients, strict=True))}
    keys = list(zip(first.images, first.patients, strict=True))
    rows = np.array([at for at, key in enumerate(keys) if key in places], np.int64)
    others = np.array([places[keys[at]] for at in rows.tolist()], np.int64)
    labels = tuple(label for label in first.labels if label in second.labels)
    own, its = (np.array([each.labels.index(label) for label in labels], np.int64) for each in (first, second))
    targets, beside = _cut(first.targets, rows, own), _cut(second.targets, others, its)
    contradicts = np.abs(targets - beside) > 0
    keys_shared = tuple(first.patients[at] for at in rows.tolist())
    return SharedImages(
        labels=labels,
        targets=np.where(contradicts | np.isnan(beside), np.float32(np.nan), targets),
        probabilities=(_cut(first.probabilities, rows, own), _cut(second.probabilities, others, its)),
        calls=(_cut(first.calls, rows, own), _cut(second.calls, others, its)),
        patient_keys=keys_shared,
        patients=number_patients(keys_shared) if keys_shared else np.empty(0, np.int64),
        only_first=len(first.images) - len(rows),
        only_second=len(second.images) - len(rows),
        contradictions=int(contradicts.sum()),
    )


def _cut(values: Float32, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Float32:
    return values[rows][:, columns]
