"""How far two engines agree about the same images, and whether that is near enough. Start at `compare_scores`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbatch.engine.contract import Engine, join_scores
from cxrbatch.engine.embedding_agreement import embedding_change
from cxrbatch.engine.manifest import ParityFigures
from cxrbatch.errors import EngineError
from cxrbatch.records import Float32, Gray8, Label, Scores, VerdictRule, likeliest_class

# Rows of the table of the worst images that a refusal shows.
_WORST = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an engine may be from its reference; None: as far as it likes.

    `change`: of any probability. `p99`: of 99 in 100. `heatmap`: the Pearson correlation that 99 in 100 heatmaps
    reach at least. `flips`: the share of verdicts that differ, of which one always may. `embedding`: of an embedding's
    length.
    """

    change: float
    p99: float | None = None
    heatmap: float | None = None
    flips: float | None = None
    embedding: float | None = None


UNLIKE_LIMIT = 0.02
"""The largest share of images that may come to lie on the other side of the threshold of their distance."""

FP16_LIMITS = Limits(change=5e-3, p99=2.5e-3, heatmap=0.99, flips=0.01, embedding=0.02)
"""What half precision may change. Of the demo engine's heatmaps on 64 phantoms none correlates by less than 0.9999,
and no embedding of 32 changes by more than 0.0026 of its length."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two engines' probabilities of the same images, both float32 [N,C], and what follows from them.

    `flipped` is bool [N,C]: the verdicts differ by `rule`. `correlations` are of heatmaps, float64 [M], M <= N*C.
    `disagreement_change` is the largest one of an ensemble's disagreement, `distance_change` of the distance to the
    training images, `unlike_flips` how many images only one calls unlike those; `embedding_change` is that of an
    embedding, as a share of its length; None where none is told.
    """

    labels: tuple[Label, ...]
    rule: VerdictRule
    answered: Float32
    reference: Float32
    flipped: NDArray[np.bool_]
    correlations: NDArray[np.float64]
    disagreement_change: float | None = None
    distance_change: float | None = None
    unlike_flips: int = 0
    embedding_change: float | None = None

    @property
    def change(self) -> Float32:
        """Absolute change of each probability, float32 [N,C]."""
        change: Float32 = np.abs(self.answered - self.reference)
        return change

    @property
    def farthest_flip(self) -> float:
        """By how much the reference would have to change for the verdicts that differ; 0 where none does."""
        distance = _distance_to_other_verdict(self.reference, self.labels, self.rule)
        return float(np.max(distance[self.flipped], initial=0.0))

    @property
    def verdicts(self) -> int:
        """How many verdicts there are: a label without an operating point has none."""
        return len(self.answered) * sum(label.operating_point is not None for label in self.labels)

    def figures(self, source: str, limits: Limits, device: str = "") -> ParityFigures:
        """Return the figures that engine.json keeps."""
        # Without interpolation: between infinite changes there is no number.
        lowest, p01 = (
            float(np.quantile(self.correlations, at, method="lower")) if self.correlations.size else None
            for at in (0, 0.01)
        )
        return ParityFigures(
            images=len(self.answered),
            source=source,
            max_probability_change=float(self.change.max()),
            mean_probability_change=float(self.change.mean()),
            limit=limits.change,
            heatmap_correlation=lowest,
            decision_flips=int(self.flipped.sum()),
            farthest_flip=self.farthest_flip,
            device=device,
            verdicts=self.verdicts,
            p99_probability_change=float(np.quantile(self.change, 0.99, method="higher")),
            p99_limit=limits.p99,
            heatmap_p01=p01,
            heatmap_limit=limits.heatmap,
            flip_limit=limits.flips,
            max_disagreement_change=self.disagreement_change,
            max_distance_change=self.distance_change,
            unlike_flips=self.unlike_flips,
            max_embedding_change=self.embedding_change,
            embedding_limit=None if self.embedding_change is None else limits.embedding,
        )


def compare_scores(answered: Scores, reference: Scores, labels: tuple[Label, ...], rule: VerdictRule) -> Agreement:
    """Compare what an engine answered with what the reference says of the same images.

    Args:
        answered: by the engine.
        reference: what it should be.
        labels: of both.
        rule: how probabilities become verdicts.

    Raises:
        EngineError: the two do not even have the same shapes.
    """
    if answered.probabilities.shape != reference.probabilities.shape or answered.cams.shape != reference.cams.shape:
        raise EngineError(
            f"the engine answers {list(answered.probabilities.shape)} probabilities and cams of "
            f"{list(answered.cams.shape)}; its reference {list(reference.probabilities.shape)} and "
            f"{list(reference.cams.shape)}"
        )
    distance_change, unlike_flips = _compare_distances(answered, reference)
    return Agreement(
        labels=labels,
        rule=rule,
        answered=answered.probabilities,
        reference=reference.probabilities,
        flipped=_calls(answered.probabilities, labels, rule) != _calls(reference.probabilities, labels, rule),
        correlations=correlate_maps(answered.cams, reference.cams),
        disagreement_change=_disagreement_change(answered, reference),
        distance_change=distance_change,
        unlike_flips=unlike_flips,
        embedding_change=embedding_change(answered, reference),
    )


def _disagreement_change(answered: Scores, reference: Scores) -> float | None:
    """Return the largest change; one that only one of the two gives is no agreement at all.

    A gate that waits in a bundle may be of a version that kept no disagreement: then there is nothing to compare.
    """
    if reference.disagreement is None:
        return None
    if answered.disagreement is None:
        raise EngineError("the engine gives no disagreement of its members; its reference does")
    return float(np.abs(answered.disagreement - reference.disagreement).max(initial=0.0))


def _compare_distances(answered: Scores, reference: Scores) -> tuple[float | None, int]:
    """Return the largest change of the distance to the training images, and how many images change sides by it."""
    if reference.distance is None:
        return None, 0
    if answered.distance is None:
        raise EngineError("the engine gives no distance to its training images; its reference does")
    flips = np.count_nonzero((answered.distance > 1) != (reference.distance > 1))
    return float(np.abs(answered.distance - reference.distance).max(initial=0.0)), int(flips)


def refuse_disagreement(agreement: Agreement, figures: ParityFigures, engine: str, consequence: str) -> None:
    """Let an engine pass whose scores are numbers, and within the limits of the reference's.

    A verdict may differ only where a change of the reference within the limit would have changed it.

    Args:
        agreement: of the engine with its reference.
        figures: of this comparison, with the limit.
        engine: which engine, in words.
        consequence: what is done about it, and what helps, such as "it was not installed".

    Raises:
        EngineError: it does not pass; the message ends with a table of the images that are farthest off.
    """
    fault = _find_fault(agreement, figures)
    if fault is not None:
        what, limit = fault
        table = "\n".join(_worst_rows(agreement))
        raise EngineError(
            f"{engine}: {what} (limit {limit:g}, {figures.images} {figures.source}); {consequence}.\n{table}"
        )


def _find_fault(agreement: Agreement, figures: ParityFigures) -> tuple[str, float] | None:
    """Return what is wrong and the limit that it breaks; None where nothing is."""
    if not np.isfinite(agreement.answered).all():
        return "NaN or Inf in its scores", figures.limit
    return next(_faults(figures), None)


def _faults(figures: ParityFigures) -> Iterator[tuple[str, float]]:
    worst, p99 = figures.max_probability_change, figures.p99_probability_change
    if worst > figures.limit:
        yield f"its probabilities differ from the checkpoint's by up to {worst:.2g}", figures.limit
    members = figures.max_disagreement_change
    # Not `members > limit`: what is no number is no agreement.
    if members is not None and not members <= figures.limit:
        yield f"its members' disagreement differs from the checkpoint's by up to {members:.2g}", figures.limit
    if figures.farthest_flip > figures.limit:
        yield f"a verdict changes {figures.farthest_flip:.2g} from where it may", figures.limit
    if figures.p99_limit is not None and p99 is not None and p99 > figures.p99_limit:
        yield f"one probability in a hundred differs from the checkpoint's by {p99:.2g} or more", figures.p99_limit
    flips, limit = figures.decision_flips, figures.flip_limit
    if limit is not None and too_many_flips(flips, figures.verdicts, limit):
        yield f"{flips} of {figures.verdicts} verdicts differ from the checkpoint's", limit
    yield from _faults_of_distances(figures)
    embedding, limit = figures.max_embedding_change, figures.embedding_limit
    # Not `embedding > limit`: what is no number is no agreement.
    if embedding is not None and limit is not None and not embedding <= limit:
        yield f"its embeddings differ from the checkpoint's by up to {embedding:.2g} of their length", limit
    heatmap, limit = figures.heatmap_p01, figures.heatmap_limit
    # Not `heatmap < limit`: a correlation that is no number is no agreement.
    if limit is not None and heatmap is not None and not heatmap >= limit:
        yield f"one heatmap in a hundred correlates with the checkpoint's by {heatmap:.3f} or less", limit


def _faults_of_distances(figures: ParityFigures) -> Iterator[tuple[str, float]]:
    change, flips = figures.max_distance_change, figures.unlike_flips
    if change is not None and not np.isfinite(change):
        yield "NaN or Inf in its distances to the training images", figures.limit
    if too_many_flips(flips, figures.images, UNLIKE_LIMIT):
        yield f"{flips} images are unlike the training images for only one of the two", UNLIKE_LIMIT


def too_many_flips(flips: int, verdicts: int, limit: float) -> bool:
    """Tell whether more than the share `limit` of the verdicts differ; one is never too many."""
    return flips > max(1.0, limit * verdicts)


def infer_in_batches(engine: Engine, pixels: Gray8, size: int) -> Scores:
    """Score uint8 [N,1,S,S] in batches of at most `size`."""
    return join_scores([engine.infer(pixels[start : start + size]) for start in range(0, len(pixels), size)])


def correlate_maps(answered: Float32, reference: Float32) -> NDArray[np.float64]:
    """Return the Pearson correlations of two sets of maps, both [N,C,h,w], map by map: float64 [M].

    Maps that are flat in the reference (their deviation is below a thousandth of the largest map's) have
    nothing to correlate and are left out.
    """
    first, second = (
        maps.reshape(-1, maps.shape[2] * maps.shape[3]).astype(np.float64) for maps in (answered, reference)
    )
    first, second = (maps - maps.mean(axis=1, keepdims=True) for maps in (first, second))
    deviation = second.std(axis=1)
    kept = deviation > 1e-3 * deviation.max(initial=0.0)
    first, second = first[kept], second[kept]
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    # A map that the engine made flat has norm 0: no correlation at all.
    correlations: NDArray[np.float64] = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return correlations


def _calls(probabilities: Float32, labels: tuple[Label, ...], rule: VerdictRule) -> NDArray[np.bool_]:
    """Return who is called, bool [N,C]; a label that nobody may judge is not."""
    if rule == "threshold":
        return np.asarray(probabilities >= _operating_points(labels), np.bool_)
    winners = [likeliest_class(labels, row) for row in probabilities.tolist()]
    is_judged = [label.operating_point is not None for label in labels]
    return np.array([[place == winner for place in range(len(labels))] for winner in winners], np.bool_) & is_judged


def _distance_to_other_verdict(reference: Float32, labels: tuple[Label, ...], rule: VerdictRule) -> Float32:
    """Return by how much probabilities must change for another verdict, float32 [N,C].

    To the operating point; between classes half the way to the likeliest other one, since both may change.
    """
    if rule == "threshold":
        return np.asarray(np.abs(reference - _operating_points(labels)), np.float32)
    others = [np.delete(reference, place, axis=1).max(axis=1) for place in range(len(labels))]
    return np.asarray(np.abs(reference - np.stack(others, axis=1)) / 2, np.float32)


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
