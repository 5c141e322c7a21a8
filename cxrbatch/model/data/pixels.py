"""Preparing the pixels of many images in parallel, by the same `intake` that inference uses. Start at `prepare_images`.

One image that cannot be read, or ends the process that reads it, stops no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrbatch.config import Settings, available_cores
from cxrbatch.errors import ImageRejected, Reason, UsageError
from cxrbatch.intake.anatomy import check_anatomy
from cxrbatch.intake.preprocess import prepare, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.records import Gray8, InputSpec
from cxrbatch.system.workers import Outcome, WorkerCrashed, WorkerPool, WorkerTimedOut

# Few enough that little is lost when a run is interrupted, enough that handing them over costs nothing.
_IMAGES_PER_CHUNK = 32
_SECONDS_PER_IMAGE = 10.0

ReportProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class BadImage:
    """A file that cannot be trained on, and why: in words, and by the code of the refusal, "" where it has none."""

    path: Path
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """Some images: which rows of the whole they are, their files, and the input they are fitted to.

    `check` asks whether they look like what they are taken for, as a run does; labelled images are believed.
    """

    rows: tuple[int, ...]
    paths: tuple[Path, ...]
    spec: InputSpec
    check: bool = False


@dataclass(frozen=True, slots=True)
class PreparedChunk:
    """What became of a chunk: `pixels` uint8 [n,1,S,S] of the rows that could be read, and the others."""

    rows: tuple[int, ...]
    pixels: Gray8
    bad: tuple[BadImage, ...]


def prepare_images(
    paths: Sequence[Path], rows: Sequence[int], spec: InputSpec, *, workers: int = 0, check: bool = False
) -> Iterator[PreparedChunk]:
    """Decode and fit some rows of a list of images, a chunk at a time, in order.

    Args:
        paths: all images.
        rows: which of them.
        spec: the input they are fitted to.
        workers: processes; 0 takes one per core, 1 works in this process.
        check: refuse what does not look like a chest and nothing says that it is one.
    """
    chunks = [
        ImageChunk(tuple(chosen), tuple(paths[row] for row in chosen), spec, check)
        for chosen in (rows[at : at + _IMAGES_PER_CHUNK] for at in range(0, len(rows), _IMAGES_PER_CHUNK))
    ]
    if workers == 1 or len(chunks) <= 1:
        # Starting a process costs more than one chunk.
        yield from map(prepare_chunk, chunks)
        return
    with WorkerPool(workers or available_cores(), memory_mb=Settings().decode_memory_mb) as pool:
        for outcome in pool.run_ahead(prepare_chunk, chunks, timeout_s=_SECONDS_PER_IMAGE * _IMAGES_PER_CHUNK):
            yield from _settle(pool, outcome)


def prepare_chunk(chunk: ImageChunk) -> PreparedChunk:
    """Decode and fit the images of one chunk; one that cannot be read stops nothing."""
    rows: list[int] = []
    pixels: list[Gray8] = []
    bad: list[BadImage] = []
    for row, path in zip(chunk.rows, chunk.paths, strict=True):
        try:
            radiograph = read_radiograph(path, Settings(), source_px=source_side(chunk.spec))
            radiograph = check_anatomy(radiograph, Settings()) if chunk.check else radiograph
            pixels.append(prepare(radiograph, chunk.spec).pixels)
            rows.append(row)
        except ImageRejected as rejection:
            bad.append(BadImage(path, str(rejection), rejection.reason.value))
        except OSError as error:
            bad.append(BadImage(path, f"cannot be opened: {error.strerror}"))
    return PreparedChunk(tuple(rows), _stack(pixels, chunk.spec.size_px), tuple(bad))


def refuse_bad(bad: Sequence[BadImage]) -> None:
    """Refuse to go on with images that cannot be read, naming every one.

    Raises:
        UsageError: there are some.
    """
    if bad:
        lines = "".join(f"\n  {image.path}: {image.reason}" for image in bad)
        raise UsageError(f"{len(bad)} images cannot be trained on. Mend the files or take their rows out:{lines}")


def _settle(
    pool: WorkerPool, outcome: Outcome[ImageChunk, PreparedChunk], *, alone: bool = False
) -> Iterator[PreparedChunk]:
    """Yield a chunk's result. One that ended its worker is tried again image by image, to find out which it was."""
    try:
        yield outcome.value()
    except (WorkerCrashed, WorkerTimedOut) as error:
        chunk = outcome.task
        if alone:
            code = Reason.DECODER_CRASHED if isinstance(error, WorkerCrashed) else Reason.DECODE_TIMEOUT
            bad = BadImage(chunk.paths[0], str(error), code.value)
            yield PreparedChunk((), _stack([], chunk.spec.size_px), (bad,))
            return
        files = zip(chunk.rows, chunk.paths, strict=True)
        singles = (ImageChunk((row,), (path,), chunk.spec, chunk.check) for row, path in files)
        for single in pool.run_ahead(prepare_chunk, singles, timeout_s=Settings().decode_timeout_s):
            yield from _settle(pool, single, alone=True)


def _stack(pixels: Sequence[Gray8], size_px: int) -> Gray8:
    return np.stack(pixels) if pixels else np.empty((0, 1, size_px, size_px), np.uint8)
