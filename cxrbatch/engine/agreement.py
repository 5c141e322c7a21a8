"""How far two engines agree about the same images, and the gate of a plan that nobody has run on this GPU yet.

A plan for a workstation may be built on a machine without a GPU, and one plan may run on several models. What the
gate compares is therefore kept in the bundle: phantoms, never a patient's image, and what the PyTorch reference says
of them. A machine whose GPU, or TensorRT, is not the one that was compared last compares before it scores anything
(`settle_parity`), and writes the figures into engine.json and the model card.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cxrbatch.engine.bundle import EngineBundle, load_bundle, save_bundle
from cxrbatch.engine.contract import Engine, join_scores
from cxrbatch.engine.manifest import PENDING, ParityFigures
from cxrbatch.engine.model_card import MODEL_CARD, write_model_card
from cxrbatch.errors import EngineError
from cxrbatch.records import Float32, Gray8, Label, Scores
from cxrbatch.system import durable

PARITY_ROLE = "parity_images"
PARITY_FILE = "parity.npz"
TORCH_ROLE = "torch_fp16"
"""Where engine.json keeps how far the FP16 graph is from the reference when torch runs it on a GPU: in other kernels
than ONNX Runtime, which the build compared, and with other roundings."""

# What numpy and its zip file raise over bytes that are not what they claim to be.
_DAMAGE = (ValueError, KeyError, TypeError, OSError, EOFError, MemoryError, BadZipFile, zlib.error, NotImplementedError)
# Rows of the table of the worst images that a refusal shows.
_WORST = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an engine may be from its reference; None: as far as it likes.

    `change`: of any probability. `p99`: of 99 in 100. `heatmap`: the Pearson correlation that 99 in 100 heatmaps
    reach at least. `flips`: the share of verdicts that differ, of which one always may.
    """

    change: float
    p99: float | None = None
    heatmap: float | None = None
    flips: float | None = None


FP16_LIMITS = Limits(change=5e-3, p99=2.5e-3, heatmap=0.99, flips=0.01)
"""What half precision may change. Of the demo engine's heatmaps on 64 phantoms none correlates by less than 0.9999."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two engines' probabilities of the same images, both float32 [N,C], and what follows from them.

    `flipped` is bool [N,C]: the verdicts differ. `correlations` are those of the heatmaps, float64 [M], M <= N*C.
    """

    labels: tuple[Label, ...]
    answered: Float32
    reference: Float32
    flipped: NDArray[np.bool_]
    correlations: NDArray[np.float64]

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
        correlations=correlate_maps(answered.cams, reference.cams),
    )


def refuse_disagreement(agreement: Agreement, figures: ParityFigures, engine: str, consequence: str) -> None:
    """Let an engine pass whose scores are numbers, and within the limits of the reference's.

    A verdict may differ only where the reference itself is within the limit of its operating point.

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
    if figures.farthest_flip > figures.limit:
        yield f"a verdict changes {figures.farthest_flip:.2g} from its operating point", figures.limit
    if figures.p99_limit is not None and p99 is not None and p99 > figures.p99_limit:
        yield f"one probability in a hundred differs from the checkpoint's by {p99:.2g} or more", figures.p99_limit
    flips, limit = figures.decision_flips, figures.flip_limit
    if limit is not None and too_many_flips(flips, figures.verdicts, limit):
        yield f"{flips} of {figures.verdicts} verdicts differ from the checkpoint's", limit
    heatmap, limit = figures.heatmap_p01, figures.heatmap_limit
    # Not `heatmap < limit`: a correlation that is no number is no agreement.
    if limit is not None and heatmap is not None and not heatmap >= limit:
        yield f"one heatmap in a hundred correlates with the checkpoint's by {heatmap:.3f} or less", limit


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


@dataclass(frozen=True, slots=True)
class DeferredGate:
    """Images for the gate, uint8 [N,1,S,S], what the reference says of them, and how far an engine may be off."""

    pixels: Gray8
    reference: Scores
    source: str
    limit: float

    @property
    def limits(self) -> Limits:
        """All limits: what was built before the others were asked for is held to them, too."""
        return replace(FP16_LIMITS, change=self.limit)


def save_gate(path: Path, gate: DeferredGate) -> None:
    """Write the gate to `path`, a compressed .npz without any pickled object."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        pixels=gate.pixels,
        probabilities=gate.reference.probabilities,
        logits=gate.reference.logits,
        cams=gate.reference.cams,
        source=np.array(gate.source),
        limit=np.array(gate.limit),
    )
    durable.replace_bytes(path, content.getvalue())


def load_gate(bundle: EngineBundle) -> DeferredGate:
    """Read the gate of a bundle; nothing in the file is ever executed.

    Raises:
        EngineError: missing, not the file that was built, or damaged.
    """
    content = bundle.read_verified(PARITY_ROLE)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            reference = Scores(arrays["probabilities"], arrays["logits"], arrays["cams"])
            return DeferredGate(arrays["pixels"], reference, str(arrays["source"]), float(arrays["limit"]))
    except _DAMAGE as error:
        where = bundle.folder / bundle.file(PARITY_ROLE).path
        raise EngineError(f"{where}: cannot be read: {error}. {bundle.mend}") from error


def is_unproven(bundle: EngineBundle, role: str, device: str) -> bool:
    """Tell whether the role has yet to be compared on `device`, and the bundle holds what it takes."""
    figures = bundle.manifest.parity.get(role)
    if figures == PENDING:
        return True
    if figures is None:
        # Of a plan the build says at least that it is pending.
        return role == TORCH_ROLE and PARITY_ROLE in bundle.manifest.files
    return figures.device != device and PARITY_ROLE in bundle.manifest.files


def settle_parity(bundle: EngineBundle, role: str, engine: Engine, *, device: str) -> EngineBundle:
    """Run the gate on this machine, and write the figures into engine.json and the model card.

    Args:
        bundle: where the files lie.
        role: a plan's, or `TORCH_ROLE`.
        engine: it, opened.
        device: what it runs on, for engine.json.

    Raises:
        EngineError: it disagrees with its checkpoint, and is not used.
    """
    log.info("engine %s: comparing its %s with its checkpoint first, on %s", bundle.name, role, device)
    gate = load_gate(bundle)
    comparison = compare_scores(infer_in_batches(engine, gate.pixels, 8), gate.reference, bundle.labels)
    figures = comparison.figures(gate.source, gate.limits, device)
    description = engine.description
    refuse_disagreement(
        comparison,
        figures,
        f"engine {bundle.name} ({description.backend}, {device})",
        "it is not used. Run it in FP32, with --backend onnxruntime",
    )
    # What engine.json says now: another process may have settled another plan in the meantime.
    manifest = load_bundle(bundle.folder).manifest
    settled = EngineBundle(bundle.folder, replace(manifest, parity={**manifest.parity, role: figures}))
    try:
        write_model_card(settled.folder / MODEL_CARD, settled.manifest)
        return save_bundle(settled.folder, settled.manifest)
    except OSError as error:
        log.warning("%s: cannot be written (%s); the next run compares again", bundle.folder, error.strerror)
        return settled
