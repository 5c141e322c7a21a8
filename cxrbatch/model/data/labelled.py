"""Labelled data as records: what is known of each image, its part and its group, and the set as a whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cxrbatch.config import GroupBy
from cxrbatch.errors import UsageError
from cxrbatch.intake.discover import raster_identity
from cxrbatch.pages.language import msgid
from cxrbatch.pages.retelling import kept
from cxrbatch.pages.wording import counted
from cxrbatch.records import Float32, Task

Split = Literal["train", "val", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "calibration", "test")

LAYOUT_NAMES = {"nih": "NIH ChestX-ray14", "folders": msgid("class folders"), "csv": msgid("CSV table")}
TASK_NAMES = {
    "multilabel": msgid("multi-label"),
    "binary": msgid("one label, yes or no"),
    "multiclass": msgid("multi-class"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    `split` is one of SPLITS, or "" before the data is split. `targets` has a value per label: 0.0, 1.0, or
    nan where it is not known (left out of loss and metrics); in a multi-class task exactly one is 1.0.
    `patient_id` is "" where unknown: then the image is taken for a patient of its own, but that it stays together with
    others of its `group`, such as the figures of one publication. `issuer`, normalised, is who gave the ID, where a
    file says so; `study` names the study: a table's or a DICOM header's. `age` is in years. `source` is the folder that
    the file came from.
    """

    path: Path
    split: str
    targets: tuple[float, ...]
    patient_id: str = ""
    age: float | None = None
    sex: str = ""
    view: str = ""
    source: str = ""
    issuer: str = ""
    study: str = ""
    group: str = ""

    @property
    def patient(self) -> str:
        """Who is on the image, as a key for grouping: the patient, else the group, else the file."""
        if self.patient_id:
            return f"patient:{self.patient_id}"
        return f"group:{self.group}" if self.group else f"file:{self.path}"

    def study_key(self, group_by: GroupBy = "file") -> str:
        """Return which study the image is of: the one that is named, else what a run would take for one.

        A run takes a DICOM file's Study Instance UID, and of a PNG or JPEG the file itself, or its folder.
        """
        if self.study:
            return f"study:{self.patient}:{self.study}"
        return f"path:{self.patient}:{raster_identity(self.path.as_posix(), group_by)}"


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """A labelled data set: the labels' names, in order, and its images.

    `normal_label` is the class that means nothing found, if one does. `layout` is the one it was read in.
    `leaks` holds what was let through on request though it spoils every figure, `notes` what the reader left
    out or took for granted, one sentence each.
    """

    root: Path
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    task: Task = "multilabel"
    normal_label: str = ""
    layout: str = ""
    leaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, split: str) -> tuple[Sample, ...]:
        """Return the images of one part.

        Raises:
            UsageError: it has none.
        """
        if chosen := tuple(sample for sample in self.samples if sample.split == split):
            return chosen
        present = sorted({sample.split or "(not split)" for sample in self.samples})
        raise UsageError(f"{self.root}: no image belongs to the part {split}; there are {', '.join(present)}.")

    @property
    def sha256(self) -> str:
        """Identify the data: names below the root, splits and targets; not the pixels."""
        lines = (f"{self.name_of(sample)}\t{sample.split}\t{sample.targets}\n" for sample in self.samples)
        # A name may hold bytes that are not UTF-8, which Python keeps as lone surrogates.
        return hashlib.sha256("".join([*self.labels, "\n", *lines]).encode("utf-8", "surrogateescape")).hexdigest()

    def name_of(self, sample: Sample) -> str:
        """Return the image's path below the root, `/`-separated; the whole path where it lies elsewhere."""
        inside = sample.path.is_relative_to(self.root)
        return (sample.path.relative_to(self.root) if inside else sample.path).as_posix()


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return at most `count` of the samples, spread evenly over all."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [samples[place] for place in places]


UNKNOWN = msgid("unknown")

_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79))
_OLDEST = f"{_BANDS[-1][1] + 1}+"
AGE_BANDS = (*(f"{youngest}-{oldest}" for youngest, oldest in _BANDS), _OLDEST)
"""Years, both ends included, the youngest first."""


def age_band(age: float | None) -> str:
    """Return the band of an age in years, such as 40-59."""
    if age is None or not math.isfinite(age) or age < 0:
        return UNKNOWN
    return next((name for name, (_, oldest) in zip(AGE_BANDS, _BANDS, strict=False) if age < oldest + 1), _OLDEST)


def count_patients(samples: Iterable[Sample]) -> tuple[int, int]:
    """Return how many patients are known, and how many images are of nobody knows whom."""
    patients = [sample.patient_id for sample in samples]
    return len({*patients} - {""}), patients.count("")


def describe_patients(samples: Iterable[Sample]) -> str:
    """Say how many patients the images are of, such as: 12 patients and 30 images of unknown ones."""
    return patients_in_words(*count_patients(samples))


def patients_in_words(known: int, of_unknown: int) -> str:
    """Say so many known patients, and so many images of unknown ones."""
    if not of_unknown:
        return counted(known, "patient")
    unknown = kept("{patients} and {images} of unknown ones")
    images = counted(of_unknown, "image")
    return unknown.format(patients=counted(known, "patient"), images=images) if known else kept("unknown patients")


def patients_sha256(samples: Iterable[Sample]) -> str:
    """Identify a set of patients: the same ones give the same 64 hex digits, whatever folder they lie in.

    An image of an unknown patient stands for itself, by its file name. Nobody can be recognised by the digest.
    """
    keys = sorted({sample.patient if sample.patient_id else f"file:{sample.path.name}" for sample in samples})
    return hashlib.sha256("\n".join(keys).encode("utf-8", "surrogateescape")).hexdigest()


def take_targets(samples: Sequence[Sample], given: Sequence[str], wanted: Sequence[str], *, missing: float) -> Float32:
    """Return the images' targets for the labels that are wanted, in their order, float32 [N,C].

    Args:
        samples: the images.
        given: the labels of their targets.
        wanted: the labels, of which the data may lack some.
        missing: the target of a label that the data lacks.
    """
    known = np.array([sample.targets for sample in samples], np.float32)
    targets = np.full((len(samples), len(wanted)), missing, np.float32)
    for column, name in enumerate(wanted):
        if name in given:
            targets[:, column] = known[:, given.index(name)]
    return targets
