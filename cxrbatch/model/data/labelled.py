"""The records of labelled data: what is known of each image, its part, and the set as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cxrbatch.errors import UsageError
from cxrbatch.records import Task

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    `split` is one of SPLITS, or "" before the data is split. `targets` has a value per label: 0.0, 1.0, or
    nan where it is not known (left out of loss and metrics); in a multi-class task exactly one is 1.0.
    `patient_id` is "" where unknown: then the image is taken for a patient of its own. `age` is in years.
    `source` is the folder that the file came from.
    """

    path: Path
    split: str
    targets: tuple[float, ...]
    patient_id: str = ""
    age: float | None = None
    sex: str = ""
    view: str = ""
    source: str = ""

    @property
    def patient(self) -> str:
        """Who is on the image, as a key for grouping: the patient, or the file where the patient is unknown."""
        return f"patient:{self.patient_id}" if self.patient_id else f"file:{self.path}"


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
