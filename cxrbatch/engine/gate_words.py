"""What the gate of a build measured, in words: how far each file is from the checkpoint, as the model card tells it."""

from __future__ import annotations

from collections.abc import Iterator

from cxrbatch.engine.manifest import PENDING, AccuracyFigures, Manifest, ParityFigures
from cxrbatch.pages.markdown_text import plain


def gate_lines(manifest: Manifest) -> Iterator[str]:
    """Yield the lines of the section: how far each file is from the checkpoint, and what that costs."""
    yield from ("", "## Against its checkpoint (PyTorch, FP32)", "")
    for role, figures in manifest.parity.items():
        if figures == PENDING:
            yield f"- {plain(role)}: pending; the first machine that loads it compares, and writes the result here"
        else:
            yield f"- {plain(role)}: {_in_words(role, figures)}"
    for role, accuracy in manifest.accuracy.items():
        yield f"- {plain(role)}: {_loss_in_words(accuracy)}"


def _loss_in_words(accuracy: AccuracyFigures) -> str:
    worst = f"{accuracy.worst_drop:.4f}" + (f" ({plain(accuracy.worst_label)})" if accuracy.worst_label else "")
    worst_limit = "" if accuracy.worst_limit is None else f", limit {accuracy.worst_limit:g}"
    verdicts = _flips_in_words(accuracy.decision_flips, accuracy.verdicts, accuracy.flip_limit)
    return (
        f"mean AUROC {accuracy.auroc:.4f} beside {accuracy.auroc_reference:.4f}, limit of its drop {accuracy.limit:g}; "
        f"largest drop of one label {worst}{worst_limit}; {verdicts}, on {accuracy.images} {plain(accuracy.source)}"
    )


def _in_words(role: str, figures: ParityFigures) -> str:
    p99, p99_limit = figures.p99_probability_change, figures.p99_limit
    most = "" if p99 is None else f", of 99 in 100 {p99:.1e}" + ("" if p99_limit is None else f" (limit {p99_limit:g})")
    device = f"; on {plain(figures.device)}" if figures.device else ""
    # The first versions counted the verdicts of all files but the INT8 one, for which they wrote 0 as well.
    counted = figures.verdicts or role != "onnx_int8"
    verdicts = _flips_in_words(figures.decision_flips, figures.verdicts, figures.flip_limit, counted=bool(counted))
    return (
        f"largest change of a probability {figures.max_probability_change:.1e} (limit {figures.limit:g}){most}, mean "
        f"{figures.mean_probability_change:.1e}, on {figures.images} {plain(figures.source)}"
        f"{device}; {verdicts}{_heatmaps_in_words(figures)}{_members_in_words(figures)}"
        f"{_distances_in_words(figures)}{_embeddings_in_words(figures)}"
    )


def _members_in_words(figures: ParityFigures) -> str:
    change = figures.max_disagreement_change
    return "" if change is None else f"; largest change of the members' disagreement {change:.1e}"


def _distances_in_words(figures: ParityFigures) -> str:
    change = figures.max_distance_change
    if change is None:
        return ""
    return f"; largest change of a distance to the training images {change:.1e}, {figures.unlike_flips} change sides"


def _embeddings_in_words(figures: ParityFigures) -> str:
    change, limit = figures.max_embedding_change, figures.embedding_limit
    within = "" if limit is None else f" (limit {limit:g})"
    return "" if change is None else f"; largest change of an embedding {change:.1e} of its length{within}"


def _flips_in_words(flips: int, verdicts: int, limit: float | None, *, counted: bool = False) -> str:
    if not verdicts:
        return f"{flips} verdicts differ" if counted else "verdicts that differ were not counted"
    return f"{flips} of {verdicts} verdicts differ" + ("" if limit is None else f" (limit {limit:.1%})")


def _heatmaps_in_words(figures: ParityFigures) -> str:
    lowest, p01, limit = figures.heatmap_correlation, figures.heatmap_p01, figures.heatmap_limit
    if lowest is None:
        return ""
    most = "" if p01 is None else f", of 99 in 100 {p01:.4f}" + ("" if limit is None else f" (limit {limit:g})")
    return f"; lowest correlation of a heatmap {lowest:.4f}{most}"
