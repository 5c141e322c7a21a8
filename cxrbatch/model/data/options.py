"""What a person may say about labelled data: which labels, how uncertain ones count, how it is split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cxrbatch.errors import UsageError

Layout = Literal["nih", "folders", "csv"]
Uncertain = Literal["zeros", "ones", "ignore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """How data is read and split; the defaults suit data that comes with nothing but labels.

    `layout`: how the data lies on disk; "" finds out.
    `labels`: which findings or classes, in which order; empty takes all. Images of other classes are left out.
    `binary`: the finding or class that means normal. Everything else becomes the one label "Abnormal".
    `uncertain`: what -1 means (Irvin et al. 2019): absent, present, or not known.
    `patient_pattern`: a regular expression with one group that finds the patient in an image's path, where no
    table tells; "" knows the names of NIH, CheXpert and Kermany et al.
    `val_fraction`, `test_fraction`: parts of the images that a split of our own puts aside; a part that the
    data brings along stays as it is.
    `set_aside`: a part for calibration and operating points, likewise; 0 cuts none, and val chooses them.
    `folds`: how many times `load_folds` splits, each image being validated on once; 0 splits once.
    """

    layout: Layout | Literal[""] = ""
    labels: tuple[str, ...] = ()
    binary: str = ""
    uncertain: Uncertain = "ignore"
    patient_pattern: str = ""
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    set_aside: float = 0.0
    folds: int = 0
    seed: int = 0
    allow_leak: bool = False

    def __post_init__(self) -> None:
        _require(0.0 < self.val_fraction < 1.0, "val_fraction must lie between 0 and 1")
        _require(
            0.0 <= self.test_fraction < 1.0 - self.val_fraction, "val_fraction and test_fraction leave none to train on"
        )
        _require(
            0.0 <= self.set_aside < 1.0 - self.val_fraction - self.test_fraction,
            "set_aside, val_fraction and test_fraction leave none to train on",
        )
        _require(
            not (self.folds and self.set_aside),
            "folds calibrate on the images of all folds, so set_aside does not go with them",
        )
        _require(self.folds == 0 or self.folds >= 2, "folds must be at least 2, or 0 for one split")
        _require(
            not (self.folds and self.test_fraction),
            "folds validate on every image once, so test_fraction does not go with them",
        )
        _require(self.seed >= 0, "seed must not be negative")
        _require(not (self.labels and self.binary), "labels and binary exclude each other: binary makes one label")
        _require(len(set(self.labels)) == len(self.labels), "labels names a label twice")
        require_patient_pattern(self.patient_pattern)


def require_patient_pattern(pattern: str) -> None:
    """Refuse a pattern that finds no one patient in a path.

    Raises:
        UsageError: it is none.
    """
    _require(_has_one_group(pattern), "patient_pattern must be a regular expression with one (group)")


def _has_one_group(pattern: str) -> bool:
    try:
        return not pattern or re.compile(pattern).groups == 1
    except re.error:
        return False


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise UsageError(f"{rule}.")
