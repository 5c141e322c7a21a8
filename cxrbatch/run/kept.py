"""What a run keeps of its engine's answers as numbers: activation maps, embeddings, or neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cxrbatch.config import Settings
from cxrbatch.errors import UsageError
from cxrbatch.output.ledger.ledger import EMBEDDINGS, KEEPS, MAPS, Ledger
from cxrbatch.records import EngineDescription, ImagePixels
from cxrbatch.run.stages import ScoredStudy

_NO_DISPLAY = np.zeros((0, 0), np.uint8)


def check_kept(settings: Settings, engine: EngineDescription) -> None:
    """Refuse to keep what the engine does not give.

    Raises:
        UsageError: that is asked for.
    """
    if settings.keep_embeddings and "embedding" not in engine.extra_outputs:
        raise UsageError(
            f"--keep-embeddings: engine {engine.name} gives none. Build it with `cxrbatch build CHECKPOINT -n NAME "
            "--embeddings`, or leave the option out (setting: keep_embeddings)."
        )


def requeue_unkept(
    ledger: Ledger, settings: Settings, engine_sha256: str, told: Callable[[int], object] = lambda _: None
) -> str:
    """Queue what lacks what this run is to keep and the last one did not; return what `remember_kept` is to note.

    `told` is told, slice by slice, how many more studies wait.
    """
    before, wanted = ledger.fact(KEEPS).split(), ""
    if settings.keep_maps:
        wanted = MAPS
        if MAPS not in before:
            ledger.queue.requeue_without("maps", engine_sha256, told)
    if settings.keep_embeddings:
        wanted = f"{wanted} {EMBEDDINGS}".strip()
        if EMBEDDINGS not in before:
            ledger.queue.requeue_without("embeddings", engine_sha256, told)
    return wanted


def remember_kept(ledger: Ledger, kept: str) -> None:
    """Note what is kept from now on."""
    if ledger.fact(KEEPS) != kept:
        ledger.remember(KEEPS, kept)


def as_asked(study: ScoredStudy, settings: Settings) -> ScoredStudy:
    """Let the result say what may be printed and kept of it; pixels go on only where something is made of them."""
    if study.result is None:
        return study
    gives = settings.keep_embeddings and all(each.embedding is not None for each in study.pixels)
    result = replace(
        study.result,
        deidentified=settings.deidentify,
        pictures=settings.pictures,
        keeps_maps=settings.keep_maps,
        keeps_embeddings=gives,
    )
    if not settings.pictures and not result.keeps_arrays:
        return replace(study, result=result, pixels=())
    return replace(study, result=result, pixels=tuple(_wanted(each, settings) for each in study.pixels))


def _wanted(pixels: ImagePixels, settings: Settings) -> ImagePixels:
    """Leave out what only would travel."""
    if not settings.keep_embeddings:
        pixels = replace(pixels, embedding=None)
    return pixels if settings.pictures else replace(pixels, display=_NO_DISPLAY)
