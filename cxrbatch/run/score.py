"""The stage that scores studies, in this process: what an engine says of their images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from cxrbatch import __version__
from cxrbatch.config import Settings
from cxrbatch.engine.contract import Engine
from cxrbatch.errors import CxrBatchError, EngineError, Flag, Reason, error_name
from cxrbatch.output.ledger.attempts import failed_again
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.records import (
    EngineDescription,
    Float32,
    Gray8,
    ImagePixels,
    ImageResult,
    RefusedImage,
    Scores,
    StudyResult,
    now_text,
)
from cxrbatch.run.kept import as_asked
from cxrbatch.run.stages import DecodedStudy, ScoredStudy, StageClock
from cxrbatch.system.logbook import log_event

_BATCH_ON_CPU, _BATCH_ON_GPU = 4, 8


@dataclass(frozen=True, slots=True)
class Scorer:
    """An engine, and what opens its exact twin for the images that it gives no number for; None: there is none."""

    engine: Engine
    open_exact: Callable[[], Engine | None] = lambda: None


@dataclass(frozen=True, slots=True)
class ImageScore:
    """What one image got: `scores` of shapes [1,C] and [1,C,h,w]. `is_exact`: from the twin, in FP32."""

    scores: Scores
    is_exact: bool = False

    @property
    def is_number(self) -> bool:
        """Tell whether the engine gave a number for everything."""
        answered = (self.scores.probabilities, self.scores.cams, self.scores.distance, self.scores.embedding)
        return all(bool(np.isfinite(part).all()) for part in answered if part is not None)

    @property
    def distance(self) -> float | None:
        """How far the image lies from the training images, 1 at the threshold; None where the engine does not tell."""
        return None if self.scores.distance is None else float(self.scores.distance[0])

    @property
    def embedding(self) -> Float32 | None:
        """Its embedding, float32 [D], None where the engine gives none."""
        return None if self.scores.embedding is None else self.scores.embedding[0]

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What a reader must know about these scores."""
        unlike = self.distance is not None and self.distance > 1
        told = {Flag.RESCORED_FP32: self.is_exact, Flag.OUT_OF_DISTRIBUTION: unlike}
        return tuple(flag for flag, holds in told.items() if holds)


def score_studies(
    studies: Iterable[DecodedStudy], scorer: Scorer, settings: Settings, clock: StageClock
) -> Iterator[ScoredStudy]:
    """Score studies in full batches, several small studies together."""
    batch_size = images_per_call(settings, scorer.engine.description)
    for group in _gather_images(studies, batch_size):
        for scored in _score_group(group, scorer, batch_size, clock):
            yield as_asked(scored, settings)


def images_per_call(settings: Settings, engine: EngineDescription) -> int:
    """Return how many images the engine is to score at once: what is asked for, or what suits where it runs.

    On two cores a ResNet50 at 224 px in FP32 computes an eighth less per image in batches of 4 than of 8; a GPU is
    filled by more.
    """
    return settings.batch_size or (_BATCH_ON_CPU if engine.backend == "onnxruntime" else _BATCH_ON_GPU)


def score_pixels(scorer: Scorer, pixels: list[Gray8], batch_size: int) -> list[ImageScore]:
    """Score what the engine eats, uint8 [1,S,S] each, in batches; what it gives no number for goes to its twin."""
    return _score_again(_infer(scorer.engine, pixels, batch_size), pixels, scorer)


def _score_group(group: list[DecodedStudy], scorer: Scorer, batch_size: int, clock: StageClock) -> list[ScoredStudy]:
    """Score some studies together; where that fails, each by itself, so that one of them takes no other along."""
    try:
        with clock.measure("infer"):
            return _score_together(group, scorer, batch_size)
    except CxrBatchError:
        raise
    except Exception as error:  # noqa: BLE001  # one study
        if len(group) > 1:
            return [scored for study in group for scored in _score_group([study], scorer, batch_size, clock)]
        return [_unscorable(group[0], error, scorer.engine)]


def _score_together(group: list[DecodedStudy], scorer: Scorer, batch_size: int) -> list[ScoredStudy]:
    pixels = [image.pixels for study in group for _, image in study.images]
    scores = iter(score_pixels(scorer, pixels, batch_size))
    description = scorer.engine.description
    return [_with_scores(study, list(islice(scores, len(study.images))), description) for study in group]


def _unscorable(study: DecodedStudy, error: Exception, engine: Engine) -> ScoredStudy:
    """Say that a study could not be scored, unless that is the engine's fault.

    Raises:
        EngineError: the engine fails for anything.
    """
    size, name = engine.description.input.size_px, error_name(error)
    try:
        engine.infer(np.zeros((1, 1, size, size), np.uint8))
    except Exception:  # noqa: BLE001  # then it is not this study
        raise EngineError(f"engine {engine.description.name}: unexpected {name}. Run `cxrbatch doctor`.") from error
    log_event("scoring failed unexpectedly", level=logging.ERROR, study_key=study.task.study_key, error=name)
    failed = tuple(
        failed_again(
            path,
            Reason.UNEXPECTED_ERROR,
            f"unexpected {name} while scoring; please report it",
            failed_before=study.task.attempts.get(path, 0),
            engine_sha256=engine.description.sha256,
        )
        for path, _ in study.images
    )
    return ScoredStudy(study.task, (*study.refused, *failed), None, ())


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


def _infer(engine: Engine, pixels: list[Gray8], batch_size: int) -> list[ImageScore]:
    scores: list[ImageScore] = []
    for start in range(0, len(pixels), batch_size):
        batch = engine.infer(np.stack(pixels[start : start + batch_size]))
        scores += [ImageScore(batch.one(image)) for image in range(len(batch.probabilities))]
    return scores


def _score_again(scores: list[ImageScore], pixels: list[Gray8], scorer: Scorer) -> list[ImageScore]:
    """Let the exact twin score what the engine gave no number for: half precision and INT8 overflow, FP32 hardly."""
    if all(score.is_number for score in scores) or (exact := scorer.open_exact()) is None:
        return scores
    log_event("scored again in FP32", images=sum(not score.is_number for score in scores))
    return [
        score if score.is_number else ImageScore(exact.infer(image[np.newaxis]), is_exact=True)
        for score, image in zip(scores, pixels, strict=True)
    ]


def _with_scores(study: DecodedStudy, scores: list[ImageScore], engine: EngineDescription) -> ScoredStudy:
    results: list[ImageResult] = []
    pixels: list[ImagePixels] = []
    refused = list(study.refused)
    for (path, image), score in zip(study.images, scores, strict=True):
        if not score.is_number:
            refused.append(_without_number(path, study.task, engine))
            continue
        radiograph = image.radiograph
        spread = score.scores.disagreement
        results.append(
            ImageResult(
                path=path,
                header=radiograph.header,
                flags=(*radiograph.flags, *score.flags),
                probabilities=tuple(float(probability) for probability in score.scores.probabilities[0]),
                stored_sha256=radiograph.stored_sha256,
                distance=score.distance,
                disagreement=() if spread is None else tuple(float(each) for each in spread[0]),
                grey=round(float(image.pixels.mean()), 2),
            )
        )
        pixels.append(ImagePixels(radiograph.display, score.scores.cams[0], image.geometry, score.embedding))
    result = _study_result(study.task, engine, results, refused) if results else None
    if unlike := sum(image.is_unlike_training for image in results):
        log_event("unlike the training images", study_key=study.task.study_key, images=unlike)
    return ScoredStudy(study.task, tuple(refused), result, tuple(pixels))


def _without_number(path: str, task: StudyTask, engine: EngineDescription) -> RefusedImage:
    message, before = "the engine gave no number for this image", task.attempts.get(path, 0)
    return failed_again(path, Reason.UNEXPECTED_ERROR, message, failed_before=before, engine_sha256=engine.sha256)


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
