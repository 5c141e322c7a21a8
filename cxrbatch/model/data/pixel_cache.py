"""Prepared pixels that are kept, so that each image is decoded once. Start at `prepare_cached`.

They are mapped from the cache. An entry of it is a folder per list of images and way of preparing them:

    CACHE/<key>/pixels.npy   uint8 [N,1,S,S], rows in the order of the images
    CACHE/<key>/stamps.npy   int64 [N,2], size and mtime of the file that the row was made of; 0 0: not made yet

A row counts once its stamp is there and fits the file, and the stamp is written after the pixels. So an
interrupted run goes on where it stopped, and a changed file is decoded again, alone. Any entry may be deleted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import platformdirs
from numpy.typing import NDArray

from cxrbatch.config import Settings
from cxrbatch.errors import OutputNotWritable
from cxrbatch.intake.codecs.jpeg2000 import ENOUGH
from cxrbatch.intake.preprocess import source_side
from cxrbatch.model.data.pixels import BadImage, PreparedChunk, ReportProgress, prepare_images, refuse_bad
from cxrbatch.records import Gray8, InputSpec, storable_ns
from cxrbatch.system import durable

CACHE_VARIABLE = "CXRBATCH_CACHE"
PIXELS_FILE, STAMPS_FILE = "pixels.npy", "stamps.npy"
Stamps = NDArray[np.int64]


def cache_folder() -> Path:
    """Return where prepared pixels are kept: $CXRBATCH_CACHE, or the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return (Path(named) if named else platformdirs.user_cache_path("cxrbatch")) / "pixels"


def prepare_cached(
    paths: Sequence[Path],
    spec: InputSpec,
    *,
    folder: Path | None = None,
    workers: int = 0,
    report: ReportProgress | None = None,
) -> Gray8:
    """Return the prepared pixels of images; those that the cache does not hold are decoded now.

    Args:
        paths: the images.
        spec: the input they are fitted to.
        folder: the cache; `cache_folder()` by default.
        workers: processes; 0 takes one per core.
        report: told (images ready, images in all), first of those that were there.

    Returns:
        uint8 [N,1,S,S], 0..255, mapped from the disk; writing to it changes nothing there.

    Raises:
        UsageError: images cannot be used; every one is named, after all others are prepared.
        OutputNotWritable: the cache cannot be written to, or its disk is full.
    """
    pixels, bad = fill_cache(paths, spec, folder=folder, workers=workers, report=report)
    refuse_bad(bad)
    return pixels


def fill_cache(
    paths: Sequence[Path],
    spec: InputSpec,
    *,
    folder: Path | None = None,
    workers: int = 0,
    report: ReportProgress | None = None,
    check: bool = False,
) -> tuple[Gray8, tuple[BadImage, ...]]:
    """Do what `prepare_cached` does, but return the images that cannot be used; their rows are black.

    `check` also refuses what does not look like a chest where nothing says that it is one.
    """
    place = (folder or cache_folder()) / _key(paths, spec, check=check)
    bad: list[BadImage] = []
    with _explaining(place):
        entry = _open_entry(place, len(paths), spec.size_px)
        current = _stamp_files(paths)
        missing = np.flatnonzero((entry.stamps != current).any(axis=1)).tolist()
        done = len(paths) - len(missing)
        for chunk in prepare_images(paths, missing, spec, workers=workers, check=check):
            entry.store(chunk, current)
            bad += chunk.bad
            done += len(chunk.rows) + len(chunk.bad)
            if report:
                report(done, len(paths))
        # Read-only: a private copy on write would have to fit into memory and swap, whole.
        return np.load(place / PIXELS_FILE, mmap_mode="r"), tuple(bad)


@dataclass(frozen=True, slots=True)
class _Entry:
    pixels: Gray8
    stamps: Stamps

    def store(self, chunk: PreparedChunk, current: Stamps) -> None:
        rows = list(chunk.rows)
        self.pixels[rows] = chunk.pixels
        _flush(self.pixels)
        self.stamps[rows] = current[rows]
        _flush(self.stamps)


def _key(paths: Sequence[Path], spec: InputSpec, *, check: bool = False) -> str:
    """Return what names an entry: everything that decides over its pixels but the files' content."""
    settings = Settings()
    intake = (source_side(spec), ENOUGH, settings.max_stored_px, settings.min_stored_px)
    # Mean and deviation are applied in the network; the cached bytes don't depend on them.
    way = (spec.preprocess_version, spec.size_px, spec.fit, intake, *(("checked",) if check else ()))
    digest = hashlib.sha256(msgspec.json.encode(way))
    for path in paths:
        digest.update(b"\0" + os.fsencode(path.resolve()))
    return digest.hexdigest()[:16]


def _open_entry(place: Path, images: int, size_px: int) -> _Entry:
    """Map an entry's arrays; where one is missing or damaged, both are made anew, stamps (all zeros) first."""
    durable.make_folder(place)
    shapes = {
        place / STAMPS_FILE: ((images, 2), np.int64),
        place / PIXELS_FILE: ((images, 1, size_px, size_px), np.uint8),
    }
    if not all(_is_whole(path, shape, np.dtype(kind)) for path, (shape, kind) in shapes.items()):
        for path, (shape, kind) in shapes.items():
            with durable.replacing(path) as temporary:
                np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=shape)
                _reserve(temporary)
    return _Entry(np.load(place / PIXELS_FILE, mmap_mode="r+"), np.load(place / STAMPS_FILE, mmap_mode="r+"))


def _is_whole(path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> bool:
    try:
        # Read-only: a file that is too short is refused so, and would be filled up with zeros otherwise.
        mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return False
    return mapped.shape == shape and mapped.dtype == kind


def _reserve(path: Path) -> None:
    """Take the file's place on the disk now: writing to a mapped file on a full disk ends the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)


def _stamp_files(paths: Sequence[Path]) -> Stamps:
    """Return int64 [N,2], size and mtime (ns) of each file; -1 -1, which no row has, for one that is not there."""
    return np.array([_stamp(path) for path in paths], np.int64).reshape(len(paths), 2)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, storable_ns(status.st_mtime_ns)


def _flush(array: NDArray[Any]) -> None:
    if isinstance(array, np.memmap):
        array.flush()


@contextmanager
def _explaining(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputNotWritable(
            f"{place}: prepared pixels cannot be kept there: {error.strerror or error}. "
            f"Set {CACHE_VARIABLE} to a folder with room, or make room; any folder in the cache may be deleted."
        ) from error
