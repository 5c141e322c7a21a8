"""The one function that every backend is, from uint8 pixels to `Scores`; docs/design.md has the graph contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from cxrbatch.errors import EngineError
from cxrbatch.records import EngineDescription, ExtraOutput, Float32, Gray8, Scores

INPUT = "pixels"
OUTPUTS = ("probabilities", "logits", "cams")
EXTRA_OUTPUTS: tuple[ExtraOutput, ...] = ("disagreement", "distance", "embedding")


def output_names(extra: Sequence[ExtraOutput]) -> tuple[str, ...]:
    """Return what a graph gives that has these outputs beyond those of the contract, in the order of all graphs."""
    return (*OUTPUTS, *(name for name in EXTRA_OUTPUTS if name in extra))


def output_shapes(description: EngineDescription) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of each output without N, by name; None for the sides of a map, and of an embedding."""
    classes = len(description.labels)
    shapes: dict[str, tuple[int | None, ...]] = {
        "probabilities": (classes,),
        "logits": (classes,),
        "cams": (classes, None, None),
        "disagreement": (classes,),
        "distance": (),
        "embedding": (None,),
    }
    return {name: shapes[name] for name in output_names(description.extra_outputs)}


def scores_from(answered: Mapping[str, Float32]) -> Scores:
    """Put arrays together that are named as the outputs are."""
    return Scores(
        answered["probabilities"],
        answered["logits"],
        answered["cams"],
        disagreement=answered.get("disagreement"),
        distance=answered.get("distance"),
        embedding=answered.get("embedding"),
    )


class Engine(Protocol):
    """An opened engine. Not for use by several threads at once."""

    @property
    def description(self) -> EngineDescription:
        """Which engine this is, where it runs and what it knows."""
        ...

    def infer(self, pixels: Gray8) -> Scores:
        """Score a batch.

        Args:
            pixels: uint8 [N,1,S,S], 0..255, display polarity; N may differ from call to call.

        Returns:
            Scores of N images, in their order. A graph that computes NaN or Inf for an image leaves it in
            that image's row: the caller turns such a row into a failed image, and keeps the others.

        Raises:
            EngineError: the shape or type is wrong, or the backend failed.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds; a second call does nothing."""
        ...


@runtime_checkable
class ComputesAlone(Protocol):
    """An engine on a device of its own that can leave the copies out, to tell what they cost (`cxrbatch bench`)."""

    def prepare_alone(self, pixels: Gray8) -> Callable[[], None]:
        """Copy uint8 [N,1,S,S] to the device; return what computes its scores there once, and waits."""
        ...


def require_pixels(pixels: Gray8, description: EngineDescription, where: str, *, at_least: int = 0) -> None:
    """Refuse what is no batch of the contract, or of fewer images; `where` names the engine or its file.

    Raises:
        EngineError: it is not uint8 [N,1,S,S] of the engine's side.
    """
    size = description.input.size_px
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (1, size, size) or len(pixels) < at_least:
        raise EngineError(f"{where}: takes uint8 [N,1,{size},{size}], got {pixels.dtype} {list(pixels.shape)}")


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Put the scores of consecutive batches together."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part.parts() for part in parts), strict=True)
    joined = (None if column[0] is None else np.concatenate(column) for column in columns)
    return Scores(*joined)  # type: ignore[arg-type]  # only the optional ones are None
