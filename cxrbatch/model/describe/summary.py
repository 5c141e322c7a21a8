"""What one should know of labelled data before training: counts, overlaps, groups, doubles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbatch.model.data.labelled import AGE_BANDS, SPLITS, UNKNOWN, LabelledImages, Sample, age_band, count_patients
from cxrbatch.model.data.pixels import BadImage
from cxrbatch.model.data.splits import hash_pixels
from cxrbatch.pages.language import msgid
from cxrbatch.records import Float32, Gray8, Task

# A table of hundreds of source folders tells nobody anything; the largest ones may.
_MOST_SOURCES = 12

Share = float | None


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Rows and columns of the stored pixels; 0 0 where the file cannot be read."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class MeasuredImages:
    """The images of a data set, their pixels uint8 [N,1,S,S], their stored sizes, and those that cannot be read."""

    images: LabelledImages
    pixels: Gray8
    sizes: tuple[ImageSize, ...]
    bad: tuple[BadImage, ...]

    def digests(self) -> list[str]:
        """Return what identifies each image's picture; "" where there is none."""
        unread = {image.path for image in self.bad}
        hashes = hash_pixels(self.pixels)
        return ["" if each.path in unread else key for each, key in zip(self.images.samples, hashes, strict=True)]


@dataclass(frozen=True, slots=True)
class PartLine:
    """One part of the data: its images, the patients who are known, and how many images are of unknown ones."""

    name: str
    images: int
    patients: int
    of_unknown: int = 0


@dataclass(frozen=True, slots=True)
class LabelLine:
    """How often a label is there; `prevalence` has its share of the known images in each part, in their order."""

    name: str
    positive: int
    negative: int
    unknown: int
    patients: int
    share: Share
    prevalence: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class GroupLine:
    """Images that have something in common; `prevalence` has each label's share among them."""

    column: str
    value: str
    images: int
    prevalence: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Double:
    """Files that show the same picture; `differ`: their labels differ, so at least one of them is wrong."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    differ: bool


@dataclass(frozen=True, slots=True)
class DataSummary:
    """Everything that the page shows; `together` is int64 [C,C], images that show both labels.

    `neither` counts images that are known to show none of the labels.
    """

    name: str
    layout: str
    task: Task
    labels: tuple[str, ...]
    parts: tuple[PartLine, ...]
    lines: tuple[LabelLine, ...]
    neither: int
    together: NDArray[np.int64]
    groups: tuple[GroupLine, ...]
    sizes: tuple[tuple[ImageSize, int], ...]
    doubles: tuple[Double, ...]
    bad: tuple[BadImage, ...]
    notes: tuple[str, ...]
    leaks: tuple[str, ...]

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(part.images for part in self.parts)

    @property
    def patients(self) -> int:
        """How many patients there are; one in two parts counts twice, and is a leak."""
        return sum(part.patients for part in self.parts)

    @property
    def of_unknown(self) -> int:
        """How many images are of nobody knows whom."""
        return sum(part.of_unknown for part in self.parts)


def summarise_data(measured: MeasuredImages) -> DataSummary:
    """Count what there is: parts, labels, groups, sizes, doubles."""
    images = measured.images
    targets = np.array([sample.targets for sample in images.samples], np.float32)
    parts = tuple(_part_lines(images.samples))
    return DataSummary(
        name=images.root.resolve().name,
        layout=images.layout,
        task=images.task,
        labels=images.labels,
        parts=parts,
        lines=tuple(_label_lines(images, targets, parts)),
        neither=int((targets == 0.0).all(axis=1).sum()),
        together=_count_together(targets),
        groups=tuple(_group_lines(images.samples, targets)),
        sizes=tuple(Counter(size for size in measured.sizes if size.rows).most_common()),
        doubles=tuple(_find_doubles(images, measured.digests())),
        bad=measured.bad,
        notes=images.notes,
        leaks=images.leaks,
    )


def _part_lines(samples: Sequence[Sample]) -> Iterator[PartLine]:
    present = {sample.split for sample in samples}
    for name in (*SPLITS, ""):
        if name in present:
            images = [sample for sample in samples if sample.split == name]
            yield PartLine(name, len(images), *count_patients(images))


def _label_lines(images: LabelledImages, targets: Float32, parts: Sequence[PartLine]) -> Iterator[LabelLine]:
    splits = np.array([sample.split for sample in images.samples])
    patients = np.array([sample.patient for sample in images.samples], dtype=object)
    for index, name in enumerate(images.labels):
        column = targets[:, index]
        yield LabelLine(
            name=name,
            positive=int((column == 1.0).sum()),
            negative=int((column == 0.0).sum()),
            unknown=int(np.isnan(column).sum()),
            patients=len(set(patients[column == 1.0])),
            share=_share(column),
            prevalence=tuple(_share(column[splits == part.name]) for part in parts),
        )


def _share(column: Float32) -> Share:
    known = column[~np.isnan(column)]
    return float(known.mean()) if known.size else None


def _count_together(targets: Float32) -> NDArray[np.int64]:
    shown = (targets == 1.0).astype(np.int64)
    together: NDArray[np.int64] = shown.T @ shown
    return together


def _group_lines(samples: Sequence[Sample], targets: Float32) -> Iterator[GroupLine]:
    yield from _grouped(msgid("Sex"), [sample.sex or UNKNOWN for sample in samples], targets)
    yield from _grouped(msgid("Age"), [age_band(sample.age) for sample in samples], targets, order=AGE_BANDS)
    yield from _grouped(msgid("View"), [sample.view or UNKNOWN for sample in samples], targets)
    yield from _grouped(msgid("Source"), [sample.source or UNKNOWN for sample in samples], targets)


def _grouped(column: str, values: Sequence[str], targets: Float32, *, order: Sequence[str] = ()) -> Iterator[GroupLine]:
    """Yield a line per value, in the given order or the largest first; none where nothing is known."""
    counts = Counter(values)
    if set(counts) == {UNKNOWN}:
        return
    for value in [name for name in (*order, *_by_size(counts, order)) if name in counts][:_MOST_SOURCES]:
        images = np.array([each == value for each in values])
        prevalence = tuple(_share(targets[images, index]) for index in range(targets.shape[1]))
        yield GroupLine(column, value, counts[value], prevalence)


def _by_size(counts: Counter[str], placed: Iterable[str]) -> list[str]:
    return sorted(set(counts) - set(placed), key=lambda value: (value == UNKNOWN, -counts[value], value))


def _find_doubles(images: LabelledImages, digests: Sequence[str]) -> Iterator[Double]:
    same: dict[str, list[Sample]] = defaultdict(list)
    for digest, sample in zip(digests, images.samples, strict=True):
        if digest:
            same[digest].append(sample)
    for samples in same.values():
        if len(samples) > 1:
            yield Double(
                names=tuple(images.name_of(sample) for sample in samples),
                splits=tuple(dict.fromkeys(sample.split for sample in samples)),
                differ=len({str(sample.targets) for sample in samples}) > 1,
            )
