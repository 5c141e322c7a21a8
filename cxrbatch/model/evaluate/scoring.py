"""Scoring labelled images with an engine, through the same intake as in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxrbatch.config import Settings
from cxrbatch.engine.contract import Engine
from cxrbatch.errors import CxrBatchError, EngineError, ImageRejected, Reason, UsageError
from cxrbatch.intake.preprocess import prepare, source_side
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.data.labelled import Sample
from cxrbatch.model.data.pixels import ReportProgress
from cxrbatch.model.data.splits import hash_pixels
from cxrbatch.records import CellGrid, Float32, Geometry, Gray8, InputSpec, Scores
from cxrbatch.system.workers import WorkerPool

NOT_A_NUMBER = "not_a_number"
"""The reason of an image that the engine answered with NaN or Inf; the others are codes of `Reason`."""

# Starting worker processes takes as long as reading about this many small images.
_IMAGES_WORTH_A_POOL = 48


@dataclass(frozen=True, slots=True)
class RefusedImage:
    """A labelled image that got no score: a reason code, and why in words."""

    sample: Sample
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageMap:
    """The class activation maps of one image, float32 [C,h,w] in logits, and how they lie on its stored pixels.

    `pixels` is what the engine saw, uint8 [1,S,S].
    """

    cams: Float32
    geometry: Geometry
    cells: CellGrid | None = None
    pixels: Gray8 | None = None


@dataclass(frozen=True, slots=True)
class ScoredImages:
    """What an engine says of N images, in the engine's order of labels.

    `samples` are the images; `sizes` int64 [N,2] their stored rows and columns; `logits` and `probabilities`
    float32 [N,C]. `maps` holds those images' maps that were asked for, by place. `pictures` are the SHA-256 of what
    the engine saw of each.
    """

    samples: tuple[Sample, ...]
    sizes: NDArray[np.int64]
    logits: Float32
    probabilities: Float32
    maps: dict[int, ImageMap] = field(default_factory=dict)
    refused: tuple[RefusedImage, ...] = ()
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _ReadJob:
    index: int
    sample: Sample
    spec: InputSpec
    settings: Settings


@dataclass(frozen=True, slots=True)
class _ReadImage:
    """An image ready for the engine: uint8 [1,S,S] and the way back to its stored pixels."""

    index: int
    pixels: Gray8
    geometry: Geometry


def score_images(
    engine: Engine,
    samples: Sequence[Sample],
    settings: Settings,
    *,
    keep_maps: frozenset[str] = frozenset(),
    report: ReportProgress = lambda _done, _all: None,
) -> ScoredImages:
    """Read, prepare and score every image; one that cannot be scored is listed and does not stop the others.

    Args:
        engine: what scores.
        samples: the images.
        settings: limits of reading, batch size, worker processes.
        keep_maps: paths of the images whose class activation maps are kept.
        report: told (images done, images in all).

    Raises:
        UsageError: no image at all could be scored.
    """
    jobs = [_ReadJob(at, sample, engine.description.input, settings) for at, sample in enumerate(samples)]
    collected = _Collected([], [], [], {}, [], [], engine.description.cells)
    for done, batch in _batches(_read_all(jobs, settings, collected.refused), settings.batch_size, len(jobs)):
        if batch:
            _collect(collected, batch, engine.infer(np.stack([image.pixels for image in batch])), samples, keep_maps)
        report(done, len(samples))
    if not collected.indices:
        first = f"; the first: {collected.refused[0].message}" if collected.refused else ""
        raise UsageError(f"none of {len(samples)} images could be scored{first}")
    return _as_scored(collected, samples)


@dataclass(slots=True)
class _Collected:
    indices: list[int]
    geometries: list[Geometry]
    scores: list[tuple[Float32, Float32]]
    maps: dict[int, ImageMap]
    refused: list[RefusedImage]
    pictures: list[str]
    cells: CellGrid | None


def _collect(
    collected: _Collected, batch: list[_ReadImage], scores: Scores, samples: Sequence[Sample], keep_maps: frozenset[str]
) -> None:
    for row, image in enumerate(batch):
        if not (np.isfinite(scores.probabilities[row]).all() and np.isfinite(scores.logits[row]).all()):
            collected.refused.append(RefusedImage(samples[image.index], NOT_A_NUMBER, "the engine answered NaN or Inf"))
            continue
        if samples[image.index].path.as_posix() in keep_maps:
            kept = ImageMap(scores.cams[row].copy(), image.geometry, collected.cells, image.pixels)
            collected.maps[len(collected.indices)] = kept
        collected.indices.append(image.index)
        collected.pictures += hash_pixels(image.pixels[np.newaxis])
        collected.geometries.append(image.geometry)
        collected.scores.append((scores.logits[row], scores.probabilities[row]))


def _as_scored(collected: _Collected, samples: Sequence[Sample]) -> ScoredImages:
    return ScoredImages(
        samples=tuple(samples[index] for index in collected.indices),
        sizes=np.array([(geometry.rows, geometry.columns) for geometry in collected.geometries], np.int64),
        logits=np.stack([logits for logits, _ in collected.scores]),
        probabilities=np.stack([probabilities for _, probabilities in collected.scores]),
        maps=collected.maps,
        refused=tuple(collected.refused),
        pictures=tuple(collected.pictures),
    )


def _batches(images: Iterable[_ReadImage | None], size: int, total: int) -> Iterator[tuple[int, list[_ReadImage]]]:
    """Yield (images done, those of them to score now); None stands for an image that was refused."""
    batch: list[_ReadImage] = []
    for done, image in enumerate(images, start=1):
        if image is not None:
            batch.append(image)
        if len(batch) == size or done == total:
            yield done, batch
            batch = []


def _read_all(jobs: list[_ReadJob], settings: Settings, refused: list[RefusedImage]) -> Iterator[_ReadImage | None]:
    if len(jobs) < _IMAGES_WORTH_A_POOL:
        for job in jobs:
            yield _settled(job, lambda job=job: _read_image(job), refused)  # type: ignore[misc]
        return
    with WorkerPool(settings.worker_count, memory_mb=settings.decode_memory_mb) as workers:
        for outcome in workers.run_ahead(_read_image, jobs, timeout_s=settings.decode_timeout_s):
            yield _settled(outcome.task, outcome.value, refused)


def _settled(job: _ReadJob, value: Callable[[], _ReadImage], refused: list[RefusedImage]) -> _ReadImage | None:
    try:
        return value()
    except ImageRejected as rejection:
        refused.append(RefusedImage(job.sample, rejection.reason.value, rejection.message))
    except EngineError:
        raise
    except (CxrBatchError, OSError) as error:
        # Its worker crashed or ran out of time, or the file is gone or not readable.
        refused.append(RefusedImage(job.sample, Reason.UNREADABLE_PIXELS.value, type(error).__name__))
    return None


def _read_image(job: _ReadJob) -> _ReadImage:
    """Read one image and prepare it for the engine; runs in a worker."""
    image = prepare(read_radiograph(job.sample.path, job.settings, source_px=source_side(job.spec)), job.spec)
    return _ReadImage(job.index, image.pixels, image.geometry)
