"""Studies ready for the engine in, studies with their scores out; the engine runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cxrbatch import __version__
from cxrbatch.config import Settings
from cxrbatch.engine.contract import Engine
from cxrbatch.errors import Flag
from cxrbatch.logbook import log_event
from cxrbatch.output.ledger import StudyTask
from cxrbatch.records import (
    EngineDescription,
    Gray8,
    ImagePixels,
    ImageResult,
    RefusedImage,
    Scores,
    StudyResult,
    now_text,
)
from cxrbatch.stages import DecodedStudy, ScoredStudy, StageClock


@dataclass(frozen=True, slots=True)
class Scorer:
    """An engine, and what opens its exact twin for the images that it gives no number for; None: there is none."""

    engine: Engine
    open_exact: Callable[[], Engine | None] = lambda: None


@dataclass(frozen=True, slots=True)
class _ImageScore:
    """What one image got: `scores` of shapes [1,C] and [1,C,h,w]. `is_exact`: from the twin, in FP32."""

    scores: Scores
    is_exact: bool = False

    @property
    def is_number(self) -> bool:
        return bool(np.isfinite(self.scores.probabilities).all() and np.isfinite(self.scores.cams).all())


def score_studies(
    studies: Iterable[DecodedStudy], scorer: Scorer, settings: Settings, clock: StageClock
) -> Iterator[ScoredStudy]:
    """Score studies in full batches, several small studies together."""
    for group in _gather_images(studies, settings.batch_size):
        pixels = [image.pixels for study in group for _, image in study.images]
        with clock.measure("infer"):
            scores = _score_again(_infer(scorer.engine, pixels, settings.batch_size), pixels, scorer)
        first = 0
        for study in group:
            last = first + len(study.images)
            scored = _with_scores(study, scores[first:last], scorer.engine.description)
            yield _deidentified(scored) if settings.deidentify else scored
            first = last


def _gather_images(studies: Iterable[DecodedStudy], batch_size: int) -> Iterator[list[DecodedStudy]]:
    group: list[DecodedStudy] = []
    n_images = 0
    for study in studies:
        group.append(study)
        n_images += len(study.images)
        if n_images >= batch_size:
            yield group
            group, n_images = [], 0
    if group:
        yield group


def _infer(engine: Engine, pixels: list[Gray8], batch_size: int) -> list[_ImageScore]:
    scores: list[_ImageScore] = []
    for start in range(0, len(pixels), batch_size):
        batch = engine.infer(np.stack(pixels[start : start + batch_size]))
        scores += [
            _ImageScore(Scores(batch.probabilities[i : i + 1], batch.logits[i : i + 1], batch.cams[i : i + 1]))
            for i in range(len(batch.probabilities))
        ]
    return scores


def _score_again(scores: list[_ImageScore], pixels: list[Gray8], scorer: Scorer) -> list[_ImageScore]:
    """Let the exact twin score what the engine gave no number for: half precision and INT8 overflow, FP32 hardly."""
    if all(score.is_number for score in scores) or (exact := scorer.open_exact()) is None:
        return scores
    log_event("scored again in FP32", images=sum(not score.is_number for score in scores))
    return [
        score if score.is_number else _ImageScore(exact.infer(image[np.newaxis]), is_exact=True)
        for score, image in zip(scores, pixels, strict=True)
    ]


def _with_scores(study: DecodedStudy, scores: list[_ImageScore], engine: EngineDescription) -> ScoredStudy:
    results: list[ImageResult] = []
    pixels: list[ImagePixels] = []
    refused = list(study.refused)
    for (path, image), score in zip(study.images, scores, strict=True):
        if not score.is_number:
            refused.append(RefusedImage(path, "failed", "", "the engine gave no number for this image"))
            continue
        radiograph = image.radiograph
        flags = (*radiograph.flags, Flag.RESCORED_FP32) if score.is_exact else radiograph.flags
        probabilities = tuple(float(probability) for probability in score.scores.probabilities[0])
        results.append(ImageResult(path, radiograph.header, flags, probabilities, radiograph.stored_sha256))
        pixels.append(ImagePixels(radiograph.display, score.scores.cams[0], image.geometry))
    result = _study_result(study.task, engine, results, refused) if results else None
    return ScoredStudy(study.task, tuple(refused), result, tuple(pixels))


def _deidentified(study: ScoredStudy) -> ScoredStudy:
    return replace(study, result=replace(study.result, deidentified=True)) if study.result else study


def _study_result(
    task: StudyTask, engine: EngineDescription, images: list[ImageResult], refused: list[RefusedImage]
) -> StudyResult:
    scored = {image.path for image in images}
    return StudyResult(
        study_key=task.study_key,
        revision=task.revision,
        engine=engine,
        images=tuple(images),
        refused=tuple(refused),
        scored_at=now_text(),
        cxrbatch_version=__version__,
        files=tuple(replace(file, header=None) if file.path in scored else file for file in task.sources),
    )
