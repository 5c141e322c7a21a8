"""Labelled images on disk become arrays that the network trains on. Start at `load_data` and `prepare_folds`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbatch.errors import UsageError
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.data.layouts import read_data
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.data.pixel_cache import prepare_cached
from cxrbatch.model.data.pixels import BadImage, ReportProgress, prepare_images, refuse_bad
from cxrbatch.model.data.regions import MarkedRegions
from cxrbatch.model.data.splits import check_patients, check_pixels, hash_pixels, split_data, split_into_folds
from cxrbatch.records import Float32, Gray8, InputSpec


@dataclass(frozen=True, slots=True)
class PixelSet:
    """N images as the network eats them: `pixels` uint8 [M,1,S,S], 0..255; `targets` float32 [N,C], 0, 1 or nan.

    `rows`, int64 [N], says which of the pixels belong to the images, so that a part of a data set can stay on
    the disk, mapped; None where they are all, in order. `regions`, where the data know them, is uint8
    [K,C,r,r], 0..255: how much of each place of the square the finding covers. `located`, bool [K,C], says of whom
    that is known, None: of all. `region_rows`, int64 [N], says which of the K an image is, -1: none of them; None
    where they are all, in order.
    """

    pixels: Gray8
    targets: Float32
    regions: Gray8 | None = None
    rows: NDArray[np.int64] | None = None
    located: NDArray[np.bool_] | None = None
    region_rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def pixels_of(self, images: NDArray[np.int64]) -> Gray8:
        """Return the pixels of some of the images, in memory: int64 [n] -> uint8 [n,1,S,S]."""
        return self.pixels[images if self.rows is None else self.rows[images]]

    def regions_of(self, images: NDArray[np.int64]) -> tuple[Gray8, NDArray[np.bool_]]:
        """Return where findings lie on some of the images: int64 [n] -> uint8 [n,C,r,r] and, who is known, bool [n,C].

        Without any regions at all these are [n,0,1,1] and [n,0].
        """
        if self.regions is None:
            return np.zeros((len(images), 0, 1, 1), np.uint8), np.zeros((len(images), 0), bool)
        rows = images if self.region_rows is None else self.region_rows[images]
        marked = rows >= 0
        regions = np.zeros((len(images), *self.regions.shape[1:]), np.uint8)
        regions[marked] = self.regions[rows[marked]]
        located = np.zeros(regions.shape[:2], bool)
        located[marked] = True if self.located is None else self.located[rows[marked]]
        return regions, located


@dataclass(frozen=True, slots=True)
class PreparedImages:
    """A data set and its pixels, uint8 [N,1,S,S], mapped from the cache, in the order of its images.

    `pixels_sha256` identifies all pixels, `digests` are those of the pictures (`hash_pixels`), in order. `marked`
    says where findings lie, if anybody has marked that.
    """

    images: LabelledImages
    pixels: Gray8
    pixels_sha256: str = ""
    digests: tuple[str, ...] = ()
    marked: MarkedRegions | None = None

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return which rows belong to a part, int64 [n]."""
        return np.flatnonzero([sample.split == split for sample in self.images.samples])

    def part(self, split: str) -> PixelSet:
        """Return the images of one part; their pixels stay on the disk.

        Raises:
            UsageError: it has none.
        """
        rows, targets, marked = self.rows(split), _targets_of(self.images.part(split)), self.marked
        if marked is None or not (marked.rows[rows] >= 0).any():
            return PixelSet(self.pixels, targets, rows=rows)
        return PixelSet(self.pixels, targets, marked.coverage, rows, marked.located, marked.rows[rows])


def load_data(data: Path, options: DataOptions) -> LabelledImages:
    """Read labelled images, choose their labels, split them and check that one can train on them.

    Args:
        data: a folder or a table, in any of the three layouts (`layouts.detect_layout`).
        options: which labels, and how to split what comes without a split.

    Raises:
        UsageError: one cannot; what is wrong, where, and how to mend it is said.
    """
    return _check(split_data(read_data(data, options), options), options)


def load_folds(data: Path, options: DataOptions) -> tuple[LabelledImages, ...]:
    """Do what `load_data` does, once per fold; without folds, once.

    Parts train and val that the data brings along are pooled; its test part stays out of every fold.
    """
    if not options.folds:
        return (load_data(data, options),)
    folds = split_into_folds(read_data(data, options), options.folds, options.seed)
    return tuple(_check(fold, options) for fold in folds)


def prepare_folds(
    folds: Sequence[LabelledImages],
    spec: InputSpec,
    *,
    allow_leak: bool = False,
    workers: int = 0,
    report: ReportProgress | None = None,
) -> tuple[PreparedImages, ...]:
    """Prepare the images of several splits of one data set through the cache, and look for pictures in two parts.

    Raises:
        UsageError: images cannot be used, or a picture is in two parts and that is not allowed.
        OutputNotWritable: the cache cannot be written to.
    """
    paths = [sample.path for sample in folds[0].samples]
    pixels = prepare_cached(paths, spec, workers=workers, report=report)
    digests = hash_pixels(pixels)
    whole = hashlib.sha256("".join(digests).encode()).hexdigest()
    return tuple(
        PreparedImages(check_pixels(images, digests, allow_leak=allow_leak), pixels, whole, tuple(digests))
        for images in folds
    )


def prepare_pixels(
    samples: Sequence[Sample], spec: InputSpec, *, workers: int = 0, report: ReportProgress | None = None
) -> PixelSet:
    """Decode and fit every image into memory, past the cache: for small sets that are used once.

    Args:
        samples: the images.
        spec: the input they are fitted to.
        workers: processes; 0 takes one per core.
        report: told (images done, images in all).

    Raises:
        UsageError: images cannot be used; every one is named.
    """
    pixels = np.empty((len(samples), *spec.shape), np.uint8)
    bad: list[BadImage] = []
    done = 0
    paths = [sample.path for sample in samples]
    for chunk in prepare_images(paths, range(len(paths)), spec, workers=workers):
        pixels[list(chunk.rows)] = chunk.pixels
        bad += chunk.bad
        done += len(chunk.rows) + len(chunk.bad)
        if report:
            report(done, len(samples))
    refuse_bad(bad)
    return PixelSet(pixels, _targets_of(samples))


def _targets_of(samples: Sequence[Sample]) -> Float32:
    return np.array([sample.targets for sample in samples], np.float32)


def _check(images: LabelledImages, options: DataOptions) -> LabelledImages:
    images.part("val")
    targets = _targets_of(images.part("train"))
    present, absent = (targets == 1.0).any(axis=0), (targets == 0.0).any(axis=0)
    for label, has_present, has_absent in zip(images.labels, present, absent, strict=True):
        if not (has_present and has_absent):
            only = "without" if has_absent else "with"
            raise UsageError(
                f"{images.root}: the training images are all {only} {label}, so there is nothing to learn. "
                f"Bring others, leave it out with --labels, or split otherwise."
            )
    return check_patients(images, allow_leak=options.allow_leak)
