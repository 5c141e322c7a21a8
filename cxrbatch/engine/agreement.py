"""The arithmetic of the parity gate: how far two engines agree about the same images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbatch.engine.bundle import ParityFigures
from cxrbatch.engine.contract import Engine, join_scores
from cxrbatch.errors import EngineError
from cxrbatch.records import Float32, Gray8, Label, Scores

# Rows of the table of the worst images that a refusal shows.
_WORST = 8


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two engines' probabilities of the same images, both float32 [N,C], and what follows from them.

    `flipped` is bool [N,C]: the verdicts differ. `heatmap_correlation` as in `ParityFigures`.
    """

    labels: tuple[Label, ...]
    answered: Float32
    reference: Float32
    flipped: NDArray[np.bool_]
    heatmap_correlation: float | None

    @property
    def change(self) -> Float32:
        """Absolute change of each probability, float32 [N,C]."""
        change: Float32 = np.abs(self.answered - self.reference)
        return change

    @property
    def farthest_flip(self) -> float:
        """How far the reference is from the operating point where the verdict differs; 0 where none does."""
        points = _operating_points(self.labels)
        return float(np.max(np.abs(self.reference - points)[self.flipped], initial=0.0))

    def figures(self, source: str, limit: float, device: str = "") -> ParityFigures:
        """Return the figures that engine.json keeps."""
        return ParityFigures(
            images=len(self.answered),
            source=source,
            max_probability_change=float(self.change.max()),
            mean_probability_change=float(self.change.mean()),
            limit=limit,
            heatmap_correlation=self.heatmap_correlation,
            decision_flips=int(self.flipped.sum()),
            farthest_flip=self.farthest_flip,
            device=device,
        )


def compare_scores(answered: Scores, reference: Scores, labels: tuple[Label, ...]) -> Agreement:
    """Compare what an engine answered with what the reference says of the same images.

    Raises:
        EngineError: the two do not even have the same shapes.
    """
    if answered.probabilities.shape != reference.probabilities.shape or answered.cams.shape != reference.cams.shape:
        raise EngineError(
            f"the engine answers {list(answered.probabilities.shape)} probabilities and cams of "
            f"{list(answered.cams.shape)}; its reference {list(reference.probabilities.shape)} and "
            f"{list(reference.cams.shape)}"
        )
    points = _operating_points(labels)
    return Agreement(
        labels=labels,
        answered=answered.probabilities,
        reference=reference.probabilities,
        flipped=(answered.probabilities >= points) != (reference.probabilities >= points),
        heatmap_correlation=lowest_correlation(answered.cams, reference.cams),
    )


def refuse_disagreement(agreement: Agreement, figures: ParityFigures, engine: str, consequence: str) -> None:
    """Let an engine pass whose scores are numbers, and within the limit of the reference's.

    A verdict may differ only where the reference itself is within the limit of its operating point.

    Args:
        agreement: of the engine with its reference.
        figures: of this comparison, with the limit.
        engine: which engine, in words.
        consequence: what is done about it, such as "it was not installed".

    Raises:
        EngineError: it does not pass; the message ends with a table of the images that are farthest off.
    """
    what = ""
    if not np.isfinite(agreement.answered).all():
        what = "NaN or Inf in its scores"
    elif figures.max_probability_change > figures.limit:
        what = f"its probabilities differ from the checkpoint's by up to {figures.max_probability_change:.2g}"
    elif figures.farthest_flip > figures.limit:
        what = f"a verdict changes {figures.farthest_flip:.2g} from its operating point"
    if what:
        table = "\n".join(_worst_rows(agreement))
        raise EngineError(
            f"{engine}: {what} (limit {figures.limit:g}, {figures.images} {figures.source}); {consequence}.\n{table}"
        )


def infer_in_batches(engine: Engine, pixels: Gray8, size: int) -> Scores:
    """Score uint8 [N,1,S,S] in batches of at most `size`."""
    return join_scores([engine.infer(pixels[start : start + size]) for start in range(0, len(pixels), size)])


def lowest_correlation(answered: Float32, reference: Float32) -> float | None:
    """Return the lowest Pearson correlation of two sets of maps, both [N,C,h,w], map by map.

    Maps that are flat in the reference (their deviation is below a thousandth of the largest map's) have
    nothing to correlate and are left out; None where none is left.
    """
    first, second = (
        maps.reshape(-1, maps.shape[2] * maps.shape[3]).astype(np.float64) for maps in (answered, reference)
    )
    first, second = (maps - maps.mean(axis=1, keepdims=True) for maps in (first, second))
    deviation = second.std(axis=1)
    kept = deviation > 1e-3 * deviation.max(initial=0.0)
    if not kept.any():
        return None
    first, second = first[kept], second[kept]
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    # A map that the engine made flat has norm 0: no correlation at all.
    return float(np.divide(products, norms, out=np.zeros_like(products), where=norms > 0).min())


def _operating_points(labels: tuple[Label, ...]) -> Float32:
    # A label without an operating point has no verdict: no probability reaches infinity.
    return np.array(
        [np.inf if label.operating_point is None else label.operating_point for label in labels], np.float32
    )


def _worst_rows(agreement: Agreement) -> Iterator[str]:
    yield f"  {'image':>5}  {'finding':<24} {'reference':>9} {'engine':>9} {'change':>9}  verdict"
    # What is no number comes first.
    change = np.nan_to_num(agreement.change, nan=np.inf)
    for place in np.argsort(-change, axis=None)[:_WORST]:
        image, label = np.unravel_index(place, change.shape)
        verdict = "differs" if agreement.flipped[image, label] else "same"
        yield (
            f"  {image:>5}  {agreement.labels[label].name[:24]:<24} {agreement.reference[image, label]:>9.4f} "
            f"{agreement.answered[image, label]:>9.4f} {agreement.change[image, label]:>9.4f}  {verdict}"
        )
